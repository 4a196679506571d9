// Package dashboard shows a rack to people and to Prometheus: a page with every machine's state, the timeline of its boot and
// a failing machine's last words, and the same as metrics. It reads and changes nothing, asks for no login, and its page needs
// nothing from elsewhere.
//
// Words: a view is what the page shows at one moment; a stage is the time from one event of a boot to the next.
//
// It is not for keeping states (builder/netboot does).
package dashboard

import (
	"bytes"
	"embed"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"maragu.dev/gomponents"

	"github.com/slipway-os/slipway/builder/netboot"
	"github.com/slipway-os/slipway/images/bootspec"
)

//go:embed dashboard.css dashboard.js
var assets embed.FS

// Source is what is shown.
type Source struct {
	Cluster string
	Nodes   func() []netboot.NodeStatus
	Traffic func() netboot.Traffic
	// Warnings are what somebody should know; nil: nothing is.
	Warnings func() []netboot.Warning
	// Hardware is what a machine that was discovered has told; nil: nothing is known of any.
	Hardware func(mac string) (bootspec.Hardware, bool)
	// Rivals counts other DHCP servers on the network; nil: none.
	Rivals func() int
	Now    func() time.Time
	Log    *slog.Logger
}

type handler struct {
	Source
	rates rates
}

// New is the handler of the page (/), of the part of it that changes (/rack), and of the metrics (/metrics).
func New(s Source) http.Handler {
	h := &handler{Source: s}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", h.serve(whole))
	mux.HandleFunc("GET /rack", h.serve(rack))
	mux.Handle("GET /dashboard.css", http.FileServerFS(assets))
	mux.Handle("GET /dashboard.js", http.FileServerFS(assets))
	mux.Handle("GET /metrics", metrics(s))
	return mux
}

// policy lets a browser load only what comes from here, and nobody frame it (Content Security Policy Level 3).
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

// serve answers with what is made of a view, whole before any of it is sent.
func (h *handler) serve(show func(view) gomponents.Node) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		now := h.Now()
		var out bytes.Buffer
		if err := show(h.view(now)).Render(&out); err != nil {
			h.Log.Error("cannot make the page", "error", err)
			http.Error(w, "cannot make the page; the server's log says why", http.StatusInternalServerError)
			return
		}
		head := w.Header()
		head.Set("Content-Type", "text/html; charset=utf-8")
		head.Set("Content-Security-Policy", policy)
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Referrer-Policy", "no-referrer")
		head.Set("Cache-Control", "no-store")
		_, _ = w.Write(out.Bytes())
	}
}

// view is what is shown at a time.
func (h *handler) view(now time.Time) view {
	v := makeView(h.Cluster, h.Nodes(), h.rates.at(now, h.Traffic()), now)
	for i := range v.Unknown {
		if h.Hardware == nil {
			break
		}
		if hardware, ok := h.Hardware(v.Unknown[i].MAC); ok {
			v.Unknown[i].Hardware = describe(hardware)
		}
	}
	if h.Warnings != nil {
		for _, w := range h.Warnings() {
			v.Warnings = append(v.Warnings, w.Text)
		}
	}
	return v
}

// Rates are what the server sends, a second.
type Rates struct {
	Answers   float64 // to DHCP requests
	HTTPBytes float64 // with and without TLS
	TFTPBytes float64
}

// rates reckons them over the last seconds in which somebody looked.
type rates struct {
	mu      sync.Mutex
	samples []sample // the oldest first
}

type sample struct {
	at time.Time
	netboot.Traffic
}

// window is what rates are reckoned over, at least.
const window = 5 * time.Second

func (r *rates) at(now time.Time, t netboot.Traffic) Rates {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.samples) > 1 && now.Sub(r.samples[1].at) >= window {
		r.samples = r.samples[1:]
	}
	if n := len(r.samples); n == 0 || now.Sub(r.samples[n-1].at) >= window/10 {
		r.samples = append(r.samples, sample{now, t})
	}
	first := r.samples[0]
	seconds := now.Sub(first.at).Seconds()
	if seconds <= 0 {
		return Rates{}
	}
	return Rates{
		Answers:   float64(t.Answers-first.Answers) / seconds,
		HTTPBytes: float64(t.HTTPBytes+t.HTTPSBytes-first.HTTPBytes-first.HTTPSBytes) / seconds,
		TFTPBytes: float64(t.TFTPBytes-first.TFTPBytes) / seconds,
	}
}
