package guard

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/slipway-os/slipway/images/components/etcd/restore"
)

// statusPath is the one thing a guard answers.
const statusPath = "/v1/state"

// status is the answer.
type status struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Restored is the newest restore of the cluster that the node knows of.
	Restored restore.Generation `json:"restored,omitzero"`
}

// server tells other control planes how this node stands.
type server struct {
	mu   sync.Mutex
	said status
	http *http.Server
}

func newServer(name string) *server {
	s := &server{said: status{Name: name}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+statusPath, func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.said)
	})
	s.http = &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: mux, ReadTimeout: patience, WriteTimeout: patience, IdleTimeout: time.Minute, MaxHeaderBytes: 4096}
	return s
}

// serve answers whoever shows a certificate of etcd's authority.
func (s *server) serve(l net.Listener, config *tls.Config) {
	_ = s.http.Serve(tls.NewListener(l, config)) // it ends with close
}

func (s *server) set(state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said.State = state
}

func (s *server) tell(state State, g restore.Generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said.State, s.said.Restored = state, g
}

func (s *server) generation() restore.Generation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.Restored
}

func (s *server) close() { s.http.Close() }
