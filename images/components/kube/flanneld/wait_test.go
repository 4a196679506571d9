package flanneld

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// fakeAPI answers like an API server where the node appears, and gets its subnet, while flanneld waits.
func fakeAPI(t *testing.T, patches *atomic.Int32) *httptest.Server {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		node := map[string]any{"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": "w-1"}}
		switch {
		case r.Method == http.MethodPatch && r.URL.Path == "/api/v1/nodes/w-1/status":
			patches.Add(1)
		case r.Method != http.MethodGet || r.URL.Path != "/api/v1/nodes/w-1":
			t.Errorf("%s %s is asked", r.Method, r.URL.Path)
		case asked.Add(1) == 1:
			w.WriteHeader(http.StatusForbidden) // its rights come with the addons
			return
		default:
			node["spec"] = map[string]any{"podCIDR": "10.244.1.0/24"}
		}
		if err := json.NewEncoder(w).Encode(node); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	return server
}

func kubeconfig(t *testing.T, server string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "kubeconfig")
	text := "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"" + server + "\"}}]\n" +
		"contexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\ncurrent-context: c\n"
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestWaitForSubnetAnnotatesBareNode(t *testing.T) {
	var patches atomic.Int32
	server := fakeAPI(t, &patches)
	if err := waitForSubnet(t.Context(), kubeconfig(t, server.URL), "w-1"); err != nil {
		t.Fatal(err)
	}
	if patches.Load() != 1 {
		t.Errorf("the node was annotated %d times", patches.Load())
	}
}

func TestWaitForSubnetEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("stopped")
	cancel(reason)
	if err := waitForSubnet(ctx, kubeconfig(t, "http://127.0.0.1:1"), "w-1"); !errors.Is(err, reason) {
		t.Errorf("error is %v", err)
	}
}
