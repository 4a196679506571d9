package netboot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// controlSocket is in the state folder. Whoever may write there may tell the server what its nodes boot; the network may
// not.
const controlSocket = "control.sock"

// order is what goes over the socket.
type order struct {
	Node string `json:"node"`
	From string `json:"from"`
}

// SetBootFrom has a node boot from elsewhere from now on: by the server that uses the state folder, or, when none does, in
// the folder itself.
func SetBootFrom(ctx context.Context, stateDir string, site *Site, node string, from BootFrom) error {
	fail := func(err error) error { return fmt.Errorf("cannot say what %s boots: %w", node, err) }
	if _, err := os.Stat(stateDir); errors.Is(err, fs.ErrNotExist) {
		return fail(fmt.Errorf("there are no states in %s (say with --state which folder the boot server has)", stateDir))
	}
	err := tellServer(ctx, stateDir, order{node, from.String()})
	if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
		if err != nil {
			return fail(err)
		}
		return nil
	}
	if err := setStored(stateDir, site, node, from); err != nil {
		return fail(err)
	}
	return nil
}

// setStored changes the states of a server that isn't running.
func setStored(stateDir string, site *Site, node string, from BootFrom) error {
	store, err := openStore(stateDir)
	if err != nil {
		return err
	}
	defer store.close()
	s, err := openStates(store, site, time.Now, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return err
	}
	if err := s.setBootFrom(site, node, from); err != nil {
		return err
	}
	return store.write(nodesFile, s.all())
}

// tellServer sends an order. fs.ErrNotExist, unix.ECONNREFUSED: no server runs.
func tellServer(ctx context.Context, stateDir string, o order) error {
	dir, err := os.Open(stateDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", inFolder(dir))
		},
		DisableKeepAlives: true,
	}}
	body, err := json.Marshal(o)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://server/boot", bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
	if answer.StatusCode != http.StatusNoContent {
		return errors.New(oneLine(string(bytes.TrimSpace(text))))
	}
	return nil
}

// inFolder is the socket's name for bind and connect: those take 107 bytes at most, a folder's path may be longer.
func inFolder(dir *os.File) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), controlSocket)
}

// listenControl makes the socket; the folder's lock is held, so one that lies there is nobody's.
func listenControl(s *store) (net.Listener, error) {
	path := filepath.Join(s.dir, controlSocket)
	if err := s.root.Remove(controlSocket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: inFolder(s.lock)})
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	if err := s.root.Chmod(controlSocket, 0o600); err != nil {
		listener.Close()
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	return listener, nil
}

// takeOrders is the handler of the socket.
func takeOrders(site *Site, s *states, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /boot", func(w http.ResponseWriter, r *http.Request) {
		var o order
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&o)
		if err == nil {
			var from BootFrom
			if from, err = ParseBootFrom(o.From); err == nil {
				err = s.setBootFrom(site, o.Node, from)
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.settled(r.Context())
		log.Info("told what a node boots", "node", o.Node, "from", o.From)
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}
