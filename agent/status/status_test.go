package status

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// server answers reports with the statuses of a list, then 204, and keeps what it took.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	statuses []int
	taken    []bootspec.Report
}

func newServer(t *testing.T, statuses ...int) *server {
	s := &server{statuses: statuses}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		if len(body) > bootspec.MaxReport || r.URL.Path != bootspec.RouteReport {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		if len(s.statuses) > 0 {
			status := s.statuses[0]
			s.statuses = s.statuses[1:]
			w.WriteHeader(status)
			return
		}
		var report bootspec.Report
		if err := json.Unmarshal(body, &report); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.taken = append(s.taken, report)
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) events() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var words []string
	for _, r := range s.taken {
		words = append(words, string(r.Event))
	}
	return strings.Join(words, ", ")
}

func sender(s *server) *Sender {
	return &Sender{
		Server: s.URL, MAC: "52:54:00:00:00:11", Boot: "b", Client: s.Client(), Pause: time.Millisecond,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Uptime: func() bootspec.Millis { return 1234 },
	}
}

func flush(t *testing.T, s *Sender) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestOrderIsKeptThroughFailures(t *testing.T) {
	srv := newServer(t, 500, 503, 429)
	s := sender(srv)
	s.Report(bootspec.EventAgentUp, "eth0")
	s.Report(bootspec.EventRootLoaded, "")
	s.Resume([]bootspec.Report{{Event: bootspec.EventOffer}})
	go s.Run(t.Context())
	flush(t, s)
	if got, want := srv.events(), "offer, agent up, root loaded"; got != want {
		t.Errorf("server took %q, want %q", got, want)
	}
	if r := srv.taken[1]; r.MAC != "52:54:00:00:00:11" || r.Boot != "b" || r.Uptime != 1234 || r.Detail != "eth0" {
		t.Errorf("report %+v", r)
	}
}

func TestRefusedReportDoesNotBlockOthers(t *testing.T) {
	srv := newServer(t, 400)
	s := sender(srv)
	go s.Run(t.Context())
	s.Report(bootspec.EventAgentUp, "")
	s.Report(bootspec.EventReady, "")
	flush(t, s)
	if got := srv.events(); got != "ready" {
		t.Errorf("server took %q", got)
	}
}

func TestPendingIsBoundedAndHandedOver(t *testing.T) {
	s := sender(newServer(t))
	for i := range 3 * maxQueue {
		s.Report(bootspec.EventFailed, fmt.Sprint(i))
	}
	p := s.Pending()
	if len(p) != maxQueue || p[len(p)-1].Detail != fmt.Sprint(3*maxQueue-1) {
		t.Errorf("%d wait, the last is %q", len(p), p[len(p)-1].Detail)
	}
}

func TestLongLogsFit(t *testing.T) {
	srv := newServer(t)
	s := sender(srv)
	s.KernelLog = func() []byte { return append([]byte(strings.Repeat("\x02", 300<<10)), "words of the kernel"...) }
	go s.Run(t.Context())
	s.Fail("unit failed", "etcd.service", append([]byte(strings.Repeat("\x01", 300<<10)), "last words"...))
	flush(t, s)
	if srv.events() != "failed" || !strings.HasSuffix(srv.taken[0].Log, "last words") || !strings.HasSuffix(srv.taken[0].Kernel, "words of the kernel") {
		t.Errorf("server took %q", srv.events())
	}
}

// TestKernelLog: it is read where that is allowed, in whole lines without their levels.
func TestKernelLog(t *testing.T) {
	log := KernelLog()
	if len(log) > maxLog || level.Match(log) {
		t.Errorf("%d bytes: %.200q", len(log), log)
	}
	if os.Geteuid() == 0 && len(log) == 0 {
		t.Skip("this machine's kernel tells nothing here")
	}
}

func TestWithoutServer(t *testing.T) {
	s := sender(newServer(t))
	s.Server = ""
	go s.Run(t.Context())
	s.Report(bootspec.EventReady, "")
	flush(t, s)
}
