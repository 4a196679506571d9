package pull

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/builder/publish"
	"github.com/slipway-os/slipway/builder/release"
	"github.com/slipway-os/slipway/images/manifest"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// published is a folder of releases with one release of two images in it.
func published(t *testing.T, version string) string {
	t.Helper()
	baked, dir := t.TempDir(), t.TempDir()
	must(t, fixture.Image(baked, "worker", version, "worker"), fixture.Image(baked, "control-plane", version, "control plane"))
	root, err := os.OpenRoot(baked)
	must(t, err)
	defer root.Close()
	r, err := release.Open(context.Background(), root, "", nil)
	must(t, err)
	place, err := publish.CreateFolder(dir)
	must(t, err)
	defer place.Close()
	place.Patience = time.Minute
	_, err = place.Apply(context.Background(), publish.Order{Release: r, From: root, Channels: []string{"stable"}})
	must(t, err)
	return dir
}

// server serves a folder as any web server does. before may answer a request itself, or break it off.
type server struct {
	mu     sync.Mutex
	before func(w http.ResponseWriter, q *http.Request) (handled bool)
	ranges []string
}

func (s *server) start(t *testing.T, dir string) *publish.Site {
	t.Helper()
	files := http.FileServer(http.Dir(dir))
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		s.mu.Lock()
		if r := q.Header.Get("Range"); r != "" {
			s.ranges = append(s.ranges, r)
		}
		s.mu.Unlock()
		if s.before == nil || !s.before(w, q) {
			files.ServeHTTP(w, q)
		}
	}))
	t.Cleanup(web.Close)
	site, err := publish.NewSite(web.URL)
	must(t, err)
	return site
}

func order(source Source, out string) Order {
	return Order{Source: source, Out: out, Pause: time.Millisecond}
}

// same wants a folder to have all files of the release, and no others.
func same(t *testing.T, out, place, version string) {
	t.Helper()
	want := os.DirFS(filepath.Join(place, publish.Releases, version))
	names, err := fs.Glob(want, "*")
	must(t, err)
	if got, _ := fs.Glob(os.DirFS(out), "*"); !slices.Equal(got, names) {
		t.Errorf("there is %v, not %v", got, names)
	}
	for _, name := range names {
		a, err := fs.ReadFile(want, name)
		must(t, err)
		if b, err := os.ReadFile(filepath.Join(out, name)); err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs (%v)", name, err)
		}
	}
}

