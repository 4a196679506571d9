package initramfs

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/agent/network"
	"github.com/slipway-os/slipway/agent/secure"
	"github.com/slipway-os/slipway/agent/tpm"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/bootspec/securetest"
)

// claimer is a boot that knows its server, which answers claims with a handler; said is its log.
func claimer(t *testing.T, pins string, handler http.HandlerFunc) (b *boot, said *bytes.Buffer) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+bootspec.RouteClaim, handler)
	return claimerAt(t, pins, mux)
}

// claimerAt is one whose server has these routes.
func claimerAt(t *testing.T, pins string, mux *http.ServeMux) (b *boot, said *bytes.Buffer) {
	t.Helper()
	securetest.Serve(t, mux, "127.0.0.1")
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	said = &bytes.Buffer{}
	return &boot{
		client: newClient(&secure.Servers{}), log: slog.New(slog.NewTextHandler(said, nil)), lease: network.Lease{Server: srv.URL, MAC: "52:54:00:00:00:11"},
		args: map[string]string{bootspec.ArgBootCA: pins}, root: bootspec.Root{Image: "slipway-worker-0.1.0-amd64"},
		openTPM: func() (prover, error) { return nil, tpm.ErrNone },
	}, said
}

// TestServerMustBeThePinnedOne: an image with a pin takes only that authority's server; one without says so and goes on; servers of
// other versions are told apart.
func TestServerMustBeThePinnedOne(t *testing.T) {
	b, said := claimer(t, "", func(http.ResponseWriter, *http.Request) {})
	if err := b.findSecure(t.Context()); err != nil || !strings.Contains(said.String(), "BOOT CA NOT PINNED") {
		t.Errorf("without a pin: %v, %s", err, said)
	}
	_, digest, err := b.secure.Trust(nil)
	if err != nil {
		t.Fatal(err)
	}
	said.Reset()
	b.args[bootspec.ArgBootCA] = digest
	if err := b.findSecure(t.Context()); err != nil || strings.Contains(said.String(), "NOT PINNED") {
		t.Errorf("with its pin: %v, %s", err, said)
	}
	b.args[bootspec.ArgBootCA] = strings.Repeat("ab", 32)
	var stop stopError
	if err := b.findSecure(t.Context()); !errors.Is(err, bootspec.ErrNotPinned) || !errors.As(err, &stop) {
		t.Errorf("with another's pin: %v", err)
	}
	b.args[bootspec.ArgBootCA] = "x"
	if err := b.findSecure(t.Context()); !errors.As(err, &stop) {
		t.Errorf("with a wrong pin: %v", err)
	}
	old := httptest.NewServer(http.NotFoundHandler())
	defer old.Close()
	b.args[bootspec.ArgBootCA], b.lease.Server = "", old.URL
	if err := b.findSecure(t.Context()); !errors.Is(err, secure.ErrOld) || !errors.As(err, &stop) {
		t.Errorf("an old server: %v", err)
	}
	// Another server at the same place, with an authority of its own: not believed, and nothing is sent to it.
	other, _ := claimer(t, "", func(http.ResponseWriter, *http.Request) { t.Error("a claim came to the wrong server") })
	if err := other.findSecure(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.secure.URL = other.secure.URL
	if again, err := b.claim(t.Context(), bootspec.Claim{}); err == nil || !again || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("another server: %v, %v", again, err)
	}
}

func TestClaimWaitsForTheServer(t *testing.T) {
	times := 0
	b, _ := claimer(t, "", func(w http.ResponseWriter, r *http.Request) {
		if times++; times == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if c, err := bootspec.ParseClaim(r.Body); err != nil || c.MAC != "52:54:00:00:00:11" || c.Image != "slipway-worker-0.1.0-amd64" || len(r.TLS.PeerCertificates) != 1 {
			t.Errorf("claimed %+v, %v", c, err)
		}
		_, _ = w.Write([]byte("{}"))
	})
	if err := errors.Join(b.findSecure(t.Context()), b.claimConfig(t.Context())); err != nil || string(b.config) != "{}" {
		t.Errorf("config is %q, error %v", b.config, err)
	}
}

func TestClaimTellsWhyItWasRefused(t *testing.T) {
	b, _ := claimer(t, "", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "52:54:00:00:00:11 is in no cluster document\nmore", http.StatusNotFound)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := b.findSecure(ctx); err != nil {
		t.Fatal(err)
	}
	err := b.claimConfig(ctx)
	if err == nil || !strings.HasSuffix(err.Error(), "the boot server says 404 Not Found: 52:54:00:00:00:11 is in no cluster document") {
		t.Errorf("error is %v", err)
	}
}

func TestClaimIsBounded(t *testing.T) {
	b, _ := claimer(t, "", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, maxConfig+1))
	})
	if err := b.findSecure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.claimConfig(t.Context()); err == nil {
		t.Error("a configuration of any size is taken")
	}
}
