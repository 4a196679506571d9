package manage

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

// apiServer answers two requests as an API server does: the list of nodes, and the deletion of one. The names are in a file.
func (m machine) apiServer() error {
	own, err := tls.LoadX509KeyPair(filepath.Join(m.Root, bootspec.PKIDirectory, "apiserver.crt"), filepath.Join(m.Root, bootspec.PKIDirectory, "apiserver.key"))
	if err != nil {
		return err
	}
	authority, err := os.ReadFile(filepath.Join(m.Root, bootspec.PKIDirectory, "ca.crt"))
	if err != nil {
		return err
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(authority)
	mux := http.NewServeMux()
	type object map[string]any
	mux.HandleFunc("GET /api/v1/nodes", func(w http.ResponseWriter, _ *http.Request) {
		items := []object{}
		names, _ := os.ReadFile(m.nodes())
		for _, name := range strings.Fields(string(names)) {
			items = append(items, object{"metadata": object{"name": name}})
		}
		_ = json.NewEncoder(w).Encode(object{"kind": "NodeList", "items": items})
	})
	mux.HandleFunc("DELETE /api/v1/nodes/{name}", func(w http.ResponseWriter, r *http.Request) {
		names, _ := os.ReadFile(m.nodes())
		rest := strings.Replace(string(names), r.PathValue("name"), "", 1)
		if rest == string(names) {
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(object{"kind": "Status", "message": "not found"})
			return
		}
		_ = os.WriteFile(m.nodes(), []byte(rest), 0o600)
		_ = json.NewEncoder(w).Encode(object{"kind": "Status", "status": "Success"})
	})
	server := &http.Server{Addr: m.Address + ":6443", Handler: mux, TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{own}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert,
	}}
	go func() { _ = server.ListenAndServeTLS("", "") }()
	return nil
}

func (m machine) nodes() string { return filepath.Join(m.Root, "nodes") }

// TestRackPrune: control planes and workers that the document no longer has leave etcd and Kubernetes; the rest goes on.
func TestRackPrune(t *testing.T) {
	s := newSite(t)
	if err := os.WriteFile(s.machines[0].nodes(), []byte("cp-1 cp-2 cp-3 worker-1 worker-2"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.on(t, 0, 1, 2)
	s.healthy(t, 0, 1, 2)
	s.write(t, 0, "word", "kept")
	has(t, s.slipway(t, 0, "prune"), "the cluster has no nodes but those of its document")

	// The document shrinks to one control plane and one worker.
	text, err := os.ReadFile(s.document)
	if err != nil {
		t.Fatal(err)
	}
	smaller := regexp.MustCompile(`(?ms)^  - name: (cp-2|cp-3|worker-2)$.*?(^  - |\z)`)
	for smaller.Match(text) {
		text = smaller.ReplaceAll(text, []byte("$2"))
	}
	if err := os.WriteFile(s.document, text, 0o644); err != nil {
		t.Fatal(err)
	}
	want := []string{`cp-2: @ from etcd`, `cp-3: @ from etcd`, `cp-2: @ from Kubernetes`, `cp-3: @ from Kubernetes`, `worker-2: @ from Kubernetes`}
	expect := func(words string) (list []string) {
		for _, w := range want {
			list = append(list, strings.Replace(w, "@", words, 1))
		}
		return list
	}
	planned := s.slipway(t, 0, "prune", "--dry-run")
	has(t, planned, expect("would be removed")...)
	// The first to go leads: until the others have a new leader, etcd loses what is asked of it.
	first := regexp.MustCompile(`(cp-\d): would be removed from etcd`).FindStringSubmatch(planned)[1]
	s.lead(t, first)
	has(t, s.slipway(t, 2, "prune"), "nobody can be asked here: add --yes")
	if names, _ := os.ReadFile(s.machines[0].nodes()); !strings.Contains(string(names), "worker-2") {
		t.Error("a node is gone that nobody has removed")
	}
	out := s.slipway(t, 0, "prune", "--yes")
	has(t, out, expect("removed")...)
	if strings.Contains(out, "cp-1") || strings.Contains(out, "worker-1") {
		t.Errorf("more was removed:\n%s", out)
	}
	s.off(1, 2)
	s.healthy(t, 0) // alone, it has its quorum
	if value, _ := s.read(t, 0, "word"); value != "kept" {
		t.Errorf("cp-1 has %q", value)
	}
	s.write(t, 0, "word", "goes on")
	has(t, s.slipway(t, 0, "prune"), "the cluster has no nodes but those of its document")
	if names, _ := os.ReadFile(s.machines[0].nodes()); fmt.Sprint(strings.Fields(string(names))) != "[cp-1 worker-1]" {
		t.Errorf("Kubernetes has %s", names)
	}
}

// lead makes a machine's etcd the leader.
func (s *site) lead(t *testing.T, name string) {
	t.Helper()
	type status struct {
		Header struct {
			ID string `json:"member_id"`
		}
		Leader string
	}
	at := func(i int) (answer status) {
		text, err := s.ask(t, i, "/v3/maintenance/status", "{}")
		if err == nil {
			err = json.Unmarshal(text, &answer)
		}
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	wanted := ""
	for i, m := range s.machines {
		if m.Name == name {
			wanted = at(i).Header.ID
		}
	}
	wait(t, name+" as leader", func() bool {
		for i := range s.machines {
			have := at(i)
			if have.Leader == wanted {
				return true
			}
			if have.Leader == have.Header.ID {
				_, _ = s.ask(t, i, "/v3/maintenance/transfer-leadership", fmt.Sprintf(`{"targetID":%q}`, wanted))
			}
		}
		return false
	})
}
