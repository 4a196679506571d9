package nodes

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Snapshot is a checked snapshot of etcd.
type Snapshot struct {
	File   string `json:"file"`
	Size   int64  `json:"size"`   // bytes, with the SHA-256 at the end
	SHA256 string `json:"sha256"` // of the database, as etcd said it
	// Revision is etcd's newest in it, Keys how many keys there are at that revision, without those deleted.
	Revision int64 `json:"revision"`
	Keys     int   `json:"keys"`
}

// EtcdSnapshot takes a snapshot of the node's etcd into a file (mode 0600), which appears whole and checked or not at all.
func (c *Client) EtcdSnapshot(ctx context.Context, file string) (Snapshot, error) {
	answer, err := c.get(ctx, bootspec.RouteEtcdSnapshot, nil)
	if err != nil {
		return Snapshot{}, err
	}
	defer answer.Body.Close()
	fail := func(err error) (Snapshot, error) {
		return Snapshot{}, fmt.Errorf("cannot take a snapshot of etcd on %s: %w", c.name, err)
	}
	beside, err := os.CreateTemp(filepath.Dir(file), ".etcd-snapshot-*") // 0600
	if err != nil {
		return fail(err)
	}
	defer os.Remove(beside.Name()) // gone already when it was renamed
	_, err = io.Copy(beside, answer.Body)
	if err := errors.Join(err, beside.Sync(), beside.Close()); err != nil {
		return fail(err)
	}
	s, err := CheckSnapshot(beside.Name())
	if err != nil {
		return fail(err)
	}
	if err := os.Rename(beside.Name(), file); err != nil {
		return fail(err)
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return fail(err)
	}
	s.File = file
	return s, errors.Join(dir.Sync(), dir.Close())
}

// lockLimit bounds the wait for a file that another program has open.
const lockLimit = 5 * time.Second

const (
	etcdAlign = 512        // a snapshot is a whole number of these, and the SHA-256
	boltMagic = 0xED0CDAED // of a bbolt meta page, at byte 16 (go.etcd.io/bbolt, page.go and db.go)
)

// CheckSnapshot reads a snapshot file: it is whole when its last 32 bytes are the SHA-256 of all before, as etcd writes
// (etcdutl snapshot restore checks the same), and the database in it holds together.
func CheckSnapshot(file string) (Snapshot, error) {
	f, err := os.Open(file)
	if err != nil {
		return Snapshot{}, fmt.Errorf("cannot check snapshot: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Snapshot{}, fmt.Errorf("cannot check snapshot: %w", err)
	}
	s, err := checkSnapshot(f, st.Size())
	if err != nil {
		return s, err
	}
	s.File = file
	if s.Revision, s.Keys, err = readDatabase(file); err != nil {
		return s, fmt.Errorf("the snapshot's database is wrong: %w", err)
	}
	return s, nil
}

// readDatabase checks the pages of a bbolt database and reads etcd's newest revision and number of keys.
func readDatabase(file string) (revision int64, keys int, err error) {
	defer func() {
		if p := recover(); p != nil { // bbolt trusts its pages
			err = fmt.Errorf("%v", p)
		}
	}()
	db, err := bbolt.Open(file, 0, &bbolt.Options{ReadOnly: true, Timeout: lockLimit})
	if err != nil {
		return 0, 0, err
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		var faults []error
		for fault := range tx.Check() {
			if len(faults) < 10 {
				faults = append(faults, fault)
			}
		}
		if len(faults) > 0 {
			return errors.Join(faults...)
		}
		bucket := tx.Bucket([]byte("key"))
		if bucket == nil {
			return errors.New("it has no keys of etcd's")
		}
		revision, keys, err = countKeys(bucket)
		return err
	})
	return revision, keys, err
}

// countKeys reads etcd's bucket of revisions: the key is the revision (8 bytes, '_', 8 bytes, and 't' where a key was deleted,
// etcd server/storage/mvcc/revision.go), the value a mvccpb.KeyValue, whose first field is the key.
func countKeys(bucket *bbolt.Bucket) (revision int64, keys int, err error) {
	alive := map[string]bool{}
	err = bucket.ForEach(func(k, v []byte) error {
		if len(k) < 17 || k[8] != '_' {
			return fmt.Errorf("%x is not a revision", k)
		}
		revision = max(revision, int64(binary.BigEndian.Uint64(k)))
		length, n := uint64(0), 0
		if len(v) > 1 && v[0] == 1<<3|2 {
			length, n = binary.Uvarint(v[1:])
		}
		if n <= 0 || length > uint64(len(v)-1-n) {
			return fmt.Errorf("revision %x has no key", k)
		}
		name := string(v[1+n : 1+n+int(length)])
		if len(k) == 18 && k[17] == 't' {
			delete(alive, name)
		} else {
			alive[name] = true
		}
		return nil
	})
	return revision, len(alive), err
}

func checkSnapshot(r io.ReaderAt, size int64) (Snapshot, error) {
	database := size - sha256.Size
	if database < etcdAlign || database%etcdAlign != 0 {
		return Snapshot{}, fmt.Errorf("it is no whole snapshot of etcd: %d bytes can't be a database and its SHA-256", size)
	}
	var head [20]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return Snapshot{}, err
	}
	if binary.LittleEndian.Uint32(head[16:]) != boltMagic {
		return Snapshot{}, errors.New("it is no snapshot of etcd: it doesn't begin as a database")
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(r, 0, database)); err != nil {
		return Snapshot{}, err
	}
	var said [sha256.Size]byte
	if _, err := r.ReadAt(said[:], database); err != nil && !errors.Is(err, io.EOF) {
		return Snapshot{}, err
	}
	if string(sum.Sum(nil)) != string(said[:]) {
		return Snapshot{}, errors.New("the snapshot is damaged: its SHA-256 is not the one that etcd wrote at its end")
	}
	return Snapshot{Size: size, SHA256: hex.EncodeToString(said[:])}, nil
}
