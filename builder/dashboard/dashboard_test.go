package dashboard

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/builder/netboot"
	"github.com/slipway-os/slipway/images/bootspec"
)

// site is a rack with machines in every kind of state.
type site struct {
	mu    sync.Mutex
	nodes []netboot.NodeStatus
	now   time.Time
	sent  netboot.Traffic
}

func (s *site) Nodes() []netboot.NodeStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]netboot.NodeStatus(nil), s.nodes...)
}

func (s *site) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func boot(start time.Time, events ...bootspec.Event) []netboot.Boot {
	b := netboot.Boot{}
	for i, e := range events {
		b.Events = append(b.Events, netboot.EventRecord{Event: e, Time: start.Add(time.Duration(i*i) * time.Second), Detail: "detail of " + string(e)})
	}
	return []netboot.Boot{b}
}

func newSite() *site {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := &site{now: now}
	failing := boot(now.Add(-time.Minute), bootspec.EventOffer, bootspec.EventKernelSent, bootspec.EventAgentUp, bootspec.EventFailed)
	last := &failing[0].Events[3]
	last.Unit, last.Detail, last.Log = "etcd.service", "etcd.service: it ended with 1", "<script>document.title='owned'</script>\nlast words of etcd"
	last.Kernel = "a line of the kernel"
	s.nodes = []netboot.NodeStatus{
		{Name: "cp-1", Role: "control-plane", MAC: "52:54:00:00:00:11", Address: "10.1.0.11", State: "ready", LastSeen: now,
			Boots: boot(now.Add(-time.Hour), bootspec.EventOffer, bootspec.EventKernelSent, bootspec.EventAgentUp, bootspec.EventReady)},
		{Name: "cp-2", Role: "control-plane", MAC: "52:54:00:00:00:12", Address: "10.1.0.12", State: "failed", LastSeen: now, Boots: failing},
		{Name: "cp-3", Role: "control-plane", MAC: "52:54:00:00:00:13", Address: "10.1.0.13", State: "kernel sent", LastSeen: now,
			Boots: boot(now.Add(-time.Hour), bootspec.EventOffer, bootspec.EventKernelSent)},
		{Name: "worker-1", Role: "worker", MAC: "52:54:00:00:00:21", Address: "10.1.0.21", State: "agent up", LastSeen: now,
			Boots: boot(now.Add(-10*time.Second), bootspec.EventOffer, bootspec.EventKernelSent, bootspec.EventAgentUp)},
		{Name: "worker-2", Role: "worker", MAC: "52:54:00:00:00:22", Address: "10.1.0.22", State: "unseen"},
		{MAC: "52:54:00:00:00:99", Address: "10.1.0.101", State: "discovered", LastSeen: now, Last: "to be discovered"},
	}
	return s
}

func serve(t *testing.T, s *site) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(New(Source{
		Cluster: "reference", Nodes: s.Nodes, Now: func() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return s.now },
		Traffic: func() netboot.Traffic { s.mu.Lock(); defer s.mu.Unlock(); return s.sent }, Log: slog.New(slog.DiscardHandler),
		Hardware: func(mac string) (bootspec.Hardware, bool) {
			return bootspec.Hardware{
				MAC: mac, System: bootspec.System{Product: "<b>Board</b>"}, CPU: bootspec.CPU{Model: "Processor", Sockets: 2, Cores: 8, Threads: 16}, Memory: 64 << 30,
				Disks: []bootspec.HardwareDisk{{Name: "sda", Size: 480e9, Serial: "DISK-1"}}, NICs: []bootspec.HardwareNIC{{Name: "eth0", MAC: mac, Driver: "ixgbe", Speed: 10000}},
			}, mac == "52:54:00:00:00:99"
		},
	}))
	t.Cleanup(server.Close)
	return server
}

// browser is a headless Chromium with a window of a size in pixels.
func browser(t *testing.T, width, height int64) context.Context {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is missing: make deps installs it")
	}
	flags := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.UserDataDir(fixture.Folder(t)),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	running, end := chromedp.NewExecAllocator(t.Context(), flags...)
	t.Cleanup(end)
	page, leave := chromedp.NewContext(running)
	t.Cleanup(leave)
	limited, cancel := context.WithTimeout(page, 2*time.Minute)
	t.Cleanup(cancel)
	if err := chromedp.Run(limited, emulation.SetDeviceMetricsOverride(width, height, 2, width < 600)); err != nil {
		t.Fatal(err)
	}
	return limited
}

