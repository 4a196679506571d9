package publish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/builder/release"
)

// TestMain is a publisher too: one that a test starts, to kill it.
func TestMain(m *testing.M) {
	if words := strings.Fields(os.Getenv("PUBLISH_AND_DIE")); len(words) == 3 {
		publishAndDie(words[0], words[1], words[2])
	}
	os.Exit(m.Run())
}

// publishAndDie publishes what is in from to a folder, keeps one version, and is killed the n-th time that a crash would hurt. It
// ends with 0 when there are fewer such points.
func publishAndDie(from, to, n string) {
	f, err := CreateFolder(to)
	if err != nil {
		panic(err)
	}
	count := 0
	f.at = func(string) {
		if count++; fmt.Sprint(count) == n {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	root, err := os.OpenRoot(from)
	if err != nil {
		panic(err)
	}
	r, err := release.Open(context.Background(), root, "", nil)
	if err == nil {
		_, err = f.Apply(context.Background(), Order{Release: r, From: root, Channels: []string{"stable"}, Keep: Keep{Newest: 1}})
	}
	if err != nil {
		panic(err)
	}
	os.Exit(0)
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// baked is a folder with a release.
func baked(t *testing.T, version, content string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, fixture.Image(dir, "worker", version, content))
	return dir
}

// publish publishes a release.
func publish(t *testing.T, f *Folder, dir string, o Order) (Result, error) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	o.From = root
	o.Release, err = release.Open(context.Background(), root, "", nil)
	must(t, err)
	return f.Apply(context.Background(), o)
}

func place(t *testing.T) *Folder {
	t.Helper()
	f, err := CreateFolder(filepath.Join(t.TempDir(), "place"))
	must(t, err)
	f.Patience = time.Minute
	t.Cleanup(func() { f.Close() })
	return f
}

// seen is what a reader sees: each channel with the digests of all files of the version that it names. Whatever the index
// names must be whole.
func seen(t *testing.T, dir string) string {
	t.Helper()
	f, err := OpenFolder(dir)
	must(t, err)
	defer f.Close()
	x, err := f.Index(context.Background())
	must(t, err)
	var words []string
	for _, r := range x.Releases {
		words = append(words, r.Version)
		for _, file := range r.Files {
			in, err := f.Open(context.Background(), r, file, 0)
			must(t, err)
			sum := sha256.New()
			_, err = io.Copy(sum, in)
			must(t, err, in.Close())
			if got := fmt.Sprintf("%x", sum.Sum(nil)); got != file.SHA256 {
				t.Errorf("%s of version %s: %s, not %s", file.Name, r.Version, got, file.SHA256)
			}
		}
	}
	for _, name := range x.ChannelNames() {
		words = append(words, name+"="+x.Channels[name])
	}
	return strings.Join(words, " ")
}

// TestACrashLeavesTheOldState kills a publisher at every point, one after the other: readers see the old state or the new one,
// whole, and the next publisher leaves nothing behind.
func TestACrashLeavesTheOldState(t *testing.T) {
	const before, after = "1.0.0 stable=1.0.0", "2.0.0 stable=2.0.0"
	next := baked(t, "2.0.0", "two")
	crashes, news := 0, 0
	for n := 1; ; n++ {
		f := place(t)
		if _, err := publish(t, f, baked(t, "1.0.0", "one"), Order{Channels: []string{"stable"}}); err != nil {
			t.Fatal(err)
		}
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), fmt.Sprintf("PUBLISH_AND_DIE=%s %s %d", next, f.dir, n))
		if out, err := c.CombinedOutput(); err == nil {
			break
		} else if !strings.Contains(err.Error(), "killed") {
			t.Fatalf("%v\n%s", err, out)
		}
		crashes++
		switch got := seen(t, f.dir); got {
		case before:
		case after:
			news++
		default:
			t.Errorf("killed at point %d, readers see: %s", n, got)
		}
		if _, err := publish(t, f, next, Order{Channels: []string{"stable"}, Keep: Keep{Newest: 1}}); err != nil {
			t.Errorf("after a crash at point %d: %v", n, err)
		}
		if got := seen(t, f.dir); got != after {
			t.Errorf("after a crash at point %d and another run, readers see: %s", n, got)
		}
		if left := tree(t, f.dir); left != ".lock index.json releases releases/2.0.0 releases/2.0.0/slipway-2.0.0.sha256sums releases/2.0.0/slipway-worker-2.0.0-amd64.json releases/2.0.0/slipway-worker-2.0.0-amd64.root" {
			t.Errorf("after a crash at point %d and another run there is: %s", n, left)
		}
	}
	if crashes < 6 || news == 0 || news == crashes {
		t.Errorf("%d crashes, after %d of them the new state: that tried too little", crashes, news)
	}
}

