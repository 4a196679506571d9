package netboot

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// secret marks the node configurations of these tests. It must come nowhere but to its node.
const secret = "MARKER-OF-A-SECRET"

// journal is a log that may be written and read at the same time.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// serving is an HTTP side on loopback, where cp-1 is at 127.0.0.11 and worker-1 at 127.0.0.21.
type serving struct {
	t    *testing.T
	base string
	log  *journal
	*handler
}

func serveLoopback(t *testing.T) *serving {
	t.Helper()
	site := lab(t)
	site.Machines[0].Address, site.Machines[1].Address = netip.MustParseAddr("127.0.0.11"), netip.MustParseAddr("127.0.0.21")
	dir := t.TempDir()
	bake(t, dir, "worker", "0.1.0", "amd64")
	bake(t, dir, "control-plane", "0.1.0", "amd64")
	files, err := openArtifacts(t.Context(), dir, "", bothRoles, nil)
	if err != nil {
		t.Fatal(err)
	}
	log := &journal{}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	states, err := openStates(nil, site, time.Now, logger, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := &handler{
		site: site, artifacts: files, states: states, log: logger, reports: &reportLimit{now: time.Now}, told: time.Now,
		now: time.Now, claims: &claims{store: &memory{}, log: logger},
		config: func(node string) ([]byte, error) { return []byte(secret + " of " + node), nil },
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { states.keep(ctx) })
	group.Go(func() {
		if err := serveHTTP(ctx, listener, h.routes(), logger); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); group.Wait(); files.close() })
	return &serving{t: t, base: "http://" + listener.Addr().String(), log: log, handler: h}
}

// ask asks from an address: "GET /path", then header lines, then perhaps an empty line and the body. It returns the
// status, the header and the body.
func (s *serving) ask(from, request string, headers ...string) (int, http.Header, string) {
	s.t.Helper()
	method, rest, _ := strings.Cut(request, " ")
	route, body, _ := strings.Cut(rest, "\n")
	r, err := http.NewRequest(method, s.base+route, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	client := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}, Timeout: 30 * time.Second}
	answer, err := client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.StatusCode, answer.Header, string(text)
}

const cpAddress, workerAddress, strangerAddress = "127.0.0.11", "127.0.0.21", "127.0.0.99"

func TestServeArtifacts(t *testing.T) {
	s := serveLoopback(t)
	const uki = "/artifacts/slipway-worker-0.1.0-amd64.efi"
	_, header, whole := s.ask(strangerAddress, "GET "+uki)
	etag := header.Get("ETag")
	for _, c := range []struct {
		request string
		headers []string
		status  int
		check   string // header: value
		body    string
	}{
		{"GET " + uki, nil, 200, "Content-Type: application/efi", whole},
		{"HEAD " + uki, nil, 200, fmt.Sprintf("Content-Length: %d", len(whole)), ""},
		{"GET " + uki, []string{"Range: bytes=10-19"}, 206, fmt.Sprintf("Content-Range: bytes 10-19/%d", len(whole)), whole[10:20]},
		{"GET " + uki, []string{"Range: bytes=70-", "If-Range: " + etag}, 206, fmt.Sprintf("Content-Length: %d", len(whole)-70), whole[70:]},
		{"GET " + uki, []string{"Range: bytes=70-", `If-Range: "another image"`}, 200, fmt.Sprintf("Content-Length: %d", len(whole)), whole},
		{"GET " + uki, []string{fmt.Sprintf("Range: bytes=%d-", len(whole))}, 416, fmt.Sprintf("Content-Range: bytes */%d", len(whole)), "invalid range: failed to overlap\n"},
		{"GET " + uki, []string{"If-None-Match: " + etag}, 304, "Etag: " + etag, ""},
		{"GET /artifacts/slipway-worker-0.1.0-amd64.root", []string{"Range: bytes=0-3"}, 206, "Content-Type: application/octet-stream", "root"},
		{"GET /artifacts/slipway-worker-0.1.0-amd64.json", []string{"Range: bytes=0-1"}, 206, "Content-Type: application/octet-stream", "{\n"},
		{"GET /artifacts/slipway-worker-0.2.0-amd64.json", nil, 404, "", "404 page not found\n"},
		{"GET /artifacts/", nil, 404, "", "404 page not found\n"},
		{"GET /artifacts/..%2fslipway-worker-0.1.0-amd64.efi", nil, 404, "", "404 page not found\n"},
		{"POST " + uki, nil, 405, "Allow: GET, HEAD", "Method Not Allowed\n"},
	} {
		status, header, body := s.ask(strangerAddress, c.request, c.headers...)
		if status != c.status || body != c.body {
			t.Errorf("%s %s: %d %.60q, want %d %.60q", c.request, c.headers, status, body, c.status, c.body)
		}
		if name, want, found := strings.Cut(c.check, ": "); found && header.Get(name) != want {
			t.Errorf("%s %s: %s is %q, want %q", c.request, c.headers, name, header.Get(name), want)
		}
	}
	if n := s.states.all()[1]; len(n.Boots) != 0 {
		t.Errorf("a stranger fetched the kernel, but worker-1 has %+v", n.Boots)
	}
	s.ask(workerAddress, "HEAD "+uki)
	s.ask(workerAddress, "GET "+uki)
	if got := s.states.all()[1]; len(got.Boots) != 1 || len(got.Boot().Events) != 1 || got.State != "kernel sent" || !strings.Contains(got.Boot().Events[0].Detail, "by HTTP") {
		t.Errorf("worker-1 fetched its kernel: %+v", got)
	}
}