// TestPageInABrowser: what an operator sees on a phone: who is in which state, why one fails, and it changes by itself.
func TestPageInABrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	s := newSite()
	server := serve(t, s)
	page := browser(t, 390, 844)
	var summary, failing, stuck, words, title string
	var wide, hidden bool
	run := func(actions ...chromedp.Action) {
		t.Helper()
		if err := chromedp.Run(page, actions...); err != nil {
			t.Fatal(err)
		}
	}
	run(chromedp.Navigate(server.URL), chromedp.WaitVisible("#worker-2"),
		chromedp.Text(".counts", &summary), chromedp.Text("#cp-2", &failing), chromedp.Text("#cp-3 .state", &stuck),
		chromedp.Click("#cp-2 summary"), chromedp.WaitVisible("#cp-2 pre"), chromedp.Text("#cp-2 pre", &words), chromedp.Title(&title),
		chromedp.Evaluate("document.documentElement.scrollWidth > window.innerWidth", &wide))
	for _, want := range []string{"1 Ready", "1 booting", "1 stuck", "1 failed", "1 not seen booting"} {
		if !strings.Contains(strings.Join(strings.Fields(summary), " "), want) {
			t.Errorf("the summary is %q, without %q", summary, want)
		}
	}
	for text, want := range map[string]string{failing: "etcd.service: it ended with 1", stuck: "stuck", words: "last words of etcd", title: "reference · Slipway"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is without %q", text, want)
		}
	}
	if wide {
		t.Error("on a phone the page is wider than the screen")
	}
	if folder := os.Getenv("SLIPWAY_TEST_SCREENSHOTS"); folder != "" {
		var picture []byte
		run(chromedp.FullScreenshot(&picture, 100))
		if err := os.WriteFile(filepath.Join(folder, "phone.png"), picture, 0o644); err != nil {
			t.Fatal(err)
		}
	}

	var kernel, found, parts string
	run(chromedp.Click("#cp-2 .kernel summary"), chromedp.WaitVisible("#cp-2 .kernel pre"), chromedp.Text("#cp-2 .kernel pre", &kernel),
		chromedp.Click(".unknown summary"), chromedp.WaitVisible(".unknown dd"), chromedp.Text(".unknown", &found), chromedp.Text(".unknown details dl", &parts),
		chromedp.Evaluate("document.documentElement.scrollWidth > window.innerWidth", &wide))
	if kernel != "a line of the kernel" || wide || !strings.Contains(found, "discovered") || !strings.Contains(found, "2 x Processor (8 cores, 16 threads), 64.0 GiB, 1 disk (480.0 GB), 1 NIC") ||
		!strings.Contains(found, "<b>Board</b>") || !strings.Contains(found, "slipway adopt 52:54:00:00:00:99 --role") || !strings.Contains(parts, "serial DISK-1") || !strings.Contains(parts, "10000 Mbit/s") {
		t.Errorf("too wide: %v; the kernel's log %q; the discovered machine\n%s\n%s", wide, kernel, found, parts)
	}

	// A machine comes up while somebody reads the last words of another.
	s.change(func() {
		s.nodes[3].State, s.nodes[3].Boots = "ready", boot(s.now, bootspec.EventOffer, bootspec.EventReady)
	})
	run(chromedp.WaitVisible("#worker-1.ready"), chromedp.WaitVisible("#cp-2 pre"), chromedp.WaitVisible("#cp-2 .kernel pre"), chromedp.WaitVisible(".unknown details dd"))

	// The server goes away, and the page says so.
	server.CloseClientConnections()
	server.Close()
	run(chromedp.WaitVisible("#lost"), chromedp.Evaluate(`document.getElementById("cp-1") === null`, &hidden))
	if hidden {
		t.Error("without a server nothing is shown any more")
	}
}

func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(text)
}

