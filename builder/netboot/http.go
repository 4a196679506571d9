package netboot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// handler is the HTTP side. It serves artifacts to anyone on the provisioning network (firmware asks without TLS, the agent with), over TLS a
// node's configuration to who may claim it, and takes reports only from the node's address.
type handler struct {
	site      *Site
	port      int // of its own URLs
	artifacts *artifacts
	states    *states
	config    func(name string) ([]byte, error)
	log       *slog.Logger
	reports   *reportLimit
	told      func() time.Time
	now       func() time.Time
	secure    bootspec.Secure // without a URL: there is no TLS, and no configuration. Its URL is that at the site's first address
	claims    *claims
	leases    pools     // nil: no machine is discovered
	machines  *machines // likewise
	tpms      tpms
	others    func() []netip.Addr // further boot servers of this site; may be nil
}

func (h *handler) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+bootspec.RouteArtifacts+"{name}", h.serveArtifact)
	mux.HandleFunc("GET "+routeIPXE+"{image}/{file}", h.serveIPXE)
	mux.HandleFunc("GET "+bootspec.RouteConfig, h.refuseConfig)
	if h.secure.URL != "" {
		mux.HandleFunc("GET "+bootspec.RouteSecure, h.serveSecure)
	}
	mux.HandleFunc("POST "+bootspec.RouteReport, h.takeReport)
	mux.HandleFunc("GET "+bootspec.RouteNodes, h.serveNodes)
	mux.HandleFunc("GET "+bootspec.RouteNodes+"/{name}", h.serveNode)
	mux.HandleFunc("GET "+bootspec.RouteHealth, h.serveHealth)
	return mux
}

// serveHealth says that the server is there, and the time that nodes set their clocks by.
func (h *handler) serveHealth(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Date", h.told().UTC().Format(http.TimeFormat))
	fmt.Fprintln(w, "ok")
}

// serveArtifact serves one file (HEAD and Range through http.ServeContent, which uses sendfile). Firmware wants the right
// Content-Length on HEAD and GET alike, and no redirect.
func (h *handler) serveArtifact(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	file, artifact, err := h.artifacts.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		http.NotFound(w, r)
		return
	}
	if err != nil {
		h.log.Error("http: cannot serve an artifact", "to", r.RemoteAddr, "error", err)
		http.Error(w, "the server cannot serve this artifact; its log says why", http.StatusInternalServerError)
		return
	}
	defer file.Close()
	w.Header().Set("Content-Type", contentType(name))
	if serveWhole(w, r, file, artifact.Size, artifact.SHA256) && artifact.Kind == manifest.KindUKI {
		h.log.Info("http: sent", "client", r.RemoteAddr, "file", name, "bytes", artifact.Size)
		h.states.kernelSent(remote(r), "HTTP", name, artifact.Size)
	}
}

// contentType is what a file is for UEFI's HTTP Boot, which goes by it or by the name's end (UEFI specification 24.7, EDK II's
// HttpBootDxe). Firmware gives up on types that it doesn't expect.
func contentType(name string) string {
	switch path.Ext(name) {
	case bootspec.ExtUKI:
		return "application/efi"
	case ".iso":
		return "application/vnd.efi-iso"
	case ".img":
		return "application/vnd.efi-img"
	}
	return "application/octet-stream"
}

// serveWhole serves what a client asks for of a content that tag names, and says whether that was all of it.
func serveWhole(w http.ResponseWriter, r *http.Request, content io.ReadSeeker, size int64, tag string) bool {
	w.Header().Set("ETag", `"`+tag+`"`)
	counted := &countingWriter{ResponseWriter: w}
	http.ServeContent(counted, r, "", time.Time{}, content)
	return counted.written == size
}

// bounded is the beginning of a text from outside, as much as a log line has room for.
func bounded(text string) string { return text[:min(len(text), 64)] }

// takeReport takes a node's report.
func (h *handler) takeReport(w http.ResponseWriter, r *http.Request) {
	report, err := decodeReport(http.MaxBytesReader(w, r.Body, bootspec.MaxReport))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	m, ok := h.sender(r, report.MAC)
	if !ok {
		h.log.Warn("report refused", "from", r.RemoteAddr, "mac", report.MAC)
		http.Error(w, "no node with this MAC address at this address", http.StatusForbidden)
		return
	}
	if !h.reports.allow(m.Name) {
		http.Error(w, "too many reports", http.StatusTooManyRequests)
		return
	}
	report.MAC = m.MAC.String()
	h.states.report(report)
	if err := h.states.settled(r.Context()); err != nil { // the node forgets a report once it's acknowledged
		http.Error(w, "the server has this report in memory only: say it again", http.StatusServiceUnavailable)
		return
	}
	h.log.Info("report", "node", m.Name, "event", report.Event, "unit", report.Unit, "detail", report.Detail)
	w.WriteHeader(http.StatusNoContent)
}

