package firstboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-os/slipway/agent/units"
	"github.com/slipway-os/slipway/images/bootspec"
)

// rehearsal plays systemd, Kubernetes and the boot server. What happens is one line each.
type rehearsal struct {
	mu      sync.Mutex
	states  []units.State
	start   []error // results of Start, in order; then nil
	ready   bool
	why     string
	unknown bool // Kubernetes has no such node
	lines   []string
	news    chan struct{}
}

func (r *rehearsal) Start(context.Context, string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.start) == 0 {
		return nil
	}
	err := r.start[0]
	r.start = r.start[1:]
	return err
}

func (r *rehearsal) Members(context.Context, string) ([]string, error) {
	return []string{"etcd.service"}, nil
}

func (r *rehearsal) States(context.Context, []string) ([]units.State, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.states, nil
}

func (r *rehearsal) Ready(context.Context) (condition, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return condition{Registered: !r.unknown, Ready: r.ready, Why: r.why}, nil
}

func (r *rehearsal) Restart(_ context.Context, unit string) error {
	r.set(func() { r.unknown = false })
	r.add("restarted " + unit)
	return nil
}

func (r *rehearsal) Report(e bootspec.Event, _ string) { r.add(string(e)) }

func (r *rehearsal) Fail(detail, unit string, words []byte) {
	r.add(fmt.Sprintf("failed: %s, unit %q, words %q", detail, unit, words))
}

func (r *rehearsal) notify(state string) {
	if strings.HasPrefix(state, "READY=1") {
		r.add("READY=1")
	}
}

func (r *rehearsal) add(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
	r.news <- struct{}{}
}

func (r *rehearsal) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// await waits for the next lines.
func (r *rehearsal) await(t *testing.T, want ...string) {
	t.Helper()
	for range want {
		select {
		case <-r.news:
		case <-time.After(20 * time.Second):
			t.Fatalf("nothing more happens after %q, wanted %q", r.lines, want)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := strings.Join(r.lines[max(0, len(r.lines)-len(want)):], "\n"); got != strings.Join(want, "\n") {
		t.Errorf("happened:\n%s\nwanted:\n%s", got, strings.Join(want, "\n"))
	}
}

func rehearse(t *testing.T, r *rehearsal) {
	t.Helper()
	r.news = make(chan struct{}, 1000)
	s := supervisor{
		target: "slipway-worker.target", units: r, kube: r, sender: r, notify: r.notify, tick: time.Millisecond, rejoin: 20 * time.Millisecond,
		words: func(_ context.Context, unit string) ([]byte, error) { return []byte("last words of " + unit), nil },
		log:   slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func etcd(active, sub string, restarts int) []units.State {
	return []units.State{{Name: "etcd.service", Active: active, Sub: sub, Restarts: restarts}}
}

func TestFailureAndRecovery(t *testing.T) {
	r := &rehearsal{states: etcd("active", "running", 0)}
	rehearse(t, r)
	r.await(t, "READY=1", "units started")
	r.set(func() { r.ready = true })
	r.await(t, "ready")
	r.set(func() { r.states = etcd("activating", "auto-restart", 5) })
	r.await(t, `failed: unit fails: etcd.service activating (auto-restart, 5 restarts), unit "etcd.service", words "last words of etcd.service"`)
	r.set(func() { r.states = etcd("active", "running", 6) })
	r.await(t, "ready")
	r.set(func() { r.ready, r.why = false, "KubeletNotReady: PLEG" })
	r.await(t, `failed: node is no longer Ready: KubeletNotReady: PLEG, unit "", words ""`)
}

func TestTargetThatDoesNotExist(t *testing.T) {
	r := &rehearsal{start: []error{errors.New("unit not found")}}
	rehearse(t, r)
	r.await(t, `failed: unit not found, unit "slipway-worker.target", words ""`)
}

func TestFailureWhileStarting(t *testing.T) {
	r := &rehearsal{states: etcd("failed", "failed", 0), start: []error{&units.JobError{Unit: "slipway-worker.target", Result: "dependency"}}}
	rehearse(t, r)
	r.await(t, `failed: unit fails: etcd.service failed (failed), unit "etcd.service", words "last words of etcd.service"`)
}

// A node that hangs tells on its console what the unit it waits for said last.
func TestLongWaitTellsWhatUnitsSaid(t *testing.T) {
	var out bytes.Buffer
	s := supervisor{
		words: func(context.Context, string) ([]byte, error) { return []byte("started\nno pod subnet yet\n"), nil },
		log:   slog.New(slog.NewTextHandler(&out, nil)), notify: func(string) {},
	}
	states := append(etcd("activating", "start", 0), units.State{Name: "kubelet.service", Active: "inactive", Sub: "dead"})
	for range quietWaits {
		s.spoken = time.Time{}
		s.wait(t.Context(), states)
	}
	if strings.Contains(out.String(), "subnet") || !strings.Contains(out.String(), "etcd.service activating (start)") {
		t.Errorf("a short wait is told as %s", out.String())
	}
	s.spoken = time.Time{}
	s.wait(t.Context(), states)
	if want := "etcd.service activating (start): no pod subnet yet kubelet.service inactive (dead)"; !strings.Contains(out.String(), want) {
		t.Errorf("a long wait is told as %s", out.String())
	}
}

// The control plane has lost the node after its kubelet registered it, before the units were started and after.
func TestKubeletOfALostNodeIsRestarted(t *testing.T) {
	for name, start := range map[string][]error{"waiting": {&units.JobError{Unit: "slipway-worker.target", Result: "timeout"}}, "started": nil} {
		t.Run(name, func(t *testing.T) {
			r := &rehearsal{unknown: true, start: start, states: []units.State{{Name: kubelet, Active: "active", Sub: "running"}}}
			rehearse(t, r)
			if start == nil {
				r.await(t, "READY=1", string(bootspec.EventUnitsStarted))
			}
			r.await(t, "restarted kubelet.service")
		})
	}
}