func tree(t *testing.T, dir string) string {
	t.Helper()
	var names []string
	must(t, fs.WalkDir(os.DirFS(dir), ".", func(name string, _ fs.DirEntry, err error) error {
		if name != "." {
			names = append(names, name)
		}
		return err
	}))
	return strings.Join(names, " ")
}

// TestTwoPublishers: many publish the same version at once; of each two that differ one is refused, and what is there is whole.
func TestTwoPublishers(t *testing.T) {
	f := place(t)
	dirs := []string{baked(t, "1.0.0", "one"), baked(t, "1.0.0", "other"), baked(t, "1.0.0", "one")}
	errs := make([]error, len(dirs))
	var all sync.WaitGroup
	for i, dir := range dirs {
		all.Go(func() {
			own, err := CreateFolder(f.dir)
			if err == nil {
				defer own.Close()
				own.Patience = time.Minute
				_, err = publish(t, own, dir, Order{Channels: []string{"stable"}})
			}
			errs[i] = err
		})
	}
	all.Wait()
	if (errs[0] == nil) != (errs[2] == nil) || (errs[0] == nil) == (errs[1] == nil) {
		t.Errorf("%v", errs)
	}
	if err := errors.Join(errs...); !errors.Is(err, ErrRefused) {
		t.Error(err)
	}
	if got := seen(t, f.dir); got != "1.0.0 stable=1.0.0" {
		t.Errorf("readers see: %s", got)
	}
}

func TestALockThatIsHeld(t *testing.T) {
	f := place(t)
	unlock, err := f.lock(context.Background())
	must(t, err)
	other, err := OpenFolder(f.dir)
	must(t, err)
	defer other.Close()
	waited := ""
	other.Wait = func(who string) { waited = who }
	_, err = other.Apply(context.Background(), Order{})
	if want := fmt.Sprintf("process %d on ", os.Getpid()); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(waited, want) {
		t.Errorf("%v; waited for %q", err, waited)
	}
	other.Patience = time.Hour
	ctx, cancel := context.WithCancel(context.Background())
	other.Wait = func(string) { cancel() }
	if _, err := other.Apply(ctx, Order{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	unlock()
	if _, err := other.Apply(context.Background(), Order{}); err != nil {
		t.Error(err)
	}
}

// TestPublishedFilesAreReadable: whatever the umask and the modes of the baked files are; and holes stay holes.
func TestPublishedFilesAreReadable(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	f := place(t)
	_, err := publish(t, f, baked(t, "1.0.0", "one"), Order{})
	must(t, err)
	must(t, filepath.WalkDir(f.dir, func(name string, e fs.DirEntry, err error) error {
		must(t, err)
		info, err := e.Info()
		if want := map[bool]fs.FileMode{true: 0o755, false: 0o644}[e.IsDir()]; info.Mode().Perm() != want && name != f.dir && e.Name() != lockName {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
		return err
	}))
	info, err := os.Stat(filepath.Join(f.dir, Releases, "1.0.0", "slipway-worker-1.0.0-amd64.root"))
	must(t, err)
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used >= info.Size() {
		t.Errorf("%d bytes take %d", info.Size(), used)
	}
}

// TestWhatIsNotTaken: after each of these nothing has changed.
func TestWhatIsNotTaken(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string, f *Folder)
		words string
	}{
		"cut off": {func(t *testing.T, dir string, _ *Folder) { must(t, os.Truncate(root(dir), 5)) }, "is not what its manifest says"},
		"changed": {func(t *testing.T, dir string, _ *Folder) {
			must(t, os.WriteFile(root(dir), make([]byte, 300<<10+6), 0o600))
		}, "not what its manifest says"},
		"missing":       {func(t *testing.T, dir string, _ *Folder) { must(t, os.Remove(root(dir))) }, "no such file"},
		"channel":       {func(*testing.T, string, *Folder) {}, "channel stable names 3.0.0"},
		"index is gone": {func(t *testing.T, _ string, f *Folder) { must(t, os.Remove(filepath.Join(f.dir, IndexName))) }, "bring it back from a backup"},
	} {
		t.Run(name, func(t *testing.T) {
			f := place(t)
			_, err := publish(t, f, baked(t, "3.0.0", "three"), Order{Channels: []string{"stable"}})
			must(t, err)
			dir := baked(t, "2.0.0", "two")
			c.spoil(t, dir, f)
			before := tree(t, f.dir)
			o := Order{}
			if name == "channel" {
				o.Channels = []string{"stable"}
			}
			if _, err := publish(t, f, dir, o); err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v\nwant: %s", err, c.words)
			}
			if after := tree(t, f.dir); after != before {
				t.Errorf("%s\nbefore: %s", after, before)
			}
		})
	}
}

