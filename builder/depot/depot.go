// Package depot takes the snapshots of etcd that control planes push, on the boot server's machine: HTTP with mutual TLS
// (bootspec.RouteDepot). A control plane may only add to its own; operators may list and read all. The newest of each are kept.
//
// What it keeps is encrypted to keys that neither it nor any node has, and is refused otherwise. A file is there whole and with the
// SHA-256 that its sender said, or isn't there.
package depot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Bounds of the depot.
const (
	patience  = 30 * time.Second // a client that neither sends nor reads is let go
	stopLimit = 2 * time.Second
	maxFiles  = 100000 // that are listed
	minFree   = 5      // percent of the file system that is left to others
)

const temporary = ".new-"

// Config of a depot.
type Config struct {
	Address string // host and port
	// Listener is bound to that address already; nil: New binds it. It is closed with the depot, and when New fails.
	Listener net.Listener
	Dir      string // folder for the snapshots; made if it isn't there
	Keep     int    // of each control plane
	// Nodes are the control planes, whose certificates name them.
	Nodes []string
	// Authority signed all clients' certificates. Certificate makes the server's own, for bootspec.DepotName.
	Authority   []byte // PEM
	Certificate func() (*tls.Certificate, error)
	Log         *slog.Logger
	Now         func() time.Time
}

// Depot is a bound one.
type Depot struct {
	config   Config
	dir      *os.Root
	listener net.Listener
	taking   sync.Map // name of a node -> *sync.Mutex: one snapshot of each at a time
	serving  atomic.Pointer[serving]
}

// Terms are what may change while a depot runs. The fields are those of Config.
type Terms struct {
	Keep        int
	Nodes       []string
	Authority   []byte
	Certificate func() (*tls.Certificate, error)
}

// serving is what a depot serves by now.
type serving struct {
	Terms
	authorities []*x509.Certificate
	tls         *tls.Config
}

// Prepare checks other terms for a running depot, and returns what has it serve by them: connections from then on, and requests on those
// there are.
func (d *Depot) Prepare(t Terms) (serve func(), err error) {
	next := &serving{Terms: t}
	next.Nodes = slices.Clone(t.Nodes)
	clients := x509.NewCertPool()
	for rest := t.Authority; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		authority, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("the cluster's authority is no certificate: %w", err)
		}
		clients.AddCert(authority)
		next.authorities = append(next.authorities, authority)
	}
	if len(next.authorities) == 0 {
		return nil, errors.New("the cluster's authority is no certificate")
	}
	next.tls = &tls.Config{
		MinVersion: tls.VersionTLS13, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert, SessionTicketsDisabled: true,
		GetCertificate:   func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return t.Certificate() },
		VerifyConnection: func(c tls.ConnectionState) error { _, _, err := d.who(&c); return err },
		NextProtos:       []string{"http/1.1"},
	}
	return func() {
		for _, n := range next.Nodes {
			d.taking.LoadOrStore(n, &sync.Mutex{})
		}
		d.serving.Store(next)
	}, nil
}

// trusts says whether one of the authorities of now has signed what a client has shown. A connection may be older than they are.
func (s *serving) trusts(chains [][]*x509.Certificate) bool {
	return slices.ContainsFunc(chains, func(chain []*x509.Certificate) bool {
		return slices.ContainsFunc(s.authorities, chain[len(chain)-1].Equal)
	})
}

// New opens the folder and binds the port; Run serves.
func New(c Config) (*Depot, error) {
	fail := func(err error) (*Depot, error) {
		if c.Listener != nil {
			c.Listener.Close()
		}
		return nil, fmt.Errorf("cannot take snapshots of etcd: %w", err)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return fail(err)
	}
	d := &Depot{config: c}
	serve, err := d.Prepare(Terms{Keep: c.Keep, Nodes: c.Nodes, Authority: c.Authority, Certificate: c.Certificate})
	if err != nil {
		return fail(err)
	}
	serve()
	if d.dir, err = os.OpenRoot(c.Dir); err != nil {
		return fail(err)
	}
	if d.listener = c.Listener; d.listener == nil {
		d.listener, err = net.Listen("tcp", c.Address)
	}
	if err != nil {
		d.dir.Close()
		return fail(err)
	}
	return d, nil
}