// TestPageIsClosed: nothing from elsewhere, nothing that a machine said runs, and nothing changes by asking.
func TestPageIsClosed(t *testing.T) {
	server := serve(t, newSite())
	answer, text := get(t, server.URL)
	if strings.Contains(text, "<script>document") || !strings.Contains(text, "&lt;script&gt;document") {
		t.Error("a machine's words are not escaped")
	}
	for _, outside := range []string{"http://", "https://", "//cdn", " style="} {
		if strings.Contains(text, outside) {
			t.Errorf("the page has %q", outside)
		}
	}
	if got := answer.Header.Get("Content-Security-Policy"); !strings.Contains(got, "default-src 'none'") {
		t.Errorf("its policy is %q", got)
	}
	for _, path := range []string{"/page.go", "/nothing"} {
		if answer, _ := get(t, server.URL+path); answer.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, answer.Status)
		}
	}
	post, err := http.Post(server.URL, "text/plain", strings.NewReader("x"))
	if err != nil || post.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v, %v", post.Status, err)
	}
}

// TestMetrics: states, stuck machines and traffic as Prometheus reads them.
func TestMetrics(t *testing.T) {
	s := newSite()
	s.sent = netboot.Traffic{Answers: 7, HTTPBytes: 1000, HTTPSBytes: 3000, TFTPBytes: 2000, Broken: 1}
	_, text := get(t, serve(t, s).URL+"/metrics")
	for _, want := range []string{
		`slipway_machine_state{mac="52:54:00:00:00:11",node="cp-1",role="control-plane",state="ready"} 1`,
		`slipway_machine_stuck{node="cp-3"} 1`,
		`slipway_machine_stuck{node="worker-1"} 0`,
		`slipway_machine_boot_seconds{node="cp-1"} 9`,
		`slipway_unknown_machines 1`,
		`slipway_dhcp_answers_total 7`,
		`slipway_sent_bytes_total{protocol="http"} 1000`,
		`slipway_sent_bytes_total{protocol="https"} 3000`,
		`slipway_sent_bytes_total{protocol="tftp"} 2000`,
		`slipway_tftp_broken_transfers_total 1`,
		`go_goroutines `,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if strings.Contains(text, `node="worker-2",role="worker",state="ready"`) || strings.Contains(text, "last words") {
		t.Error("the metrics have what they shouldn't")
	}
}

// TestRates: what is sent is shown a second, over the last seconds.
func TestRates(t *testing.T) {
	var r rates
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for i := range int64(20) {
		got := r.at(at.Add(time.Duration(i)*time.Second), netboot.Traffic{Answers: 2 * i, HTTPBytes: 400 * i, HTTPSBytes: 600 * i})
		if i > 0 && (got.Answers != 2 || got.HTTPBytes != 1000) {
			t.Fatalf("after %d s: %+v", i, got)
		}
	}
	for i := range int64(10) { // nothing is sent any more
		if got := r.at(at.Add(time.Duration(20+i)*time.Second), netboot.Traffic{Answers: 38, HTTPBytes: 7600, HTTPSBytes: 11400}); i == 9 && got.HTTPBytes != 0 {
			t.Errorf("long after: %+v", got)
		}
	}
}

// TestWarnings: what somebody should know stands above the machines, escaped, and other DHCP servers and refused claims are metrics.
func TestWarnings(t *testing.T) {
	s := newSite()
	s.nodes[0].Claim = &netboot.Claim{Refused: 3}
	server := httptest.NewServer(New(Source{
		Cluster: "reference", Nodes: s.Nodes, Now: func() time.Time { return s.now }, Traffic: func() netboot.Traffic { return s.sent }, Log: slog.New(slog.DiscardHandler),
		Warnings: func() []netboot.Warning { return []netboot.Warning{{Text: "another <DHCP> server"}} }, Rivals: func() int { return 1 },
	}))
	defer server.Close()
	_, page := get(t, server.URL+"/rack")
	if at := strings.Index(page, `<p class="warning" role="alert">another &lt;DHCP&gt; server</p>`); at < 0 || at > strings.Index(page, `id="cp-1"`) {
		t.Errorf("the page: %s", page)
	}
	_, text := get(t, server.URL+"/metrics")
	for _, want := range []string{"slipway_other_dhcp_servers 1\n", `slipway_machine_refused_claims{node="cp-1"} 3`} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}