func root(dir string) string { return filepath.Join(dir, "slipway-worker-2.0.0-amd64.root") }

func TestAnInterruptedPublisherLeavesNothing(t *testing.T) {
	f := place(t)
	_, err := publish(t, f, baked(t, "1.0.0", "one"), Order{})
	must(t, err)
	dir := baked(t, "2.0.0", "two")
	source, err := os.OpenRoot(dir)
	must(t, err)
	defer source.Close()
	r, err := release.Open(context.Background(), source, "", nil)
	must(t, err)
	before := tree(t, f.dir)
	ctx, cancel := context.WithCancel(context.Background())
	_, err = f.Apply(ctx, Order{Release: r, From: source, Progress: func(done, all int64) {
		if done > all/2 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if after := tree(t, f.dir); after != before {
		t.Errorf("%s\nbefore: %s", after, before)
	}
}

func TestDamagedPlace(t *testing.T) {
	f := place(t)
	dir := baked(t, "2.0.0", "two")
	_, err := publish(t, f, dir, Order{})
	must(t, err)
	must(t, os.Remove(root(filepath.Join(f.dir, Releases, "2.0.0"))))
	if _, err := publish(t, f, dir, Order{}); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Error(err)
	}
	must(t, os.RemoveAll(filepath.Join(f.dir, Releases, "2.0.0")))
	if _, err := publish(t, f, dir, Order{}); err != nil {
		t.Error(err)
	}
	if got := seen(t, f.dir); got != "2.0.0" {
		t.Error(got)
	}
}

func TestRetention(t *testing.T) {
	x := NewIndex()
	for _, v := range []string{"1.0.0", "1.10.0", "1.9.0", "2.0.0-rc.1", "2.0.0", "2.0.0+ci.2", "2.0.0+ci.10"} {
		if _, err := x.Add(Release{Version: v, Digest: strings.Repeat("a", 64)}); err != nil {
			t.Fatal(err)
		}
	}
	for channel, v := range map[string]string{"stable": "1.0.0", "edge": "2.0.0+ci.10"} {
		_, err := x.Move(channel, v, false)
		must(t, err)
	}
	if got := Versions(x.Gone(Keep{})); got != "" {
		t.Errorf("without a limit: %s", got)
	}
	if got := Versions(x.Gone(Keep{Newest: 2, Versions: []string{"1.9.0", "0.0.1"}})); got != "1.10.0, 2.0.0-rc.1, 2.0.0" {
		t.Errorf("gone: %s", got)
	}
	gone := x.Prune(Keep{Newest: 1})
	if got := Versions(x.Releases); got != "1.0.0, 2.0.0+ci.10" || len(gone) != 5 {
		t.Errorf("left: %s, gone: %d", got, len(gone))
	}
	must(t, x.check())
}

// TestAVersionJustPublishedStays, though it is older than those that are kept.
func TestAVersionJustPublishedStays(t *testing.T) {
	f := place(t)
	for _, v := range []string{"2.0.0", "2.1.0", "1.0.9"} {
		r, err := publish(t, f, baked(t, v, v), Order{Keep: Keep{Newest: 1}})
		must(t, err)
		if v == "2.1.0" && !slices.Equal(r.Pruned, []string{"2.0.0"}) {
			t.Errorf("pruned: %v", r.Pruned)
		}
	}
	if got := seen(t, f.dir); got != "1.0.9 2.1.0" {
		t.Error(got)
	}
}

func FuzzDecodeIndex(f *testing.F) {
	x := NewIndex()
	x.Releases = []Release{{Version: "1.0.0+a", Digest: strings.Repeat("a", 64), Images: []Image{{"worker", "amd64"}}, Files: []release.File{{Name: "x", Size: 1, SHA256: strings.Repeat("b", 64)}}}}
	x.Channels["stable"] = "1.0.0+a"
	f.Add(x.Encode())
	f.Add([]byte(`{"apiVersion":"slipway.dev/v1alpha1","kind":"ReleaseIndex","channels":null,"releases":[{"version":"../x"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := DecodeIndex(data)
		if err != nil {
			return
		}
		for _, r := range x.Releases {
			if strings.ContainsAny(r.Version, "/\\") {
				t.Fatalf("version %q was taken", r.Version)
			}
			for _, file := range r.Files {
				if !fs.ValidPath(file.Name) || strings.Contains(file.Name, "/") {
					t.Fatalf("file %q was taken", file.Name)
				}
			}
		}
		again, err := DecodeIndex(x.Encode())
		if err != nil || !bytes.Equal(again.Encode(), x.Encode()) {
			t.Fatalf("what Encode wrote is not read back: %v", err)
		}
		_, _ = x.Move("stable", "1.0.0", false)
		x.Prune(Keep{Newest: 1})
	})
}