// limited is an answer that breaks off after so many bytes.
type limited struct {
	http.ResponseWriter
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	n, err := l.ResponseWriter.Write(b[:min(len(b), l.left)])
	if l.left -= n; l.left == 0 {
		_ = http.NewResponseController(l.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// cutting serves files whose every answer breaks off after so many bytes.
func cutting(dir string, bytes int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, q *http.Request) bool {
		if !strings.HasSuffix(q.URL.Path, ".root") {
			return false
		}
		http.FileServer(http.Dir(dir)).ServeHTTP(&limited{w, bytes}, q)
		return true
	}
}

func TestWhatBreaksOffIsResumed(t *testing.T) {
	place := published(t, "1.0.0+ci.1")
	s := &server{before: cutting(place, 70_000)}
	out := t.TempDir()
	result, err := Pull(context.Background(), order(s.start(t, place), out))
	must(t, err)
	same(t, out, place, "1.0.0+ci.1")
	if len(s.ranges) < 6 || result.Fetched != result.Bytes-smallFiles(t, out) {
		t.Errorf("resumed %d times, fetched %d of %d bytes", len(s.ranges), result.Fetched, result.Bytes)
	}
}

// smallFiles is the size of the files that aren't artifacts.
func smallFiles(t *testing.T, out string) (n int64) {
	t.Helper()
	entries, err := os.ReadDir(out)
	must(t, err)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && !strings.HasSuffix(e.Name(), ".root") {
			n += info.Size()
		}
	}
	return n
}

// TestAServerWithoutRanges sends everything again each time.
func TestAServerWithoutRanges(t *testing.T) {
	place := published(t, "1.0.0")
	first := true
	s := &server{before: func(w http.ResponseWriter, q *http.Request) bool {
		q.Header.Del("Range")
		if strings.HasSuffix(q.URL.Path, ".root") && first {
			first = false
			http.FileServer(http.Dir(place)).ServeHTTP(&limited{w, 70_000}, q)
		}
		return false
	}}
	out := t.TempDir()
	_, err := Pull(context.Background(), order(s.start(t, place), out))
	must(t, err)
	same(t, out, place, "1.0.0")
}

// TestTheNextRunGoesOn after one that was interrupted. Until all is there, there is no manifest.
func TestTheNextRunGoesOn(t *testing.T) {
	place := published(t, "1.0.0")
	ctx, cancel := context.WithCancel(context.Background())
	stalls := &server{before: func(w http.ResponseWriter, q *http.Request) bool {
		if !strings.Contains(q.URL.Path, "worker") || !strings.HasSuffix(q.URL.Path, ".root") {
			return false
		}
		defer func() {
			_ = recover() // of the answer that would break off
			cancel()
			<-q.Context().Done()
		}()
		http.FileServer(http.Dir(place)).ServeHTTP(&limited{w, 200_000}, q)
		return true
	}}
	out := t.TempDir()
	if _, err := Pull(ctx, order(stalls.start(t, place), out)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if names, _ := filepath.Glob(filepath.Join(out, "slipway-*")); len(names) != 1 || !strings.HasSuffix(names[0], "slipway-control-plane-1.0.0-amd64.root") {
		t.Errorf("an interrupted run left %v", names)
	}
	s := &server{}
	site := s.start(t, place)
	result, err := Pull(context.Background(), order(site, out))
	must(t, err)
	same(t, out, place, "1.0.0")
	if result.Fetched >= result.Bytes/2 || len(s.ranges) > 1 {
		t.Errorf("fetched %d of %d bytes again, resumed %v", result.Fetched, result.Bytes, s.ranges)
	}
	if result, err = Pull(context.Background(), order(site, out)); err != nil || result.Fetched != 0 {
		t.Errorf("with everything there: fetched %d bytes, %v", result.Fetched, err)
	}
}

func TestAPartOfSomethingElse(t *testing.T) {
	place, out := published(t, "1.0.0"), t.TempDir()
	must(t, os.WriteFile(filepath.Join(out, ".slipway-worker-1.0.0-amd64.root.part"), bytes.Repeat([]byte("x"), 1000), 0o600))
	must(t, os.WriteFile(filepath.Join(out, "slipway-control-plane-1.0.0-amd64.root"), []byte("cut off"), 0o600))
	_, err := Pull(context.Background(), order((&server{}).start(t, place), out))
	must(t, err)
	same(t, out, place, "1.0.0")
}

// TestWhatIsNotTaken: no file of these places gets its name.
func TestWhatIsNotTaken(t *testing.T) {
	const base = "releases/1.0.0/slipway-worker-1.0.0-amd64"
	for name, c := range map[string]struct {
		spoil func(t *testing.T, place string)
		words string
	}{
		"changed":     {func(t *testing.T, p string) { change(t, p+base+".root", "worker", "Worker") }, manifest.ErrWrong.Error()},
		"longer":      {func(t *testing.T, p string) { change(t, p+"index.json", `"size": 307212`, `"size": 999999`) }, ""}, // the manifest counts
		"manifest":    {func(t *testing.T, p string) { change(t, p+base+".json", "worker", "wOrker") }, manifest.ErrWrong.Error()},
		"other index": {func(t *testing.T, p string) { change(t, p+"index.json", "ReleaseIndex", "Index") }, `kind "Index"`},
		"path":        {func(t *testing.T, p string) { change(t, p+"index.json", "slipway-worker-1.0.0-amd64.root", "../../x") }, `file "../../x"`},
		"missing":     {func(t *testing.T, p string) { must(t, os.Remove(p+base+".root")) }, "file does not exist"},
		"no list":     {func(t *testing.T, p string) { change(t, p+"index.json", "slipway-1.0.0.sha256sums", "other") }, "is not whole: slipway-1.0.0.sha256sums is not there"},
		"list is not": {func(t *testing.T, p string) { change(t, p+"releases/1.0.0/slipway-1.0.0.sha256sums", "  ", " ") }, manifest.ErrWrong.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			place, out := published(t, "1.0.0"), t.TempDir()
			c.spoil(t, place+"/")
			_, err := Pull(context.Background(), order((&server{}).start(t, place), out))
			if c.words == "" {
				must(t, err)
				same(t, out, place, "1.0.0")
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v\nwant: %s", err, c.words)
			}
			if names, _ := filepath.Glob(filepath.Join(out, "slipway-worker*")); len(names) > 0 {
				t.Errorf("there is %v", names)
			}
			if names, _ := filepath.Glob(filepath.Join(out, "*.json")); len(names) > 0 {
				t.Errorf("there is %v", names)
			}
		})
	}
}

func change(t *testing.T, file, from, to string) {
	t.Helper()
	data, err := os.ReadFile(file)
	must(t, err)
	changed := strings.Replace(string(data), from, to, 1)
	if changed == string(data) {
		t.Fatalf("%s has no %q", file, from)
	}
	must(t, os.WriteFile(file, []byte(changed), 0o600))
}

// liar answers with another version than was asked for.
type liar struct{ Source }

func (l liar) Find(ctx context.Context, _ publish.Want) (publish.Release, error) {
	return l.Source.Find(ctx, publish.Want{Version: "1.0.0"})
}

func TestAnotherVersionThanWasAskedFor(t *testing.T) {
	o := order(liar{(&server{}).start(t, published(t, "1.0.0"))}, t.TempDir())
	o.Want.Version = "2.0.0"
	if _, err := Pull(context.Background(), o); err == nil || !strings.Contains(err.Error(), `it answers with version "1.0.0"`) {
		t.Error(err)
	}
}

// TestADeadServer is given up after some attempts.
func TestADeadServer(t *testing.T) {
	asked := 0
	s := &server{before: func(w http.ResponseWriter, _ *http.Request) bool {
		asked++
		w.WriteHeader(http.StatusBadGateway)
		return true
	}}
	if _, err := Pull(context.Background(), order(s.start(t, t.TempDir()), t.TempDir())); err == nil || !strings.Contains(err.Error(), "given up after 6 attempts") || asked != 6 {
		t.Errorf("asked %d times: %v", asked, err)
	}
}

// unsigned is a place whose index nobody has signed. It counts how often it is asked.
type unsigned struct {
	Source
	asked int
}

func (u *unsigned) Find(context.Context, publish.Want) (publish.Release, error) {
	u.asked++
	return publish.Release{}, fmt.Errorf("%w: nobody has signed it", release.ErrSignature)
}

func TestAnIndexThatNobodySignedIsAskedForOnce(t *testing.T) {
	u := &unsigned{}
	u.Source = (&server{}).start(t, t.TempDir())
	if _, err := Pull(context.Background(), order(u, t.TempDir())); !errors.Is(err, release.ErrSignature) || u.asked != 1 {
		t.Errorf("asked %d times: %v", u.asked, err)
	}
}

// waiting is a place whose files come when they may.
type waiting struct {
	Source
	reached, ahead chan struct{}
}

func (w waiting) Open(ctx context.Context, r publish.Release, f release.File, at int64) (io.ReadCloser, error) {
	if strings.HasSuffix(f.Name, ".root") {
		w.reached <- struct{}{}
		<-w.ahead
	}
	return w.Source.Open(ctx, r, f, at)
}

func TestTwoPullsIntoOneFolder(t *testing.T) {
	place, out := published(t, "1.0.0"), t.TempDir()
	site := (&server{}).start(t, place)
	w := waiting{site, make(chan struct{}, 2), make(chan struct{})}
	first := make(chan error)
	go func() {
		_, err := Pull(context.Background(), order(w, out))
		first <- err
	}()
	<-w.reached
	if _, err := Pull(context.Background(), order(site, out)); err == nil || !strings.Contains(err.Error(), "another slipway pull writes into "+out) {
		t.Error(err)
	}
	close(w.ahead)
	must(t, <-first)
	same(t, out, place, "1.0.0")
	if _, err := Pull(context.Background(), order(site, filepath.Join(out, "deeper"))); err != nil {
		t.Error(err)
	}
}
