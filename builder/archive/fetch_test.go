package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// put adds a file to the mirror's archive "debian" and says what is to be fetched.
func (m *mirror) put(name string, data []byte) File {
	m.files["/debian/"+name] = data
	return File{Path: "debian/" + name, Size: int64(len(data)), SHA256: digest(data)}
}

// pattern is n bytes that differ from their neighbours.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>8 ^ i*7)
	}
	return b
}

func cached(t *testing.T, s *Source, f File) []byte {
	t.Helper()
	data, err := os.ReadFile(s.Cache.Path(f.SHA256))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestFetch(t *testing.T) {
	m := newMirror(t)
	var files []File
	for i := range 30 {
		files = append(files, m.put(fmt.Sprintf("pool/%d.deb", i), pattern(1000*i+1)))
	}
	s := m.source(t)
	var last Status
	if err := s.Fetch(context.Background(), files, func(st Status) { last = st }); err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		if !bytes.Equal(cached(t, s, f), pattern(1000*i+1)) {
			t.Errorf("%s is wrong", f.Path)
		}
	}
	if last.FilesDone != 30 || last.BytesDone != last.Bytes || last.Fetched != last.Bytes || last.Files != 30 {
		t.Errorf("progress ended with %+v", last)
	}
	before := len(m.requests())
	if err := s.Fetch(context.Background(), files, func(st Status) { last = st }); err != nil {
		t.Fatal(err)
	}
	if len(m.requests()) != before || last.BytesDone != last.Bytes || last.Fetched != 0 || last.FilesDone != 30 {
		t.Errorf("the second time: %d requests, progress %+v", len(m.requests())-before, last)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Cache.dir, "*.part")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A server that cuts each answer short is asked for the rest, not for all.
func TestFetchGoesOnAfterACut(t *testing.T) {
	m := newMirror(t)
	data := pattern(300_000)
	f := m.put("pool/big.deb", data)
	cuts := 0
	m.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if cuts++; cuts > 2 {
			return false
		}
		from := 0
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		w.Header().Set("Content-Length", fmt.Sprint(len(data)-from))
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
		}
		w.Write(data[from : from+100_000])
		panic(http.ErrAbortHandler)
	}
	s := m.source(t)
	var last Status
	if err := s.Fetch(context.Background(), []File{f}, func(st Status) { last = st }); err != nil {
		t.Fatal(err)
	}
	if want := []string{"/debian/pool/big.deb", "/debian/pool/big.deb from 100000", "/debian/pool/big.deb from 200000"}; !slices.Equal(m.requests(), want) {
		t.Errorf("asked %q", m.requests())
	}
	if last.Fetched != f.Size || last.BytesDone != f.Size {
		t.Errorf("progress ended with %+v", last)
	}
}

// What an earlier run left is used, and thrown away if it turns out to be of something else.
func TestFetchResumesAnEarlierRun(t *testing.T) {
	for name, left := range map[string][]byte{
		"right beginning": pattern(500),
		"wrong beginning": []byte("something else entirely"),
		"too much":        pattern(5000),
		"all of it":       pattern(1000),
	} {
		m := newMirror(t)
		f := m.put("pool/a.deb", pattern(1000))
		s := m.source(t)
		if err := os.MkdirAll(s.Cache.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.Cache.Path(f.SHA256)+".part", left, 0o644); err != nil {
			t.Fatal(err)
		}
		var last Status
		if err := s.Fetch(context.Background(), []File{f}, func(st Status) { last = st }); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(cached(t, s, f), pattern(1000)) || last.BytesDone != 1000 {
			t.Errorf("%s: wrong file, or progress %+v", name, last)
		}
		if name == "right beginning" && !slices.Equal(m.requests(), []string{"/debian/pool/a.deb from 500"}) {
			t.Errorf("asked %q", m.requests())
		}
	}
}

// A server without ranges sends all of it again.
func TestFetchFromAServerWithoutRanges(t *testing.T) {
	m := newMirror(t)
	data := pattern(1000)
	f := m.put("pool/a.deb", data)
	m.hook = func(w http.ResponseWriter, r *http.Request) bool { w.Write(data); return true }
	s := m.source(t)
	os.MkdirAll(s.Cache.dir, 0o755)
	os.WriteFile(s.Cache.Path(f.SHA256)+".part", data[:400], 0o644)
	if err := s.Fetch(context.Background(), []File{f}, nil); err != nil || !bytes.Equal(cached(t, s, f), data) {
		t.Errorf("%v", err)
	}
}

