package initramfs

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/slipway-os/slipway/agent/network"
	"github.com/slipway-os/slipway/agent/secure"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/bootspec/securetest"
)

// overTLS serves a mux over TLS as a boot server does: a client for it, and what the server says of itself.
func overTLS(t *testing.T, mux *http.ServeMux) (*http.Client, bootspec.Secure) {
	t.Helper()
	over := securetest.Serve(t, mux, "127.0.0.1")
	client, _, err := secure.Client(over, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return client, over
}

// overTLSFiles serves files as artifacts.
func overTLSFiles(t *testing.T, files map[string][]byte) (*http.Client, bootspec.Secure) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc(bootspec.RouteArtifacts+"{name}", func(w http.ResponseWriter, r *http.Request) {
		content := files[r.PathValue("name")]
		if content == nil {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	})
	return overTLS(t, mux)
}

// TestRootImageComesOverTLS: nothing is asked of the boot server's plain side, and only a server of the authority that the machine has taken is
// asked for anything.
func TestRootImageComesOverTLS(t *testing.T) {
	const image = "slipway-worker-0.1.0-amd64"
	content := bytes.Repeat([]byte("root image "), 100_000)
	plain := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s is asked for by plain HTTP", r.URL) }))
	defer plain.Close()
	client, over := overTLSFiles(t, map[string][]byte{image + bootspec.ExtRoot: content})
	others, _ := overTLS(t, http.NewServeMux())
	b := &boot{
		claimant: client, client: newClient(&secure.Servers{}), secure: over, lease: network.Lease{Server: plain.URL}, log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		root: bootspec.Root{Image: image, Size: int64(len(content)), Digest: digest(content)},
	}
	if err := b.fetchRoot(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer b.image.Close()
	got := make([]byte, len(content))
	if _, err := b.image.ReadAt(got, 0); err != nil || !bytes.Equal(got, content) {
		t.Errorf("another image arrived: %v", err)
	}
	if answer, err := others.Get(over.URL + bootspec.RouteArtifacts + image + bootspec.ExtRoot); err == nil {
		answer.Body.Close()
		t.Error("a server of another authority was believed")
	}
}
