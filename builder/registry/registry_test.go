package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/bcrypt"

	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/builder/publish"
	"github.com/slipway-os/slipway/builder/pull"
	"github.com/slipway-os/slipway/builder/release"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// start starts a registry of its own.
func start(t *testing.T, users string) string {
	t.Helper()
	address, stop, err := fixture.Registry(t.TempDir(), users)
	if errors.Is(err, fixture.ErrNoRegistry) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(stop)
	return address
}

// open opens a repository, without pauses.
func open(t *testing.T, address string) *Repository { return openNamed(t, address, "images") }

func openNamed(t *testing.T, address, name string) *Repository {
	t.Helper()
	r, err := Open(Scheme+address+"/team/"+name, Options{})
	must(t, err)
	r.Pause, r.Settle = time.Millisecond, 0
	return r
}

// baked is a folder with a release.
func baked(t *testing.T, version, content string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, fixture.Image(dir, "worker", version, content), fixture.Image(dir, "control-plane", version, content))
	return dir
}

func apply(t *testing.T, r *Repository, dir string, o publish.Order) (publish.Result, error) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	o.From = root
	o.Release, err = release.Open(context.Background(), root, "", nil)
	must(t, err)
	return r.Apply(context.Background(), o)
}

// fetch pulls into a folder and compares what came with what was baked.
func fetch(t *testing.T, r *Repository, w publish.Want, baked string) {
	t.Helper()
	out := t.TempDir()
	if _, err := pull.Pull(context.Background(), pull.Order{Source: r, Want: w, Out: out, Pause: time.Millisecond}); err != nil {
		t.Errorf("%+v: %v", w, err)
		return
	}
	entries, err := os.ReadDir(baked)
	must(t, err)
	for _, e := range entries {
		want, err := os.ReadFile(filepath.Join(baked, e.Name()))
		must(t, err)
		if got, err := os.ReadFile(filepath.Join(out, e.Name())); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what was baked (%v)", e.Name(), err)
		}
	}
}

// seen is what readers see: versions and channels.
func seen(t *testing.T, r *Repository) string {
	t.Helper()
	x, err := r.Index(context.Background())
	must(t, err)
	words := strings.Split(publish.Versions(x.Releases), ", ")
	for _, name := range x.ChannelNames() {
		words = append(words, name+"="+x.Channels[name])
	}
	return strings.TrimSpace(strings.Join(words, " "))
}

