package initramfs

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/bootspec/securetest"
)

// TestDiscoveryWaitsForAdoption: hardware goes over TLS until the answer names a node; a server that is away is waited for, one that
// refuses ends it.
func TestDiscoveryWaitsForAdoption(t *testing.T) {
	answers := []func(http.ResponseWriter){
		func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) },
		func(w http.ResponseWriter) { _ = json.NewEncoder(w).Encode(bootspec.Discovered{Seconds: 0}) },
		func(w http.ResponseWriter) {
			_ = json.NewEncoder(w).Encode(bootspec.Discovered{Node: "worker-3\x1b[2J"})
		},
		func(w http.ResponseWriter) { http.Error(w, "not at this address", http.StatusForbidden) },
	}
	asked := 0
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+bootspec.RouteHardware, func(w http.ResponseWriter, r *http.Request) {
		h, err := bootspec.ParseHardware(r.Body)
		if err != nil || r.TLS == nil || h.MAC != "52:54:00:00:00:11" || h.CPU.Threads == 0 || h.Memory == 0 {
			t.Errorf("told %+v, %v", h, err)
		}
		answers[asked](w)
		asked++
	})
	securetest.Serve(t, mux, "127.0.0.1")
	server := httptest.NewServer(mux)
	defer server.Close()
	b, said := claimer(t, "", http.NotFound)
	b.lease.Server = server.URL
	if err := b.findSecure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.discover(t.Context()); err != nil || asked != 0 {
		t.Errorf("a node is discovered: %v", err)
	}
	if err := b.awaitAdoption(t.Context()); !errors.Is(err, errAdopted) || asked != 3 {
		t.Errorf("asked %d times: %v", asked, err)
	}
	for _, want := range []string{"slipway adopt 52:54:00:00:00:11 --role worker", "restarts as node worker-3[2J", "trying again"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("it doesn't say %q:\n%s", want, said)
		}
	}
	if err := b.awaitAdoption(t.Context()); err == nil || !strings.Contains(err.Error(), "not at this address") {
		t.Errorf("refused: %v", err)
	}
}