func TestReports(t *testing.T) {
	s := serveLoopback(t)
	report := func(from, text string) int {
		status, _, _ := s.ask(from, "POST /v1/report\n"+text)
		return status
	}
	const good = `{"mac":"52:54:00:00:00:11","boot":"b","event":"agent up","uptime":1200}`
	long := fmt.Sprintf(`{"mac":"52:54:00:00:00:11","event":"failed","log":"%s"}`, strings.Repeat("x", bootspec.MaxReport))
	for _, c := range []struct {
		from, text string
		want       int
	}{
		{workerAddress, good, 403}, {strangerAddress, good, 403}, {cpAddress, "", 400}, {cpAddress, "[]", 400}, {cpAddress, good + good, 400},
		{cpAddress, long, 400}, {cpAddress, strings.Replace(good, "agent up", "", 1), 400}, {cpAddress, strings.Replace(good, "1200", "-1", 1), 400},
		{cpAddress, strings.Replace(good, "1200", "9223372036854775807", 1), 400}, {cpAddress, strings.Replace(good, ":11", ":12", 1), 403},
	} {
		if got := report(c.from, c.text); got != c.want {
			t.Errorf("%.80s from %s: %d, want %d", c.text, c.from, got, c.want)
		}
	}
	for _, text := range []string{
		good, good,
		`{"mac":"52-54-00-00-00-11","boot":"b","event":"failed","uptime":2000,"unit":"etcd.service","detail":"no\u001b[2J\nroom","log":"one\n\ttwo\u001b[0m","newer":"field"}`,
		`{"mac":"52:54:00:00:00:11","boot":"b","event":"ready","uptime":3000}`,
	} {
		if got := report(cpAddress, text); got != http.StatusNoContent {
			t.Errorf("%s: %d", text, got)
		}
	}
	status, _, text := s.ask(strangerAddress, "GET /v1/nodes")
	var nodes []NodeStatus
	if err := json.Unmarshal([]byte(text), &nodes); err != nil || status != 200 || len(nodes) != 2 {
		t.Fatalf("%d %v: %s", status, err, text)
	}
	var got []string
	start := nodes[0].Boot().Start
	for _, e := range nodes[0].Boot().Events {
		got = append(got, fmt.Sprintf("%s@%g %s %q %q", e.Event, e.Time.Sub(start).Seconds(), e.Unit, e.Detail, e.Log))
	}
	want := `agent up@1.2  "" ""` + "\n" + `failed@2 etcd.service "no [2J room" "one\n\ttwo [0m"` + "\n" + `ready@3  "" ""`
	if strings.Join(got, "\n") != want || nodes[0].State != "ready" || nodes[1].State != "unseen" {
		t.Errorf("got:\n%s\nwant:\n%s\n%s", strings.Join(got, "\n"), want, text)
	}
	limited := false
	for range reportsPerMinute + 1 {
		limited = limited || report(cpAddress, good) == http.StatusTooManyRequests
	}
	if other := report(workerAddress, strings.Replace(good, ":11", ":21", 1)); !limited || other != http.StatusNoContent {
		t.Errorf("a node that reports without end is limited: %v; another one gets %d", limited, other)
	}
}

// TestAnswerOutlivesTheEnd: an answer that runs when the server is told to end is sent whole.
func TestAnswerOutlivesTheEnd(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	slow := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		stop()
		time.Sleep(200 * time.Millisecond)
		fmt.Fprint(w, "whole")
	})
	ended := make(chan error, 1)
	go func() { ended <- serveHTTP(ctx, listener, slow, slog.New(slog.DiscardHandler)) }()
	answer, err := http.Get("http://" + listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, err := io.ReadAll(answer.Body); err != nil || string(text) != "whole" {
		t.Errorf("%q, %v", text, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// testLog logs into a journal.
func testLog(j *journal) *slog.Logger {
	return slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