func TestPublishAndPull(t *testing.T) {
	r := open(t, start(t, ""))
	if _, err := r.Find(context.Background(), publish.Want{}); !errors.Is(err, publish.ErrNone) || !strings.Contains(err.Error(), "nothing is published there yet") {
		t.Error(err)
	}
	one, two := baked(t, "1.0.0", "one"), baked(t, "1.1.0+ci.7", "two")
	result, err := apply(t, r, one, publish.Order{Channels: []string{"candidate", "stable"}})
	if must(t, err); !result.Published || len(result.Channels) != 2 {
		t.Errorf("%+v", result)
	}
	result, err = apply(t, r, two, publish.Order{Channels: []string{"candidate"}})
	if must(t, err); result.Channels[0].Before != "1.0.0" {
		t.Errorf("%+v", result)
	}
	fetch(t, r, publish.Want{}, one)
	fetch(t, r, publish.Want{Channel: "candidate"}, two)
	fetch(t, r, publish.Want{Version: "1.1.0+ci.7"}, two)
	if got := seen(t, r); got != "1.0.0 1.1.0+ci.7 candidate=1.1.0+ci.7 stable=1.0.0" {
		t.Error(got)
	}
	if result, err = apply(t, r, one, publish.Order{}); err != nil || result.Published {
		t.Errorf("the same again: %+v, %v", result, err)
	}
	for name, o := range map[string]publish.Order{
		"other bytes":  {},
		"channel back": {Version: "1.0.0", Channels: []string{"candidate"}},
	} {
		dir := baked(t, "1.0.0", name)
		if o.Version != "" {
			_, err = r.Apply(context.Background(), o)
		} else {
			_, err = apply(t, r, dir, o)
		}
		if !errors.Is(err, publish.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = r.Apply(context.Background(), publish.Order{Version: "1.0.0", Channels: []string{"candidate"}, Back: true})
	must(t, err)
	if got := seen(t, r); got != "1.0.0 1.1.0+ci.7 candidate=1.0.0 stable=1.0.0" {
		t.Error(got)
	}
}

func TestRetention(t *testing.T) {
	r := open(t, start(t, ""))
	dirs := map[string]string{}
	for _, v := range []string{"1.0.0", "1.1.0", "1.2.0", "1.3.0"} {
		dirs[v] = baked(t, v, v)
		_, err := apply(t, r, dirs[v], publish.Order{})
		must(t, err)
	}
	_, err := r.Apply(context.Background(), publish.Order{Version: "1.0.0", Channels: []string{"stable"}})
	must(t, err)
	keep := publish.Keep{Newest: 1, Versions: []string{"1.1.0"}}
	if result, err := r.Apply(context.Background(), publish.Order{Keep: keep, Dry: true}); err != nil || fmt.Sprint(result.Pruned) != "[1.2.0]" {
		t.Errorf("%+v, %v", result, err)
	}
	dirs["1.4.0"] = baked(t, "1.4.0", "four")
	result, err := apply(t, r, dirs["1.4.0"], publish.Order{Keep: keep})
	if must(t, err); fmt.Sprint(result.Pruned) != "[1.2.0 1.3.0]" {
		t.Errorf("%+v", result)
	}
	if got := seen(t, r); got != "1.0.0 1.1.0 1.4.0 stable=1.0.0" {
		t.Error(got)
	}
	for _, v := range []string{"1.0.0", "1.1.0", "1.4.0"} {
		fetch(t, r, publish.Want{Version: v}, dirs[v])
	}
}

// proxy stands before a registry. before may answer a request itself, or break it off.
type proxy struct {
	mu     sync.Mutex
	before func(w http.ResponseWriter, q *http.Request) (handled bool)
	log    []string
}

func (p *proxy) start(t *testing.T, registry string) string {
	t.Helper()
	behind := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: registry})
	behind.ErrorLog, behind.FlushInterval = nil, -1
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		p.mu.Lock()
		p.log = append(p.log, q.Method+" "+q.URL.Path+" "+q.Header.Get("Range"))
		before := p.before
		p.mu.Unlock()
		if before != nil && before(w, q) {
			return
		}
		behind.ServeHTTP(w, q)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// TestARegistryThatDiesInTheMiddle at any of its requests leaves nothing that a reader sees, but the release whole; the next run ends the work.
func TestARegistryThatDiesInTheMiddle(t *testing.T) {
	const before, after = "1.0.0 stable=1.0.0", "1.0.0 2.0.0 stable=2.0.0"
	const between = "1.0.0 2.0.0 stable=1.0.0" // the version is there, the channel has not moved yet
	one, two := t.TempDir(), t.TempDir()
	must(t, fixture.Image(one, "worker", "1.0.0", "one"), fixture.Image(two, "worker", "2.0.0", "two"))
	states := map[string]int{}
	address := start(t, "")
	for n := 1; ; n++ {
		name := fmt.Sprint("images", n)
		direct := openNamed(t, address, name)
		_, err := apply(t, direct, one, publish.Order{Channels: []string{"stable"}})
		must(t, err)
		count := 0
		p := &proxy{}
		p.before = func(http.ResponseWriter, *http.Request) bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			if count++; count < n {
				return false
			}
			panic(http.ErrAbortHandler) // the connection breaks off
		}
		broken := openNamed(t, p.start(t, address), name)
		_, err = apply(t, broken, two, publish.Order{Channels: []string{"stable"}})
		if err == nil {
			break
		}
		got := seen(t, direct)
		states[got]++
		if got != before && got != between {
			t.Errorf("dead from request %d on, readers see: %s", n, got)
		}
		_, err = apply(t, direct, two, publish.Order{Channels: []string{"stable"}})
		must(t, err)
		if got := seen(t, direct); got != after {
			t.Errorf("after another run readers see: %s", got)
		}
		fetch(t, direct, publish.Want{}, two)
	}
	if states[before] < 10 || states[between] == 0 {
		t.Errorf("that tried too little: %v", states)
	}
}

