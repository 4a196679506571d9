package firstboot

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// apiServer answers 500 until it has been asked so often, over TLS.
func apiServer(t *testing.T, unready int32) (server *httptest.Server, ca string, asked *atomic.Int32) {
	t.Helper()
	asked = &atomic.Int32{}
	server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) <= unready {
			http.Error(w, "[-]poststarthook/rbac/bootstrap-roles failed", http.StatusInternalServerError)
		}
	}))
	t.Cleanup(server.Close)
	ca = filepath.Join(t.TempDir(), "ca.crt")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return server, ca, asked
}

func TestAwaitAPI(t *testing.T) {
	server, ca, asked := apiServer(t, 2)
	if err := AwaitAPI(t.Context(), server.URL+"/readyz", ca, 0); err != nil {
		t.Fatal(err)
	}
	if asked.Load() != 3 {
		t.Errorf("it was asked %d times, want until it was ready, 3", asked.Load())
	}
}

func TestAwaitAPIGivesUp(t *testing.T) {
	server, ca, _ := apiServer(t, 1<<30)
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	if err := AwaitAPI(ctx, server.URL+"/readyz", ca, 0); err == nil || !strings.Contains(err.Error(), "isn't ready") {
		t.Errorf("got %v", err)
	}
	_, foreign, _ := apiServer(t, 0)
	_ = os.WriteFile(foreign, []byte("no certificate"), 0o600)
	if err := AwaitAPI(t.Context(), server.URL, foreign, 0); err == nil || !strings.Contains(err.Error(), foreign) {
		t.Errorf("a file without a certificate: %v", err)
	}
}

// TestAwaitAPIEndsWithItsServer: systemd restarts a server that has crashed only when nobody waits for it any more.
func TestAwaitAPIEndsWithItsServer(t *testing.T) {
	server, ca, asked := apiServer(t, 1<<30)
	process := exec.Command("sleep", "60")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for asked.Load() == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		_ = process.Process.Kill()
		_ = process.Wait()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := AwaitAPI(ctx, server.URL+"/readyz", ca, process.Process.Pid); err == nil || !strings.Contains(err.Error(), "its server has ended") {
		t.Errorf("got %v", err)
	}
	if err := AwaitAPI(ctx, server.URL+"/readyz", ca, process.Process.Pid); err == nil || ctx.Err() != nil {
		t.Errorf("of a process that is gone already: %v", err)
	}
}