// Close closes what New opened. Run does it by itself.
func (d *Depot) Close() {
	d.listener.Close()
	d.dir.Close()
}

// Run serves until ctx ends.
func (d *Depot) Run(ctx context.Context) error {
	defer d.Close()
	server := &http.Server{
		Handler: d.routes(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: log.New(io.Discard, "", 0), // refused handshakes would fill the log
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
	})
	err := server.Serve(tls.NewListener(d.listener, d.tls()))
	if !stop() {
		<-ended
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot take snapshots of etcd: %w", err)
	}
	return nil
}

func (d *Depot) tls() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return d.serving.Load().tls, nil },
	}
}

// who is the control plane that a connection is of, or an operator.
func (d *Depot) who(c *tls.ConnectionState) (node string, operator bool, err error) {
	if c == nil || len(c.VerifiedChains) == 0 {
		return "", false, errors.New("there is no certificate")
	}
	now := d.serving.Load()
	if !now.trusts(c.VerifiedChains) {
		return "", false, errors.New("the certificate is of an authority that counts no more")
	}
	leaf := c.VerifiedChains[0][0]
	if slices.Contains(leaf.Subject.Organization, bootspec.ManageGroup) {
		return "", true, nil
	}
	// Only the certificate of a node's management API has the bare name, and names it as a server's too.
	if slices.Contains(now.Nodes, leaf.Subject.CommonName) && slices.Contains(leaf.DNSNames, leaf.Subject.CommonName) {
		return leaf.Subject.CommonName, false, nil
	}
	return "", false, errors.New("the certificate is neither a control plane's nor an operator's")
}

func (d *Depot) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+bootspec.RouteDepot+"{$}", d.list)
	mux.HandleFunc("GET "+bootspec.RouteDepot+"{name}", d.give)
	mux.HandleFunc("PUT "+bootspec.RouteDepot+"{name}", d.take)
	return mux
}