// TestARegistryThatFailsNowAndThen: what fails is tried again, and what breaks off while it is fetched goes on where it was.
func TestARegistryThatFailsNowAndThen(t *testing.T) {
	address := start(t, "")
	p, failed := &proxy{}, map[string]bool{}
	p.before = func(w http.ResponseWriter, q *http.Request) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		key := q.Method + q.URL.Path
		if q.Method == http.MethodPut && strings.Contains(q.URL.Path, "/uploads/") {
			key = "PUT upload" + q.URL.Query().Get("digest")
		}
		if failed[key] {
			return false
		}
		failed[key] = true
		if len(failed)%2 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		if q.Method == http.MethodPut {
			_, _ = io.CopyN(io.Discard, q.Body, 1000)
		}
		panic(http.ErrAbortHandler)
	}
	r := open(t, p.start(t, address))
	dir := baked(t, "1.0.0", "one")
	_, err := apply(t, r, dir, publish.Order{Channels: []string{"stable"}})
	must(t, err)
	p.mu.Lock()
	p.log, failed = nil, map[string]bool{}
	p.before = func(w http.ResponseWriter, q *http.Request) bool { return cut(w, q, address) }
	p.mu.Unlock()
	fetch(t, r, publish.Want{}, dir)
	if log := strings.Join(p.log, "\n"); !strings.Contains(log, "bytes=1") {
		t.Errorf("nothing was resumed:\n%s", log)
	}
}

// cut answers a request for a blob with its first 100000 bytes at most, and breaks off.
func cut(w http.ResponseWriter, q *http.Request, registry string) bool {
	if q.Method != http.MethodGet || !strings.Contains(q.URL.Path, "/blobs/") {
		return false
	}
	behind := q.Clone(q.Context())
	behind.RequestURI, behind.URL.Scheme, behind.URL.Host = "", "http", registry
	answer, err := http.DefaultClient.Do(behind)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	for name, values := range answer.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.StatusCode)
	if n, _ := io.CopyN(w, answer.Body, 100_000); n == 100_000 {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	return true
}

// TestTwoPipelinesAtOnce: two find no such version, and both put its tag. One of them learns that it is not its own.
func TestTwoPipelinesAtOnce(t *testing.T) {
	address := start(t, "")
	p := &proxy{}
	var asked, done sync.WaitGroup
	asked.Add(2)
	done.Add(2)
	p.before = func(w http.ResponseWriter, q *http.Request) bool {
		if q.Method != http.MethodPut || !strings.HasSuffix(q.URL.Path, "/manifests/1.0.0") {
			return false
		}
		asked.Done()
		asked.Wait()
		inner := httptest.NewRecorder()
		httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: address}).ServeHTTP(inner, q)
		done.Done()
		done.Wait()
		w.WriteHeader(inner.Code)
		return true
	}
	proxied := p.start(t, address)
	dirs := []string{baked(t, "1.0.0", "one"), baked(t, "1.0.0", "other")}
	repositories := []*Repository{open(t, proxied), open(t, proxied)}
	errs := make([]error, 2)
	var all sync.WaitGroup
	for i := range dirs {
		all.Go(func() { _, errs[i] = apply(t, repositories[i], dirs[i], publish.Order{}) })
	}
	all.Wait()
	if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs...), publish.ErrRefused) {
		t.Fatalf("%v", errs)
	}
	won := 0
	if errs[0] != nil {
		won = 1
	}
	fetch(t, open(t, address), publish.Want{Version: "1.0.0"}, dirs[won])
}

// TestCredentials are docker's; without them the error says what to do.
func TestCredentials(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	must(t, err)
	dir := t.TempDir()
	users := filepath.Join(dir, "users")
	must(t, os.WriteFile(users, []byte("robot:"+string(hash)+"\n"), 0o600))
	address := start(t, users)
	t.Setenv("DOCKER_CONFIG", dir)
	release := baked(t, "1.0.0", "one")
	if _, err := apply(t, open(t, address), release, publish.Order{}); err == nil || !strings.Contains(err.Error(), "docker login "+address) {
		t.Error(err)
	}
	config := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, address, base64.StdEncoding.EncodeToString([]byte("robot:secret")))
	must(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600))
	r := open(t, address)
	_, err = apply(t, r, release, publish.Order{Channels: []string{"stable"}})
	must(t, err)
	fetch(t, r, publish.Want{}, release)
}

