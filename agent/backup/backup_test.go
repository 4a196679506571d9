package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipway-os/slipway/images/bootspec"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// snapshot is bytes as etcd sends them: with their SHA-256 at the end.
func snapshot(content string) []byte {
	sum := sha256.Sum256([]byte(content))
	return append([]byte(content), sum[:]...)
}

// sends is a Take that sends bytes in small pieces.
func sends(data []byte) func(context.Context, io.Writer) error {
	return func(_ context.Context, w io.Writer) error {
		for piece := range slices.Chunk(data, 7) {
			if _, err := w.Write(piece); err != nil {
				return err
			}
		}
		return nil
	}
}

func keeper(t *testing.T) (*Keeper, *age.X25519Identity) {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return &Keeper{
		Plan: bootspec.EtcdBackup{EverySeconds: 3600, Keep: 3, Recipients: []string{key.Recipient().String()}, Directory: filepath.Join(t.TempDir(), "a", "b")},
		Node: "cp-1", Take: sends(snapshot("what the cluster keeps")), Log: slog.New(slog.DiscardHandler),
	}, key
}

// names are what is in the folder.
func names(t *testing.T, k *Keeper) []string {
	t.Helper()
	entries, err := os.ReadDir(k.Plan.Directory)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// TestSchedule: one every hour, the newest three, and nobody else's files are touched.
func TestSchedule(t *testing.T) {
	k, key := keeper(t)
	for minutes := 0; minutes <= 5*60; minutes++ {
		k.look(t.Context(), start.Add(time.Duration(minutes)*time.Minute))
		if minutes == 0 {
			for _, other := range []string{"cp-2-20200101T000000Z.etcd.age", "cp-1-notes.txt"} {
				if err := os.WriteFile(filepath.Join(k.Plan.Directory, other), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	want := "cp-1-20260301T150000Z.etcd.age cp-1-20260301T160000Z.etcd.age cp-1-20260301T170000Z.etcd.age cp-1-notes.txt cp-2-20200101T000000Z.etcd.age"
	if got := strings.Join(names(t, k), " "); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	sealed, err := os.ReadFile(filepath.Join(k.Plan.Directory, "cp-1-20260301T170000Z.etcd.age"))
	if err != nil {
		t.Fatal(err)
	}
	open, err := age.Decrypt(bytes.NewReader(sealed), key)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(open); err != nil || !bytes.Equal(got, snapshot("what the cluster keeps")) {
		t.Errorf("%q, %v", got, err)
	}
	if s := k.Status(); !s.Newest.Equal(start.Add(5*time.Hour)) || s.Fault != "" {
		t.Errorf("%s, %q", s.Newest, s.Fault)
	}
}

// TestNothingHalf: what isn't whole gets no name, takes nothing away, and is told.
func TestNothingHalf(t *testing.T) {
	whole := snapshot("what the cluster keeps")
	wrong := slices.Clone(whole)
	wrong[3] ^= 1
	for _, tt := range []struct {
		name string
		take func(context.Context, io.Writer) error
		want string
	}{
		{"cut", sends(whole[:len(whole)-1]), "not whole"},
		{"damaged", sends(wrong), "not whole"},
		{"nothing", sends(nil), "not whole"},
		{"etcd fails", func(context.Context, io.Writer) error { return errors.New("no leader") }, "no leader"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k, _ := keeper(t)
			k.Plan.Keep = 1
			k.look(t.Context(), start)
			before := names(t, k)
			k.Take = tt.take
			k.look(t.Context(), start.Add(2*time.Hour))
			if after := names(t, k); !slices.Equal(before, after) || len(after) != 1 {
				t.Errorf("before %q, after %q", before, after)
			}
			if s := k.Status(); !s.Newest.Equal(start) || !strings.Contains(s.Fault, tt.want) {
				t.Errorf("%s, %q", s.Newest, s.Fault)
			}
			k.Take = sends(whole)
			k.look(t.Context(), start.Add(2*time.Hour+time.Minute))
			if s := k.Status(); !s.Newest.Equal(start.Add(2*time.Hour+time.Minute)) || s.Fault != "" {
				t.Errorf("after it works again: %s, %q", s.Newest, s.Fault)
			}
		})
	}
}

// TestClockBack: a clock that was ahead keeps nobody from taking snapshots, and they aren't thrown away at once.
func TestClockBack(t *testing.T) {
	k, _ := keeper(t)
	k.Plan.Keep = 1
	k.look(t.Context(), start.AddDate(1, 0, 0))
	k.look(t.Context(), start)
	if got := names(t, k); !slices.Contains(got, "cp-1-20260301T120000Z.etcd.age") {
		t.Errorf("%q", got)
	}
}

// TestFull: a file system that is nearly full is left alone, and that is told.
func TestFull(t *testing.T) {
	k, _ := keeper(t)
	k.MinFree = 101
	k.look(t.Context(), start)
	if fault := k.Status().Fault; !strings.Contains(fault, "% of the file system of") || len(names(t, k)) != 0 {
		t.Errorf("%q, %q", fault, names(t, k))
	}
}

// TestWrongRecipient: without a recipient nothing is written in the clear.
func TestWrongRecipient(t *testing.T) {
	for _, recipients := range [][]string{nil, {"age1wrong"}} {
		k, _ := keeper(t)
		k.Plan.Recipients = recipients
		k.look(t.Context(), start)
		if fault := k.Status().Fault; fault == "" || len(names(t, k)) != 0 {
			t.Errorf("%q: %q, %q", recipients, fault, names(t, k))
		}
	}
}
