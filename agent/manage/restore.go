package manage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/agent/units"
	"github.com/slipway-os/slipway/images/bootspec"
)

// restarted are the units that a restore restarts, in the order in which they stop.
func restarted() []string {
	return []string{"kube-apiserver.service", "etcd.service", "slipway-etcd-guard.service"}
}

// Bounds of a restore.
const (
	toolLimit = 20 * time.Minute
	walRoom   = 256 << 20 // bytes that new data needs besides the database
)

// Control is systemd.
type Control interface {
	// Units are those that a target pulls in.
	Units(ctx context.Context, target string) ([]units.State, error)
	// Restart doesn't wait, and the order of several is that of the units.
	Restart(ctx context.Context, unit string) error
	// RestartAndWait waits until the unit has started, or failed to.
	RestartAndWait(ctx context.Context, unit string) error
	// Reboot restarts the machine in an orderly way. It doesn't wait.
	Reboot(ctx context.Context) error
}

// systemdControl is the real one.
type systemdControl struct{}

func (systemdControl) Restart(ctx context.Context, unit string) error {
	m, err := units.Dial(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.QueueRestart(ctx, unit)
}

func (systemdControl) Reboot(ctx context.Context) error {
	m, err := units.Dial(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Reboot(ctx)
}

func (systemdControl) RestartAndWait(ctx context.Context, unit string) error {
	m, err := units.Dial(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Restart(ctx, unit)
}

// generation is the restore that a request is of.
type generation struct{ at, on string }

func readGeneration(r *http.Request) (generation, error) {
	g := generation{r.URL.Query().Get("at"), r.URL.Query().Get("on")}
	at, err := time.Parse(time.RFC3339, g.at)
	if err != nil || at.UTC().Format(time.RFC3339) != g.at {
		return g, errors.New("at is not a time in UTC and whole seconds")
	}
	if len(g.on) > 253 || !unitName(g.on) { // names of nodes are names of units, too
		return g, errors.New("on is not the name of a node")
	}
	return g, nil
}

func (g generation) flags() []string { return []string{"--at=" + g.at, "--on=" + g.on} }

// etcdChange is the handler of one step: one at a time, on control planes only. What a client began goes on when it goes away:
// half of it would be worse.
func (s *Server) etcdChange(do func(ctx context.Context, g generation, r *http.Request) (aside string, err error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.node.Role != controlPlane {
			http.Error(w, s.node.Name+" has no etcd: name a control plane", http.StatusNotFound)
			return
		}
		g, err := readGeneration(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if !s.restoring.TryLock() {
			http.Error(w, "a restore of etcd is under way already", http.StatusConflict)
			return
		}
		defer s.restoring.Unlock()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), toolLimit)
		defer cancel()
		aside, err := do(ctx, g, r)
		if err != nil {
			s.node.Log.Warn(err.Error())
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		at, _ := time.Parse(time.RFC3339, g.at)
		s.answer(w, bootspec.EtcdChange{At: at, On: g.on, Aside: aside})
	}
}

// asideFolder is where the restore moves the data of before; empty: there is none.
func (s *Server) asideFolder(g generation) string {
	if _, err := os.Stat(filepath.Join(s.etcdData(), "member")); err != nil {
		return ""
	}
	stamp := strings.NewReplacer("-", "", ":", "").Replace(g.at)
	return filepath.Join(bootspec.EtcdDataDirectory, "slipway", "set-aside-"+stamp)
}

// restored is when the cluster was restored that the data is of; zero: never, or nobody knows.
func (s *Server) restored() time.Time {
	var mark struct{ At time.Time }
	f, err := os.Open(filepath.Join(s.etcdData(), "slipway", "restored.json"))
	if err != nil {
		return time.Time{}
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, 4<<10)).Decode(&mark); err != nil {
		return time.Time{}
	}
	return mark.At
}

func (s *Server) etcdData() string { return filepath.Join(s.node.Root, bootspec.EtcdDataDirectory) }

// prepareRestore receives a snapshot and builds data of it, beside etcd's.
func (s *Server) prepareRestore(ctx context.Context, g generation, r *http.Request) (string, error) {
	folder := filepath.Join(s.etcdData(), "slipway")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", fmt.Errorf("cannot prepare a restore of etcd: %w", err)
	}
	file := filepath.Join(folder, "incoming") // one name: what a cut left is written over
	defer os.Remove(file)
	if err := s.receive(r, file); err != nil {
		return "", fmt.Errorf("cannot receive a snapshot of etcd: %w", err)
	}
	host, _, err := net.SplitHostPort(s.node.Address)
	if err != nil {
		return "", fmt.Errorf("cannot prepare a restore of etcd: %w", err)
	}
	return "", s.tool(ctx, append([]string{"restore", "--snapshot=" + file, "--name=" + s.node.Name,
		"--peer-url=https://" + net.JoinHostPort(host, "2380")}, g.flags()...)...)
}

// receive writes the body to a file and checks its SHA-256.
func (s *Server) receive(r *http.Request, file string) error {
	if r.ContentLength <= 0 || r.ContentLength > bootspec.MaxEtcdSnapshot {
		return fmt.Errorf("a snapshot of %d bytes is not taken", r.ContentLength)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(file), &st); err != nil {
		return err
	}
	if free, need := int64(st.Bavail)*st.Bsize, 2*r.ContentLength+walRoom; free < need {
		return fmt.Errorf("the file system of %s has %d MiB free, and %d MiB are needed beside the old data", bootspec.EtcdDataDirectory, free>>20, need>>20)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := &trailing{sum: sha256.New()}
	if _, err := io.Copy(io.MultiWriter(f, sum), r.Body); err != nil {
		return err
	}
	if !sum.matches() {
		return errors.New("it is damaged: its SHA-256 is not the one at its end")
	}
	return nil
}

// patient lets a client send for long, as long as it sends.
func patient(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		r.Body = &patientBody{ReadCloser: r.Body, control: control}
		_ = errors.Join(control.SetReadDeadline(time.Time{}), control.SetWriteDeadline(time.Time{})) // sender sets one for the answer
		next(w, r)
	}
}

type patientBody struct {
	io.ReadCloser
	control *http.ResponseController
}

func (p *patientBody) Read(b []byte) (int, error) {
	if err := p.control.SetReadDeadline(time.Now().Add(writeLimit)); err != nil {
		return 0, err
	}
	n, err := p.ReadCloser.Read(b)
	if err != nil {
		_ = p.control.SetReadDeadline(time.Time{}) // what comes now is the node's work
	}
	return n, err
}

// prepareAside prepares that the data is set aside.
func (s *Server) prepareAside(ctx context.Context, g generation, _ *http.Request) (string, error) {
	return "", s.tool(ctx, append([]string{"set-aside"}, g.flags()...)...)
}

// apply lets what was prepared count, and restarts etcd and what needs it. The guard carries out what counts when etcd has ended.
// They are restarted, not stopped and started: on a node that is just coming up, whoever waits for them goes on waiting. Should
// this end here, the next start of the node does the rest.
func (s *Server) apply(ctx context.Context, g generation, _ *http.Request) (aside string, err error) {
	aside = s.asideFolder(g)
	if err := s.tool(ctx, append([]string{"decide"}, g.flags()...)...); err != nil {
		return "", fmt.Errorf("%w: nothing was changed", err)
	}
	for _, unit := range restarted() {
		if err := s.node.Control.Restart(ctx, unit); err != nil {
			return aside, fmt.Errorf("%w; restart the node: it finishes the restore", err)
		}
	}
	return aside, nil
}

// tool runs slipway-etcd.
func (s *Server) tool(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, s.node.EtcdTool[0], append(s.node.EtcdTool[1:], append(args, "--data-dir="+s.etcdData())...)...)
	cmd.Env = []string{"PATH=/usr/bin"} // not the agent's limit of memory
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if words := strings.TrimPrefix(string(bytes.TrimSpace(out[max(0, len(out)-1000):])), "slipway-etcd: "); words != "" {
		return errors.New(words)
	}
	return fmt.Errorf("cannot run slipway-etcd: %w", err)
}

// trailing knows the SHA-256 of all but the last 32 bytes written to it.
type trailing struct {
	sum  hash.Hash
	last []byte
}

func (t *trailing) Write(p []byte) (int, error) {
	t.last = append(t.last, p...)
	if n := len(t.last) - sha256.Size; n > 0 {
		t.sum.Write(t.last[:n])
		t.last = append(t.last[:0], t.last[n:]...)
	}
	return len(p), nil
}

func (t *trailing) matches() bool {
	return len(t.last) == sha256.Size && bytes.Equal(t.sum.Sum(nil), t.last)
}
