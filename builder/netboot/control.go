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
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/builder/kv"
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
	if err := hasFolder(stateDir); err != nil {
		return fail(err)
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

func hasFolder(stateDir string) error {
	if _, err := os.Stat(stateDir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there are no states in %s (say with --state which folder the boot server has)", stateDir)
	}
	return nil
}

// setStored changes the states of a server that isn't running.
func setStored(stateDir string, site *Site, node string, from BootFrom) error {
	return withStore(stateDir, func(entries kv.Store) error {
		s, err := openStates(entries, site, time.Now, slog.New(slog.DiscardHandler), nil)
		if err != nil {
			return err
		}
		if err := s.setBootFrom(site, node, from); err != nil {
			return err
		}
		return s.save()
	})
}

// BootsFrom is what a node boots: by the server that uses the state folder, or, when none does, by the folder itself.
func BootsFrom(ctx context.Context, stateDir string, site *Site, node string) (from BootFrom, err error) {
	fail := func(err error) (BootFrom, error) { return "", fmt.Errorf("cannot say what %s boots: %w", node, err) }
	i := slices.IndexFunc(site.Machines, func(m Machine) bool { return m.Name == node })
	if i < 0 {
		return fail(hasNode(site, node))
	}
	if err := hasFolder(stateDir); err != nil {
		return fail(err)
	}
	var o order
	err = askServer(ctx, stateDir, http.MethodGet, "/boot?node="+url.QueryEscape(node), nil, &o)
	switch {
	case err == nil:
		from, err = ParseBootFrom(o.From)
	case notRunning(err):
		err = withStore(stateDir, func(entries kv.Store) error {
			s, err := openStates(entries, site, time.Now, slog.New(slog.DiscardHandler), nil)
			if err == nil {
				from = s.bootFrom(site.Machines[i].MAC)
			}
			return err
		})
	}
	if err != nil {
		return fail(err)
	}
	return from, nil
}

// tellServer sends an order. fs.ErrNotExist, unix.ECONNREFUSED: no server runs.
func tellServer(ctx context.Context, stateDir string, o order) error {
	return askServer(ctx, stateDir, http.MethodPost, "/boot", o, nil)
}

// maxAnswer bounds what a server says over its control socket, in bytes.
const maxAnswer = 16 << 20

// askServer asks the server that uses a state folder: the body is sent as JSON, the answer is read into out. fs.ErrNotExist,
// unix.ECONNREFUSED: no server runs.
func askServer(ctx context.Context, stateDir, method, path string, body, out any) error {
	return askWithin(ctx, 10*time.Second, stateDir, method, path, body, out)
}

// askWithin is askServer with another limit.
func askWithin(ctx context.Context, limit time.Duration, stateDir, method, path string, body, out any) error {
	dir, err := os.Open(stateDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", inFolder(dir))
		},
		DisableKeepAlives: true,
	}}
	var text []byte
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://server"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	switch {
	case answer.StatusCode == http.StatusNotFound:
		return errors.New("the boot server that runs is of another version and doesn't know this (restart it)")
	case answer.StatusCode/100 != 2:
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
		return errors.New(oneLine(string(bytes.TrimSpace(text))))
	case out == nil:
		return nil
	}
	return json.NewDecoder(io.LimitReader(answer.Body, maxAnswer)).Decode(out)
}

// Explain asks the server that uses a state folder for the newest exchanges with a machine: a MAC address, or the name of a node.
func Explain(ctx context.Context, stateDir string, site *Site, machine string) ([]Exchange, error) {
	fail := func(err error) ([]Exchange, error) { return nil, fmt.Errorf("cannot explain %s: %w", machine, err) }
	mac, err := net.ParseMAC(machine)
	if i := slices.IndexFunc(site.Machines, func(m Machine) bool { return m.Name == machine }); i >= 0 {
		mac, err = site.Machines[i].MAC, nil
	}
	if err != nil {
		return fail(errors.New("it is neither a MAC address nor a node of the cluster document"))
	}
	var out []Exchange
	err = askServer(ctx, stateDir, http.MethodGet, "/explain?mac="+url.QueryEscape(mac.String()), nil, &out)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		err = fmt.Errorf("no boot server runs with the state folder %s (what it explains is in its memory)", stateDir)
	}
	if err != nil {
		return fail(err)
	}
	return out, nil
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
func takeOrders(site *Site, s *states, past *history, c *claims, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /explain", func(w http.ResponseWriter, r *http.Request) {
		mac, err := net.ParseMAC(r.URL.Query().Get("mac"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(past.explain(mac.String()))
	})
	mux.HandleFunc("GET /claims", func(w http.ResponseWriter, r *http.Request) {
		all, err := c.all(site)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(all)
	})
	mux.HandleFunc("POST /arm", func(w http.ResponseWriter, r *http.Request) {
		var o order
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&o)
		if err == nil {
			err = hasNode(site, o.Node)
		}
		if err == nil {
			err = c.arm(o.Node)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.armed(o.Node)
		_ = s.settled(r.Context()) // the claim is what counts, and that is kept
		log.Warn("a node is armed: its configuration goes to the next machine that has its MAC address", "node", o.Node)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /boot", func(w http.ResponseWriter, r *http.Request) {
		node := r.URL.Query().Get("node")
		i := slices.IndexFunc(site.Machines, func(m Machine) bool { return m.Name == node })
		if i < 0 {
			http.Error(w, hasNode(site, node).Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(order{node, s.bootFrom(site.Machines[i].MAC).String()})
	})
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
		if err := s.settled(r.Context()); err != nil {
			http.Error(w, "it is so now, and can't be kept: "+err.Error(), http.StatusInternalServerError)
			return
		}
		log.Info("told what a node boots", "node", o.Node, "from", o.From)
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}
