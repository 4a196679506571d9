package backup

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// broken is a place that fails as it is told.
type broken struct {
	Directory
	list, put, remove error
}

func (b *broken) List(ctx context.Context) ([]string, error) {
	if b.list != nil {
		return nil, b.list
	}
	return b.Directory.List(ctx)
}

func (b *broken) Put(ctx context.Context, name string, f *os.File) error {
	if b.put != nil {
		return b.put
	}
	return b.Directory.Put(ctx, name, f)
}

func (b *broken) Remove(ctx context.Context, name string) error {
	if b.remove != nil {
		return b.remove
	}
	return b.Directory.Remove(ctx, name)
}

// pushing is a keeper with one place.
func pushing(t *testing.T) (*Keeper, *pusher, *broken) {
	t.Helper()
	k, _ := keeper(t)
	b := &broken{Directory: Directory{Path: filepath.Join(t.TempDir(), "copies")}}
	to := bootspec.BackupTarget{Directory: b.Path}
	return k, &pusher{keeper: k, to: to, place: b, state: bootspec.Pushed{To: to.String()}}, b
}

// there is what the place has.
func there(t *testing.T, b *broken) string {
	t.Helper()
	list, err := b.Directory.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, " ")
}

func own(hours ...string) string {
	var list []string
	for _, h := range hours {
		list = append(list, "cp-1-20260301T"+h+"0000Z.etcd.age")
	}
	return strings.Join(list, " ")
}

// TestPush: every new snapshot comes to the place once, as it is, and as many stay there as on the node.
func TestPush(t *testing.T) {
	k, p, b := pushing(t)
	for hour := range 5 {
		now := start.Add(time.Duration(hour) * time.Hour)
		k.look(t.Context(), now)
		for range 2 {
			if err := p.push(t.Context(), now); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, want := there(t, b), own("14", "15", "16"); got != want {
		t.Errorf("there is %s, not %s", got, want)
	}
	name := own("16")
	here, _ := os.ReadFile(filepath.Join(k.Plan.Directory, name))
	if copied, err := os.ReadFile(filepath.Join(b.Path, name)); err != nil || string(copied) != string(here) || len(here) == 0 {
		t.Errorf("the copy is another one: %v", err)
	}
	if s := p.status(); s.Fault != "" || !s.Newest.Equal(start.Add(4*time.Hour)) {
		t.Errorf("%+v", s)
	}
}

// TestPushAfterAFault: what could not be brought is brought later, and meanwhile it is told.
func TestPushAfterAFault(t *testing.T) {
	k, p, b := pushing(t)
	k.look(t.Context(), start)
	if err := p.push(t.Context(), start); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		set  func(error)
	}{
		{"list", func(err error) { b.list = err }},
		{"put", func(err error) { b.put = err }},
	} {
		tt.set(errors.New("the cable is cut"))
		if err := p.push(t.Context(), start.Add(time.Hour)); tt.name == "list" && err == nil {
			t.Error("nobody noticed")
		}
		k.look(t.Context(), start.Add(time.Hour))
		if err := p.push(t.Context(), start.Add(time.Hour)); err == nil {
			t.Error("nobody noticed")
		}
		s := p.status()
		if !strings.Contains(s.Fault, "cannot push snapshots of etcd to directory ") || !strings.Contains(s.Fault, "the cable is cut") || !s.Newest.Equal(start) {
			t.Errorf("%s: %+v", tt.name, s)
		}
		tt.set(nil)
	}
	k.look(t.Context(), start.Add(2*time.Hour))
	if err := p.push(t.Context(), start.Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got, want := there(t, b), own("12", "13", "14"); got != want {
		t.Errorf("there is %s, not %s", got, want)
	}
	if s := p.status(); s.Fault != "" || !s.Newest.Equal(start.Add(2*time.Hour)) {
		t.Errorf("%+v", s)
	}
}

// TestPushBesideOthers: other nodes' files stay; a place that keeps fewer isn't sent the old ones again and again; a file that is cut
// gets no name.
func TestPushBesideOthers(t *testing.T) {
	k, p, b := pushing(t)
	other := "cp-2-20200101T000000Z.etcd.age"
	if err := errors.Join(os.MkdirAll(b.Path, 0o700), os.WriteFile(filepath.Join(b.Path, other), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for hour := range 3 {
		k.look(t.Context(), start.Add(time.Duration(hour)*time.Hour))
	}
	if err := p.push(t.Context(), start.Add(3*time.Hour)); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{own("12"), own("13")} {
		if err := os.Remove(filepath.Join(b.Path, gone)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.push(t.Context(), start.Add(3*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got, want := there(t, b), own("14")+" "+other; got != want {
		t.Errorf("there is %s, not %s", got, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f, err := os.Open(filepath.Join(k.Plan.Directory, own("13")))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := b.Directory.Put(ctx, own("13"), f); err == nil || there(t, b) != own("14")+" "+other {
		t.Errorf("a cut copy: %v, %s", err, there(t, b))
	}
}

// TestRunPushes: a keeper that runs takes a snapshot, pushes it, tells of it, and ends when it is told to.
func TestRunPushes(t *testing.T) {
	k, _, b := pushing(t)
	k.Take = func(_ context.Context, w io.Writer) error { _, err := w.Write(snapshot("now")); return err }
	k.Plan.To, k.Log = []bootspec.BackupTarget{{Directory: b.Path}}, slog.New(slog.DiscardHandler)
	k.Place = func(bootspec.BackupTarget) Place { return b }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); k.Run(ctx) }()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s := k.Status()
		if len(s.Pushed) == 1 && !s.Pushed[0].Newest.IsZero() && s.Pushed[0].Newest.Equal(s.Newest) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", s)
		}
	}
	cancel()
	<-ended
}
