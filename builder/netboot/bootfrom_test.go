package netboot

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

// installing is the lab with nodes that install themselves.
func installing(t *testing.T) *Site {
	site := lab(t)
	for i := range site.Machines {
		site.Machines[i].Install = true
	}
	return site
}

const worker = "52:54:00:00:00:21"

func installed(boot string) bootspec.Report {
	return bootspec.Report{MAC: worker, Boot: boot, Event: bootspec.EventInstalled, Uptime: 60000}
}

// TestInstalledBootsFromDisk: a node that has installed itself boots its disk until it is told otherwise, also when the
// server has been started anew in between.
func TestInstalledBootsFromDisk(t *testing.T) {
	dir := t.TempDir()
	site := installing(t)
	// life opens the states as a new server does, has something happen, and says what the worker boots then.
	life := func(site *Site, happens func(*states)) BootFrom {
		t.Helper()
		store := newStore(t, dir)
		defer store.close()
		entries, err := store.entries()
		must(t, err)
		defer entries.Close()
		s, err := openStates(entries, site, someTime, discard(), nil)
		must(t, err)
		happens(s)
		must(t, s.save())
		return s.bootFrom(site.Machines[1].MAC)
	}
	tell := func(from BootFrom) func(*states) {
		return func(s *states) { must(t, s.setBootFrom(site, "worker-1", from)) }
	}
	report := func(r bootspec.Report) func(*states) { return func(s *states) { s.report(r) } }
	nothing := func(*states) {}
	other := installing(t)
	other.Machines[1].Name = "worker-2"
	for i, step := range []struct {
		what    string
		happens func(*states)
		site    *Site
		want    BootFrom
	}{
		{"first", nothing, site, FromNetwork},
		{"it installs", report(bootspec.Report{MAC: worker, Boot: "a", Event: bootspec.EventInstalling}), site, FromNetwork},
		{"it has installed", report(installed("a")), site, FromDisk},
		{"another server", nothing, site, FromDisk},
		{"told to install", tell(FromInstall), site, FromInstall},
		{"the old report once more", report(installed("a")), site, FromInstall},
		{"another server", nothing, site, FromInstall},
		{"it has installed again", report(installed("b")), site, FromDisk},
		{"told network", tell(FromNetwork), site, FromNetwork},
		{"told disk", tell(FromDisk), site, FromDisk},
		{"the machine becomes another node", nothing, other, FromNetwork},
	} {
		if got := life(step.site, step.happens); got != step.want {
			t.Fatalf("step %d, %s: the worker boots from %s, not from %s", i, step.what, got, step.want)
		}
	}
}

// TestInstallAgainIsToldWithTheConfiguration, and nothing else is.
func TestInstallAgainIsToldWithTheConfiguration(t *testing.T) {
	s := serveLoopback(t)
	server := httptest.NewTLSServer(s.secureRoutes())
	defer server.Close()
	server.TLS.ClientAuth = tls.RequestClientCert
	for i := range s.site.Machines {
		s.site.Machines[i].Install = true
	}
	for _, from := range []BootFrom{FromNetwork, FromDisk, FromInstall} {
		must(t, s.states.setBootFrom(s.site, "worker-1", from))
		client := server.Client()
		transport := client.Transport.(*http.Transport)
		transport.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(workerAddress)}}).DialContext
		transport.TLSClientConfig.Certificates = []tls.Certificate{*claimant(t)}
		answer, err := client.Post(server.URL+bootspec.RouteClaim, "", strings.NewReader(claimOf(worker, "u", "s")))
		must(t, err)
		answer.Body.Close()
		status, told := answer.StatusCode, answer.Header.Get(bootspec.HeaderInstall)
		if status != http.StatusOK || (told == bootspec.InstallAgain) != (from == FromInstall) {
			t.Errorf("from %s: %d, %s: %q", from, status, bootspec.HeaderInstall, told)
		}
	}
}

// TestTellServer tells a server that runs, through its socket, in a folder whose path is too long for a socket's.
func TestTellServer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	store, err := openStore(dir)
	must(t, err)
	t.Cleanup(store.close)
	site := installing(t)
	entries := newEntries(t, store)
	s, err := openStates(entries, site, someTime, discard(), nil)
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	kept, ended := make(chan struct{}), make(chan error, 1)
	go func() { defer close(kept); s.keep(ctx) }()
	listener, err := listenControl(store)
	must(t, err)
	go func() {
		ended <- serveHTTP(ctx, listener, takeOrders(site, s, &history{}, &claims{store: &memory{}}, discard()), discard())
	}()
	defer func() { stop(); <-kept; must(t, <-ended) }()

	must(t, SetBootFrom(ctx, dir, site, "worker-1", FromInstall))
	stored, err := readStates(entries)
	must(t, err)
	if got := s.bootFrom(site.Machines[1].MAC); got != FromInstall || len(stored) != 1 || stored[0].BootFrom != FromInstall {
		t.Errorf("worker boots from %s; stored: %+v", got, stored)
	}
	if told, err := BootsFrom(ctx, dir, site, "worker-1"); err != nil || told != FromInstall {
		t.Errorf("told is %s, %v", told, err)
	}
	err = SetBootFrom(ctx, dir, site, "worker-9", FromDisk)
	if err == nil || err.Error() != `cannot say what worker-9 boots: cluster lab has no node "worker-9"` {
		t.Error(err)
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