// TestOthersTags are neither versions nor channels, and not written over.
func TestOthersTags(t *testing.T) {
	r := open(t, start(t, ""))
	index := newDocument(ocispec.MediaTypeImageIndex, "", ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}})
	index.data = bytes.Replace(index.data, []byte(`"schemaVersion":0`), []byte(`"schemaVersion":2`), 1)
	index.Digest, index.Size = digest.FromBytes(index.data), int64(len(index.data))
	must(t, r.pushManifest(context.Background(), index, "edge"))
	_, err := apply(t, r, baked(t, "1.0.0", "one"), publish.Order{Channels: []string{"edge"}})
	if err == nil || !strings.Contains(err.Error(), "tag edge: it is no release of Slipway") {
		t.Error(err)
	}
	_, err = apply(t, r, baked(t, "1.0.0", "one"), publish.Order{Channels: []string{"stable"}})
	must(t, err)
	if got := seen(t, r); got != "1.0.0 stable=1.0.0" {
		t.Error(got)
	}
}

// TestCommonTools copies a release with skopeo, which knows nothing of Slipway, where it is installed.
func TestCommonTools(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip(err)
	}
	address := start(t, "")
	r := open(t, address)
	dir := baked(t, "1.0.0", "one")
	_, err = apply(t, r, dir, publish.Order{})
	must(t, err)
	c := exec.Command(skopeo, "copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false",
		"docker://"+address+"/team/images:1.0.0", "docker://"+address+"/mirror/images:stable")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	copied, err := Open(Scheme+address+"/mirror/images", Options{})
	must(t, err)
	fetch(t, copied, publish.Want{}, dir)
}

func TestAddresses(t *testing.T) {
	for _, bad := range []string{"oci://", "oci://host", "oci://host/UPPER", "oci://host/repo:tag", "oci://host/repo@sha256:" + strings.Repeat("a", 64), "oci://ho st/repo"} {
		if _, err := Open(bad, Options{}); err == nil || !strings.Contains(err.Error(), "write it like oci://") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	for address, plain := range map[string]bool{"oci://localhost:5000/x": true, "oci://127.0.0.1:1/x": true, "oci://[::1]:1/x": true, "oci://registry.example.com/x": false} {
		if r, err := Open(address, Options{}); err != nil || r.remote.PlainHTTP != plain {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestTags(t *testing.T) {
	for v, want := range map[string]string{"1.0.0": "1.0.0", "1.0.0-rc.1+ci.57": "1.0.0-rc.1_ci.57"} {
		if tag(v) != want || Untag(want) != v {
			t.Errorf("%s: %s, back: %s", v, tag(v), Untag(want))
		}
	}
	for _, word := range []string{"stable", "my_channel", "1.0.0_a_b", "v1.0.0"} {
		if Untag(word) != word {
			t.Errorf("%s became %s", word, Untag(word))
		}
	}
}

func FuzzDocuments(f *testing.F) {
	dir := f.TempDir()
	root, err := os.OpenRoot(dir)
	if err == nil {
		err = fixture.Image(dir, "worker", "1.0.0", "x")
	}
	if err != nil {
		f.Fatal(err)
	}
	r, err := release.Open(context.Background(), root, "", nil)
	if err != nil {
		f.Fatal(err)
	}
	files, err := r.Files(root)
	if err != nil {
		f.Fatal(err)
	}
	l := arrange(r, publish.Describe(r, files))
	f.Add(l.index.data, l.children[0].data)
	f.Fuzz(func(t *testing.T, index, child []byte) {
		x, v, err := decodeIndex(index)
		if err != nil {
			return
		}
		found := publish.Release{Version: v}
		for _, c := range x.Manifests {
			if addFiles(&found, c, child) != nil {
				return
			}
		}
		for _, file := range found.Files {
			if !release.IsFileName(file.Name) || file.Size < 0 || len(file.SHA256) != 64 {
				t.Fatalf("%+v was taken", file)
			}
		}
	})
}
