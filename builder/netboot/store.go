package netboot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/builder/kv"
)

// Files in the state folder.
const (
	entriesFile = "state.db"    // node states, leases, claims
	leasesFile  = "leases.json" // leases of earlier versions of this program
	nodesFile   = "nodes.json"  // node states of earlier versions
	// elsewhereFile says where those are that servers share, so that nobody begins anew by forgetting to say it.
	elsewhereFile = "store"
)

// maxStored bounds a stored file in bytes.
const maxStored = 256 << 20

// store is the state folder. One server at a time may use it.
type store struct {
	dir  string
	root *os.Root
	lock *os.File
}

// openStore makes the folder if it isn't there and takes its lock.
func openStore(dir string) (*store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot keep states: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot keep states: %w", err)
	}
	lock, err := root.Open(".")
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	s := &store{dir: dir, root: root, lock: lock}
	if err != nil {
		s.close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another boot server uses the folder (stop it, or give this one another)")
		}
		return nil, fmt.Errorf("cannot keep states in %s: %w", dir, err)
	}
	return s, nil
}

func (s *store) close() {
	if s == nil {
		return
	}
	if s.lock != nil {
		s.lock.Close()
	}
	s.root.Close()
}

// elsewhere notes that what the folder would keep is kept in another place, which other servers use too.
func (s *store) elsewhere(place string) error {
	if _, err := s.root.Stat(entriesFile); err == nil {
		return fmt.Errorf("cannot keep states in %s: %s has those of a server that was alone (move it away; what it held, claims and leases, is not taken over)", place, filepath.Join(s.dir, entriesFile))
	}
	if err := s.create(elsewhereFile, []byte(place+"\n")); err != nil {
		return fmt.Errorf("cannot write %s: %w", filepath.Join(s.dir, elsewhereFile), err)
	}
	return nil
}

// entries opens what the folder keeps in small entries, and takes over what an earlier version kept in a file.
func (s *store) entries() (kv.Store, error) {
	if place, err := s.root.ReadFile(elsewhereFile); err == nil {
		return nil, fmt.Errorf("cannot keep states in %s: they are in %s (start the boot server with --store, or remove %s to begin without them)",
			s.dir, strings.TrimSpace(string(place)), filepath.Join(s.dir, elsewhereFile))
	}
	entries, err := kv.OpenBolt(s.root, entriesFile)
	if err != nil {
		return nil, fmt.Errorf("cannot keep states: %w", err)
	}
	if err := s.takeOver(entries); err != nil {
		return nil, errors.Join(err, entries.Close())
	}
	return entries, nil
}

// takeOver moves what an earlier version kept in files.
func (s *store) takeOver(entries kv.Store) error {
	if err := s.takeOverLeases(entries); err != nil {
		return err
	}
	return s.takeOverStates(entries)
}

func (s *store) takeOverLeases(entries kv.Store) error {
	var earlier []Lease
	if err := s.read(leasesFile, &earlier); err != nil || earlier == nil {
		return err
	}
	var changes []kv.Change
	for _, lease := range earlier {
		if !lease.Address.IsValid() {
			continue
		}
		value, err := json.Marshal(lease)
		if err != nil {
			return fmt.Errorf("cannot take over %s: %w", leasesFile, err)
		}
		changes = append(changes, kv.Put(leaseKey+lease.Address.String(), value))
	}
	return s.moved(entries, leasesFile, changes)
}

func (s *store) takeOverStates(entries kv.Store) error {
	var earlier []NodeStatus
	if err := s.read(nodesFile, &earlier); err != nil || earlier == nil {
		return err
	}
	var changes []kv.Change
	for _, n := range earlier {
		mac, err := net.ParseMAC(n.MAC)
		if err != nil || len(mac) != 6 {
			continue
		}
		n.bound()
		value, err := encodeState(&n, 0)
		if err != nil {
			return fmt.Errorf("cannot take over %s: %w", nodesFile, err)
		}
		changes = append(changes, kv.Put(stateKey+mac.String(), value))
	}
	return s.moved(entries, nodesFile, changes)
}

// moved keeps entries of a file, which goes when they are in their new place: a kill on the way repeats it.
func (s *store) moved(entries kv.Store, name string, changes []kv.Change) error {
	if err := kv.Commit(entries, changes...); err != nil {
		return fmt.Errorf("cannot take over %s: %w", name, err)
	}
	return s.root.Remove(name)
}

// read reads a stored file; one that isn't there leaves out as it is. A file that can't be read is an error: it is not
// thrown away silently.
func (s *store) read(name string, out any) error {
	file, err := s.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		defer file.Close()
		err = readJSON(file, out)
	}
	if err != nil {
		path := filepath.Join(s.dir, name)
		return fmt.Errorf("cannot read %s: %w (to start without what it holds, remove it)", path, err)
	}
	return nil
}

func readJSON(r io.Reader, out any) error {
	text, err := io.ReadAll(io.LimitReader(r, maxStored+1))
	if err != nil {
		return err
	}
	if len(text) > maxStored {
		return fmt.Errorf("over %d bytes", maxStored)
	}
	return json.Unmarshal(text, out)
}

// create writes a file.
func (s *store) create(name string, content []byte) error {
	file, err := s.root.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Sync(), file.Close())
}
