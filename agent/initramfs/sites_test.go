package initramfs

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/slipway-os/slipway/agent/secure"
)

// TestFetchGoesOnFromAnotherServer: the boot server goes away in the middle of the root image, and the rest comes from another one.
func TestFetchGoesOnFromAnotherServer(t *testing.T) {
	first := newOrigin(t)
	_, port, err := net.SplitHostPort(first.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	second := &origin{data: first.data, etag: first.etag}
	second.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		second.mu.Lock()
		second.ranges = append(second.ranges, r.Header.Get("Range"))
		second.mu.Unlock()
		w.Header().Set("ETag", first.etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(first.data))
	}))
	second.Listener.Close()
	if second.Listener, err = net.Listen("tcp", "127.0.0.2:"+port); err != nil {
		t.Fatal(err)
	}
	second.Start()
	defer second.Close()
	first.faults = append(first.faults, func(w http.ResponseWriter, r *http.Request) {
		first.Listener.Close() // nobody listens there any more
		first.cut(300000)(w, r)
	})
	servers := &secure.Servers{}
	servers.Add(netip.MustParseAddr("127.0.0.2"))
	f := fetch{
		Client: newClient(servers), Next: servers.Next, URL: first.URL, Size: int64(len(first.data)), SHA256: digest(first.data),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Pause: time.Millisecond, Stall: 20 * time.Second, Patience: 20 * time.Second,
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "root"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := f.into(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	if got := second.asked(); got != "bytes=300000-" {
		t.Errorf("the second server was asked for %q", got)
	}
}