func TestFetchErrors(t *testing.T) {
	data := pattern(1000)
	other := append(bytes.Clone(data[:999]), data[999]^1)
	for name, c := range map[string]struct {
		hook func(w http.ResponseWriter, r *http.Request) bool
		is   error
		asks int
	}{
		"gone":          {func(w http.ResponseWriter, r *http.Request) bool { http.NotFound(w, r); return true }, ErrGone, 1},
		"forbidden":     {func(w http.ResponseWriter, r *http.Request) bool { http.Error(w, "no", 403); return true }, nil, 1},
		"other content": {func(w http.ResponseWriter, r *http.Request) bool { w.Write(other); return true }, ErrDigest, 1},
		"too long":      {func(w http.ResponseWriter, r *http.Request) bool { w.Write(append(data, 'x')); return true }, ErrDigest, 1},
		"to a local file": {func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(302)
			return true
		}, nil, 1},
		"round in circles": {func(w http.ResponseWriter, r *http.Request) bool { http.Redirect(w, r, r.URL.Path, 302); return true }, nil, 10},
		"always too busy":  {func(w http.ResponseWriter, r *http.Request) bool { http.Error(w, "busy", 503); return true }, nil, attempts},
		"always cut":       {func(w http.ResponseWriter, r *http.Request) bool { panic(http.ErrAbortHandler) }, nil, attempts},
	} {
		m := newMirror(t)
		f := m.put("pool/a.deb", data)
		m.hook = c.hook
		s := m.source(t)
		err := s.Fetch(context.Background(), []File{f}, nil)
		var fe *FileError
		if !errors.As(err, &fe) || fe.File != f || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), "pool/a.deb") {
			t.Errorf("%s: %v", name, err)
		}
		if n := len(m.requests()); n < c.asks || name != "always cut" && n > c.asks { // net/http itself repeats some cut requests
			t.Errorf("%s: asked %d times, want %d", name, n, c.asks)
		}
		if _, err := os.Stat(s.Cache.Path(f.SHA256)); err == nil {
			t.Errorf("%s: there is a file", name)
		}
	}
}

func TestFetchTriesAgain(t *testing.T) {
	m := newMirror(t)
	f := m.put("pool/a.deb", pattern(1000))
	var mu sync.Mutex
	failures := 3
	m.hook = func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if failures--; failures >= 0 {
			http.Error(w, "busy", 503)
			return true
		}
		return false
	}
	if err := m.source(t).Fetch(context.Background(), []File{f}, nil); err != nil {
		t.Error(err)
	}
}

func TestFetchReplacesCorruptedObjects(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"flipped":    func(path string) error { return os.WriteFile(path, append(pattern(999), 'x'), 0o644) },
		"cut":        func(path string) error { return os.WriteFile(path, pattern(500), 0o644) },
		"empty":      func(path string) error { return os.WriteFile(path, nil, 0o644) },
		"a folder":   func(path string) error { return os.MkdirAll(filepath.Join(path, "x"), 0o755) },
		"unreadable": func(path string) error { return os.Symlink(path, path) }, // root reads whatever its mode is
	} {
		m := newMirror(t)
		f := m.put("pool/a.deb", pattern(1000))
		s := m.source(t)
		var warnings []string
		s.Warn = func(text string) { warnings = append(warnings, text) }
		if err := errors.Join(os.MkdirAll(s.Cache.dir, 0o755), damage(s.Cache.Path(f.SHA256))); err != nil {
			t.Fatal(err)
		}
		if err := s.Fetch(context.Background(), []File{f}, nil); err != nil || !bytes.Equal(cached(t, s, f), pattern(1000)) {
			t.Errorf("%s: %v", name, err)
		}
		if len(warnings) != 1 || !strings.Contains(warnings[0], "pool/a.deb in the cache is damaged (") {
			t.Errorf("%s: warnings %q", name, warnings)
		}
	}
}

func TestFetchStopsWithItsContext(t *testing.T) {
	m := newMirror(t)
	f := m.put("pool/a.deb", pattern(1000))
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(context.Background())
	release := make(chan struct{})
	defer close(release)
	m.hook = func(w http.ResponseWriter, r *http.Request) bool {
		cancel(stop)
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return true
	}
	if err := m.source(t).Fetch(ctx, []File{f}, nil); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}

// Two processes with one cache: each ends with the file, and it is fetched once.
func TestFetchSharedCache(t *testing.T) {
	m := newMirror(t)
	f := m.put("pool/a.deb", pattern(200_000))
	m.hook = func(http.ResponseWriter, *http.Request) bool { time.Sleep(20 * time.Millisecond); return false }
	s := m.source(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := s.Fetch(context.Background(), []File{f}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if !bytes.Equal(cached(t, s, f), pattern(200_000)) {
		t.Error("the file is wrong")
	}
	if n := len(m.requests()); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

func TestFetchFromAFolder(t *testing.T) {
	dir := t.TempDir()
	os.MkdirAll(filepath.Join(dir, "debian/pool"), 0o755)
	os.WriteFile(filepath.Join(dir, "debian/pool/a.deb"), pattern(1000), 0o644)
	mirrors, err := FindMirrors(Choice{Flag: "file://" + dir})
	if err != nil {
		t.Fatal(err)
	}
	s := &Source{Mirrors: mirrors, Cache: NewCache(t.TempDir()), Client: NewClient()}
	f := File{Path: "debian/pool/a.deb", Size: 1000, SHA256: digest(pattern(1000))}
	if err := s.Fetch(context.Background(), []File{f}, nil); err != nil {
		t.Error(err)
	}
	f.Path = "debian/pool/b.deb"
	f.SHA256 = digest(nil)
	if err := s.Fetch(context.Background(), []File{f}, nil); !errors.Is(err, ErrGone) {
		t.Errorf("missing file: %v", err)
	}
}

func TestFetchUnknownArchive(t *testing.T) {
	mirrors, err := FindMirrors(Choice{Flag: "debian-ports=http://127.0.0.1:1/debian-ports"})
	if err != nil {
		t.Fatal(err)
	}
	s := &Source{Mirrors: mirrors, Cache: NewCache(t.TempDir()), Client: NewClient()}
	err = s.Fetch(context.Background(), []File{{Path: "debian/pool/a.deb", Size: 1, SHA256: digest(nil)}}, nil)
	if err == nil || !strings.Contains(err.Error(), `no mirror for archive "debian"`) {
		t.Errorf("%v", err)
	}
}
