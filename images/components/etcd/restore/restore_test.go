package restore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func at(hour int) Generation {
	return Generation{At: time.Date(2026, 3, 1, hour, 0, 0, 0, time.UTC), On: "cp-1"}
}

// put writes files of the tree dir: lines of path=text.
func put(t *testing.T, dir string, files ...string) {
	t.Helper()
	for _, f := range files {
		name, text, _ := strings.Cut(f, "=")
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// tree is what is in dir, as put takes it.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		lines = append(lines, name+"="+strings.TrimSpace(string(data)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func build(dir string) error {
	return errors.Join(os.MkdirAll(filepath.Join(dir, member, "wal"), 0o700), os.WriteFile(filepath.Join(dir, member, "wal", "log"), []byte("new"), 0o600))
}

func do(t *testing.T, dir string, g Generation, build func(string) error) {
	t.Helper()
	if err := errors.Join(Stage(dir, g, build), Decide(dir, g), Settle(dir)); err != nil {
		t.Fatal(err)
	}
}

const (
	mark12 = `{"at":"2026-03-01T12:00:00Z","on":"cp-1"}`
	mark13 = `{"at":"2026-03-01T13:00:00Z","on":"cp-1"}`
)

// TestARestoreThatIsCut: whatever a loss of power left, Settle comes to the same end.
func TestARestoreThatIsCut(t *testing.T) {
	const aside = "slipway/set-aside-20260301T130000Z/"
	data, none := `{"at":"2026-03-01T13:00:00Z","on":"cp-1","data":true}`, `{"at":"2026-03-01T13:00:00Z","on":"cp-1","data":false}`
	whole := strings.Join([]string{"member/wal/log=new", "slipway/restored.json=" + mark13, aside + "member/wal/log=old", aside + "restored.json=" + mark12}, "\n")
	gone := strings.Join([]string{"slipway/restored.json=" + mark13, aside + "member/wal/log=old", aside + "restored.json=" + mark12}, "\n")
	for _, tt := range []struct {
		name  string
		files []string
		want  string
	}{
		{"decided", []string{"member/wal/log=old", "slipway/restored.json=" + mark12, "slipway/pending/change.json=" + data, "slipway/pending/member/wal/log=new"}, whole},
		{"the old generation moved", []string{"member/wal/log=old", aside + "restored.json=" + mark12, "slipway/pending/change.json=" + data, "slipway/pending/member/wal/log=new"}, whole},
		{"the old data moved", []string{aside + "member/wal/log=old", aside + "restored.json=" + mark12, "slipway/pending/change.json=" + data, "slipway/pending/member/wal/log=new"}, whole},
		{"the new generation written", []string{aside + "member/wal/log=old", aside + "restored.json=" + mark12, "slipway/restored.json=" + mark13, "slipway/pending/change.json=" + data, "slipway/pending/member/wal/log=new"}, whole},
		{"the new data moved", []string{"member/wal/log=new", aside + "member/wal/log=old", aside + "restored.json=" + mark12, "slipway/restored.json=" + mark13, "slipway/pending/change.json=" + data}, whole},
		{"all done but a folder", []string{"member/wal/log=new", aside + "member/wal/log=old", aside + "restored.json=" + mark12, "slipway/restored.json=" + mark13, "slipway/pending/x="}, whole},
		{"set aside, decided", []string{"member/wal/log=old", "slipway/restored.json=" + mark12, "slipway/pending/change.json=" + none}, gone},
		{"set aside, moved", []string{aside + "member/wal/log=old", aside + "restored.json=" + mark12, "slipway/pending/change.json=" + none}, gone},
		{"set aside, written", []string{aside + "member/wal/log=old", aside + "restored.json=" + mark12, "slipway/restored.json=" + mark13, "slipway/pending/change.json=" + none}, gone},
		{"nothing was decided", []string{"member/wal/log=old", "slipway/next/change.json=" + data}, "member/wal/log=old\nslipway/next/change.json=" + data},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir, tt.files...)
			if err := Settle(dir); err != nil {
				t.Fatal(err)
			}
			if got := tree(t, dir); got != tt.want {
				t.Errorf("it comes to\n%s\n, not\n%s", got, tt.want)
			}
		})
	}
}

// TestNothingCountsBeforeItIsDecided: a snapshot that can't be built, a clock that is behind, another restore meanwhile.
func TestNothingCountsBeforeItIsDecided(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "member/wal/log=old")
	if err := Stage(dir, at(12), func(string) error { return errors.New("the snapshot is damaged") }); err == nil || !strings.Contains(err.Error(), "the snapshot is damaged") {
		t.Errorf("%v", err)
	}
	if err := Decide(dir, at(12)); err == nil {
		t.Error("a change that could not be built was decided")
	}
	if err := Stage(dir, at(12), build); err != nil {
		t.Fatal(err)
	}
	if err := Decide(dir, at(13)); err == nil || !strings.Contains(err.Error(), "another one") {
		t.Errorf("%v", err)
	}
	if err := Settle(dir); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "member/wal/log")); err != nil || string(data) != "old" {
		t.Errorf("%q, %v", data, err)
	}
	do(t, dir, at(12), build)
	for _, g := range []Generation{at(12), at(11)} {
		if err := Stage(dir, g, nil); err == nil || !strings.Contains(err.Error(), "the clock of the machine that restores is behind") {
			t.Errorf("%v: %v", g, err)
		}
	}
}

// TestTheNewestTwoAreKept: what is set aside can't fill the disk.
func TestTheNewestTwoAreKept(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "member/wal/log=first", "other=stays")
	for hour := range 4 {
		do(t, dir, at(hour), build)
	}
	got, err := Aside(dir)
	if err != nil || strings.Join(got, " ") != "set-aside-20260301T030000Z set-aside-20260301T020000Z" {
		t.Errorf("%q, %v", got, err)
	}
	if g, err := Read(dir); err != nil || g != at(3) || Pending(dir) {
		t.Errorf("%v, %v", g, err)
	}
}

// FuzzMark: what lies on a disk may be anything.
func FuzzMark(f *testing.F) {
	f.Add([]byte(mark12))
	f.Add([]byte(`{"at":"x"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		put(t, dir, own+"/"+markFile+"="+string(text), own+"/"+pending+"/"+changeFile+"="+string(text))
		if g, err := Read(dir); err == nil {
			_ = g.String()
		}
		_ = Settle(dir)
	})
}