// decodeReport reads a report. Fields it doesn't know are passed over: the node's image may be newer than this server.
// Its texts are cut to their bounds and can't write over a terminal.
func decodeReport(body io.Reader) (bootspec.Report, error) {
	var report bootspec.Report
	decoder := json.NewDecoder(body)
	if err := decoder.Decode(&report); err != nil {
		return report, fmt.Errorf("cannot read report: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return report, errors.New("cannot read report: something comes after it")
	}
	if report.Event == "" || len(report.Event) > 64 || len(report.Boot) > 64 || len(report.Unit) > 256 {
		return report, errors.New("cannot read report: event is missing, or event, boot or unit is too long")
	}
	if report.Uptime < 0 || report.Uptime > maxUptime {
		return report, errors.New("cannot read report: uptime is out of range")
	}
	report.Event = bootspec.Event(oneLine(string(report.Event)))
	report.Boot, report.Unit = oneLine(report.Boot), oneLine(report.Unit)
	report.Detail = oneLine(report.Detail[:min(len(report.Detail), 4096)])
	report.Log = plain(report.Log[max(0, len(report.Log)-64<<10):])
	report.Kernel = plain(report.Kernel[max(0, len(report.Kernel)-64<<10):])
	return report, nil
}

// maxUptime is ten years.
const maxUptime = bootspec.Millis(10 * 365 * 24 * time.Hour / time.Millisecond)

// plain replaces control characters other than tabs and newlines.
func plain(text string) string {
	lines := strings.Split(strings.ToValidUTF8(text, "?"), "\n")
	for i, line := range lines {
		cells := strings.Split(line, "\t")
		for j := range cells {
			cells[j] = oneLine(cells[j])
		}
		lines[i] = strings.Join(cells, "\t")
	}
	return strings.Join(lines, "\n")
}

// oneLine replaces control characters, so that no report can write over a terminal.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

func (h *handler) serveNodes(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	all := h.states.all()
	for i := range all {
		for j := range all[i].Boots {
			for k := range all[i].Boots[j].Events {
				all[i].Boots[j].Events[k].Kernel = "" // thousands of them are too much for one answer
			}
		}
	}
	if err := encoder.Encode(all); err != nil {
		h.log.Warn("cannot send node states", "error", err)
	}
}

// serveNode tells all of one machine, by its node's name or its MAC address.
func (h *handler) serveNode(w http.ResponseWriter, r *http.Request) {
	name := strings.ToLower(r.PathValue("name"))
	for _, n := range h.states.all() {
		if n.MAC == name || n.Name != "" && n.Name == name {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(n)
			return
		}
	}
	http.Error(w, "this boot server knows no such machine", http.StatusNotFound)
}

// sender is the node with the MAC address, if the request comes from its address.
func (h *handler) sender(r *http.Request, mac string) (Machine, bool) {
	m, ok := h.node(strings.TrimSpace(mac))
	return m, ok && h.states.at(m, remote(r))
}

func remote(r *http.Request) netip.Addr {
	if a, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return a.Addr().Unmap()
	}
	return netip.Addr{}
}

// countingWriter counts the body's bytes. It keeps ReadFrom, and with it sendfile.
type countingWriter struct {
	http.ResponseWriter
	written int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.written += int64(n)
	return n, err
}

func (c *countingWriter) ReadFrom(r io.Reader) (int64, error) {
	from, ok := c.ResponseWriter.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	n, err := from.ReadFrom(r)
	c.written += n
	return n, err
}

// reportLimit bounds the reports of each node.
type reportLimit struct {
	mu     sync.Mutex
	now    func() time.Time
	window time.Time
	count  map[string]int
}

// reportsPerMinute is generous: a boot sends about ten.
const reportsPerMinute = 120

func (l *reportLimit) allow(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.now(); l.count == nil || now.Sub(l.window).Abs() > time.Minute {
		l.window, l.count = now, map[string]int{}
	}
	l.count[node]++
	return l.count[node] <= reportsPerMinute
}

// serveHTTP serves until ctx ends, then lets running answers end for a moment.
func serveHTTP(ctx context.Context, listener net.Listener, h http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler:           h,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ConnState:         noteIdle,
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
	})
	err := server.Serve(listener)
	if !stop() {
		<-ended
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot serve HTTP: %w", err)
	}
	return nil
}