// snapshots are all files, those of a node alone where it is named.
func (d *Depot) snapshots(node string) ([]bootspec.KeptSnapshot, error) {
	dir, err := d.dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(maxFiles)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	list := []bootspec.KeptSnapshot{}
	for _, e := range entries {
		of, _, ok := bootspec.ParseSnapshotName(e.Name())
		st, err := e.Info()
		if ok && err == nil && st.Mode().IsRegular() && (node == "" || of == node) {
			list = append(list, bootspec.KeptSnapshot{Name: e.Name(), Size: st.Size()})
		}
	}
	slices.SortFunc(list, func(a, b bootspec.KeptSnapshot) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return list, nil
}

func (d *Depot) list(w http.ResponseWriter, r *http.Request) {
	node, _, err := d.who(r.TLS)
	var list []bootspec.KeptSnapshot
	if err == nil {
		list, err = d.snapshots(node)
	}
	if err != nil {
		d.fault(w, "cannot list snapshots", err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(patience))
	_ = json.NewEncoder(w).Encode(list)
}

func (d *Depot) fault(w http.ResponseWriter, what string, err error) {
	d.config.Log.Error("depot: "+what, "error", err)
	http.Error(w, what+": "+err.Error(), http.StatusInternalServerError)
}

// give sends a snapshot to an operator.
func (d *Depot) give(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if _, operator, err := d.who(r.TLS); err != nil || !operator {
		http.Error(w, "only operators may read snapshots", http.StatusForbidden)
		return
	}
	if _, _, ok := bootspec.ParseSnapshotName(name); !ok {
		http.NotFound(w, r)
		return
	}
	f, err := d.dir.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		http.NotFound(w, r)
		return
	}
	if err != nil {
		d.fault(w, "cannot read the snapshot", err)
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		d.fault(w, "cannot read the snapshot", err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", fmt.Sprint(st.Size()))
	if _, err := io.Copy(patientWriter{w, http.NewResponseController(w)}, f); err != nil {
		panic(http.ErrAbortHandler) // the client must not take what it has for all
	}
}

// take receives a control plane's snapshot.
func (d *Depot) take(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	node, _, err := d.who(r.TLS)
	if of, _, ok := bootspec.ParseSnapshotName(name); err != nil || node == "" || !ok || of != node {
		http.Error(w, "only the control plane whose snapshot it is may bring it", http.StatusForbidden)
		return
	}
	if r.ContentLength <= 0 || r.ContentLength > bootspec.MaxEtcdSnapshot {
		http.Error(w, fmt.Sprintf("a snapshot of %d bytes is not taken", r.ContentLength), http.StatusRequestEntityTooLarge)
		return
	}
	lock, _ := d.taking.Load(node)
	if mutex, ok := lock.(*sync.Mutex); !ok || !mutex.TryLock() {
		http.Error(w, "another snapshot of "+node+" is on its way", http.StatusConflict)
		return
	} else {
		defer mutex.Unlock()
	}
	began := d.config.Now()
	if err := d.receive(w, r, node, name); err != nil {
		d.config.Log.Warn("depot: cannot take a snapshot", "node", node, "name", name, "error", err)
		http.Error(w, "cannot take the snapshot: "+err.Error(), http.StatusBadRequest)
		return
	}
	if err := d.prune(node, name); err != nil {
		d.config.Log.Error("depot: cannot let old snapshots go", "node", node, "error", err)
	}
	d.config.Log.Info("depot: took a snapshot of etcd", "node", node, "name", name, "bytes", r.ContentLength, "seconds", d.config.Now().Sub(began).Seconds())
	w.WriteHeader(http.StatusNoContent)
}

// receive writes a body beside, compares its SHA-256 and gives it its name.
func (d *Depot) receive(w http.ResponseWriter, r *http.Request, node, name string) (err error) {
	if err := d.roomy(r.ContentLength); err != nil {
		return err
	}
	beside := temporary + node // one name a node: what a power cut left is written over
	f, err := d.dir.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			_ = d.dir.Remove(beside)
		}
	}()
	sum, head := sha256.New(), &beginning{}
	body := patientReader{http.MaxBytesReader(w, r.Body, r.ContentLength), http.NewResponseController(w)}
	if _, err := io.Copy(io.MultiWriter(f, sum, head), body); err != nil {
		return err
	}
	if string(head.data) != bootspec.SnapshotHead {
		return errors.New("it is not encrypted with age")
	}
	if hex.EncodeToString(sum.Sum(nil)) != r.Header.Get(bootspec.HeaderSHA256) {
		return errors.New("its SHA-256 is not the one that its sender says")
	}
	if err := errors.Join(f.Sync(), d.dir.Rename(beside, name)); err != nil {
		return err
	}
	return d.sync()
}

// roomy refuses what would fill the file system.
func (d *Depot) roomy(size int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(d.config.Dir, &st); err != nil {
		return err
	}
	if left := int64(st.Bavail)*st.Bsize - size; left < int64(st.Blocks)*st.Bsize*minFree/100 {
		return fmt.Errorf("the file system of %s on the boot server has not enough room", d.config.Dir)
	}
	return nil
}

func (d *Depot) sync() error {
	dir, err := os.Open(filepath.Clean(d.config.Dir))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// prune lets a node's old snapshots go, but never the one that has just come.
func (d *Depot) prune(node, came string) error {
	list, err := d.snapshots(node)
	if err != nil {
		return err
	}
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	names = bootspec.SnapshotsOf(node, names, d.config.Now())
	for _, old := range names[min(d.serving.Load().Keep, len(names)):] {
		if old == came {
			continue
		}
		if err := d.dir.Remove(old); err != nil {
			return err
		}
	}
	return nil
}

// beginning keeps the first bytes.
type beginning struct{ data []byte }

func (b *beginning) Write(p []byte) (int, error) {
	b.data = append(b.data, p[:min(len(p), len(bootspec.SnapshotHead)-len(b.data))]...)
	return len(p), nil
}

// patientReader lets a client send for as long as it sends.
type patientReader struct {
	from    io.Reader
	control *http.ResponseController
}

func (p patientReader) Read(b []byte) (int, error) {
	if err := p.control.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	return p.from.Read(b)
}

// patientWriter lets a client read for as long as it reads.
type patientWriter struct {
	to      io.Writer
	control *http.ResponseController
}

func (p patientWriter) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	return p.to.Write(b)
}
