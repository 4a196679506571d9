package initramfs

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/agent/network"
	"github.com/slipway-os/slipway/images/bootspec"
)

func claimer(t *testing.T, handler http.HandlerFunc) *boot {
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	return &boot{client: newClient(), log: slog.New(slog.NewTextHandler(io.Discard, nil)), lease: network.Lease{Server: srv.URL, MAC: "52:54:00:00:00:11"}}
}

func TestClaimWaitsForTheServer(t *testing.T) {
	times := 0
	b := claimer(t, func(w http.ResponseWriter, r *http.Request) {
		if times++; times == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if r.URL.Path != bootspec.RouteConfig || r.URL.Query().Get("mac") != "52:54:00:00:00:11" {
			t.Errorf("asked for %v", r.URL)
		}
		_, _ = w.Write([]byte("{}"))
	})
	if err := b.claimConfig(t.Context()); err != nil || string(b.config) != "{}" {
		t.Errorf("config is %q, error %v", b.config, err)
	}
}

func TestClaimTellsWhyItWasRefused(t *testing.T) {
	b := claimer(t, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "52:54:00:00:00:11 is in no cluster document\nmore", http.StatusNotFound)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := b.claimConfig(ctx)
	if err == nil || !strings.HasSuffix(err.Error(), "the boot server says 404 Not Found: 52:54:00:00:00:11 is in no cluster document") {
		t.Errorf("error is %v", err)
	}
}

func TestClaimIsBounded(t *testing.T) {
	b := claimer(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, maxConfig+1))
	})
	if err := b.claimConfig(t.Context()); err == nil {
		t.Error("a configuration of any size is taken")
	}
}
