package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/builder/provenance"
	"github.com/slipway-os/slipway/builder/publish"
	"github.com/slipway-os/slipway/builder/pull"
	"github.com/slipway-os/slipway/builder/release"
	"github.com/slipway-os/slipway/builder/sigstore"
	"github.com/slipway-os/slipway/images/manifest"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func newSealing(t *testing.T) *publish.Sealing {
	t.Helper()
	name := filepath.Join(t.TempDir(), "k")
	_, err := release.Generate(name, "", rand.Reader)
	must(t, err)
	key, err := release.ReadSigningKey(name+release.ExtSecret, nil)
	must(t, err)
	return &publish.Sealing{By: release.Signers{Minisign: &key}, Now: noon, Entropy: rand.Reader}
}

// trusting opens a repository as a reader who trusts a key.
func trusting(t *testing.T, address, name string, s *publish.Sealing) *Repository {
	t.Helper()
	r := openNamed(t, address, name)
	r.Guard = &publish.Guard{Trust: s.By.Trust("k.pub"), Now: noon, Memory: &publish.Memory{Dir: t.TempDir()}}
	return r
}

func found(t *testing.T, r *Repository, w publish.Want) (string, error) {
	t.Helper()
	f, err := r.Find(context.Background(), w)
	return f.Version, err
}

func TestSignedIndex(t *testing.T) {
	address, s := start(t, ""), newSealing(t)
	r, reader := open(t, address), trusting(t, address, "images", s)
	one, two := baked(t, "1.0.0", "one"), baked(t, "1.1.0+ci.7", "two")
	_, err := apply(t, r, one, publish.Order{Channels: []string{"stable"}, Sealing: s})
	must(t, err)
	first, err := r.signed(context.Background())
	must(t, err)
	result, err := apply(t, r, two, publish.Order{Channels: []string{"stable", "candidate"}, Sealing: s})
	if must(t, err); result.Index != 2 {
		t.Errorf("%+v", result)
	}
	fetch(t, reader, publish.Want{}, two)
	fetch(t, reader, publish.Want{Version: "1.0.0"}, one)
	fetch(t, r, publish.Want{}, two)
	if got := seen(t, r); got != "1.0.0 1.1.0+ci.7 candidate=1.1.0+ci.7 stable=1.1.0+ci.7" {
		t.Error(got)
	}

	// Somebody moves a tag: who trusts nobody follows.
	d, _, _, err := r.index(context.Background(), "1.0.0")
	must(t, err)
	must(t, r.pushManifest(context.Background(), d, "stable"))
	fetch(t, r, publish.Want{}, one)
	fetch(t, reader, publish.Want{}, two)
	must(t, r.pushManifest(context.Background(), d, tag("1.1.0+ci.7")))
	fetch(t, reader, publish.Want{Version: "1.1.0+ci.7"}, two)

	// Without the key nothing is changed; with it, and the next version, the channels are right again.
	if _, err := r.Apply(context.Background(), publish.Order{Version: "1.0.0", Channels: []string{"new"}}); !errors.Is(err, publish.ErrRefused) {
		t.Error(err)
	}
	if _, err := r.Apply(context.Background(), publish.Order{Version: "1.0.0", Channels: []string{"new"}, Sealing: newSealing(t)}); !errors.Is(err, release.ErrSignature) {
		t.Error(err)
	}

	// Somebody shows an older index, then another one.
	old := newDocument("application/vnd.oci.image.manifest.v1+json", TypeIndex, nil)
	old.data = manifestOf(t, r, first.digest.String())
	old.Digest, old.Size = first.digest, int64(len(old.data))
	must(t, r.pushManifest(context.Background(), old, indexTag))
	for _, w := range []publish.Want{{}, {Version: "1.0.0"}} {
		if _, err := found(t, reader, w); !errors.Is(err, release.ErrSignature) || !strings.Contains(err.Error(), "this is index 1, and 2 was seen before") {
			t.Error(err)
		}
	}
	must(t, r.pushManifest(context.Background(), d, indexTag))
	if _, err := found(t, reader, publish.Want{}); err == nil || !strings.Contains(err.Error(), "tag _index: it is no index of Slipway's releases") {
		t.Error(err)
	}
}

func manifestOf(t *testing.T, r *Repository, reference string) []byte {
	t.Helper()
	d, body, err := r.remote.FetchReference(context.Background(), reference)
	must(t, err)
	defer body.Close()
	data, err := readAll(body, d)
	must(t, err)
	return data
}

func TestUnsignedRepository(t *testing.T) {
	address, s := start(t, ""), newSealing(t)
	r, reader := open(t, address), trusting(t, address, "images", s)
	one := baked(t, "1.0.0", "one")
	_, err := apply(t, r, one, publish.Order{Channels: []string{"stable"}})
	must(t, err)
	if _, err := found(t, reader, publish.Want{}); !errors.Is(err, release.ErrSignature) {
		t.Error(err)
	}
	if v, err := found(t, reader, publish.Want{Version: "1.0.0"}); err != nil || v != "1.0.0" {
		t.Errorf("%s, %v", v, err)
	}
	if _, err := apply(t, r, baked(t, "1.1.0", "two"), publish.Order{Sealing: s}); !errors.Is(err, publish.ErrRefused) {
		t.Error(err)
	}
	s.Adopt = true
	_, err = r.Apply(context.Background(), publish.Order{Sealing: s})
	must(t, err)
	fetch(t, reader, publish.Want{}, one)
}

func TestSignedRetention(t *testing.T) {
	address, s := start(t, ""), newSealing(t)
	r, reader := open(t, address), trusting(t, address, "images", s)
	for _, v := range []string{"1.0.0", "1.1.0", "1.2.0"} {
		_, err := apply(t, r, baked(t, v, v), publish.Order{Sealing: s, Keep: publish.Keep{Newest: 2}})
		must(t, err)
	}
	if _, err := found(t, reader, publish.Want{Version: "1.0.0"}); !errors.Is(err, publish.ErrNone) {
		t.Error(err)
	}
	if got := seen(t, r); got != "1.1.0 1.2.0" {
		t.Error(got)
	}
}

// TestASignedRegistryThatDiesInTheMiddle at any of its requests: who trusts the key sees the state before or the one after.
func TestASignedRegistryThatDiesInTheMiddle(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	must(t, fixture.Image(one, "worker", "1.0.0", "one"), fixture.Image(two, "worker", "2.0.0", "two"))
	address, states := start(t, ""), map[string]int{}
	for n := 1; ; n += 4 { // each fourth: the other ones are much alike
		name, s := fmt.Sprint("images", n), newSealing(t)
		direct, reader := openNamed(t, address, name), trusting(t, address, name, s)
		_, err := apply(t, direct, one, publish.Order{Channels: []string{"stable"}, Sealing: s})
		must(t, err)
		count := 0
		p := &proxy{}
		p.before = func(http.ResponseWriter, *http.Request) bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			if count++; count < n {
				return false
			}
			panic(http.ErrAbortHandler)
		}
		_, err = apply(t, openNamed(t, p.start(t, address), name), two, publish.Order{Channels: []string{"stable"}, Sealing: s})
		if err == nil {
			break
		}
		got, err := found(t, reader, publish.Want{})
		must(t, err)
		states[got]++
		_, err = apply(t, direct, two, publish.Order{Channels: []string{"stable"}, Sealing: s})
		must(t, err)
		if got, err := found(t, reader, publish.Want{}); err != nil || got != "2.0.0" {
			t.Errorf("after another run: %s, %v", got, err)
		}
	}
	if states["1.0.0"] < 5 || len(states) > 2 {
		t.Errorf("that tried too little, or is wrong: %v", states)
	}
}

// TestTwoSignersAtOnce: what one of them has published is not lost when the other writes the next index.
func TestTwoSignersAtOnce(t *testing.T) {
	address, s := start(t, ""), newSealing(t)
	r := open(t, address)
	_, err := apply(t, r, baked(t, "1.0.0", "one"), publish.Order{Sealing: s})
	must(t, err)
	p, meanwhile := &proxy{}, false
	p.before = func(w http.ResponseWriter, q *http.Request) bool {
		if q.Method == http.MethodPut && strings.HasSuffix(q.URL.Path, "/manifests/1.2.0") && !meanwhile {
			meanwhile = true
			_, err := apply(t, r, baked(t, "1.1.0", "two"), publish.Order{Sealing: s})
			must(t, err)
		}
		return false
	}
	slow, dir := open(t, p.start(t, address)), baked(t, "1.2.0", "three")
	if _, err := apply(t, slow, dir, publish.Order{Sealing: s}); !errors.Is(err, publish.ErrRefused) || !strings.Contains(err.Error(), "run it again") {
		t.Error(err)
	}
	_, err = apply(t, slow, dir, publish.Order{Sealing: s})
	must(t, err)
	if got := seen(t, r); got != "1.0.0 1.1.0 1.2.0" {
		t.Error(got)
	}
}

// TestAForgedRelease: what the registry has under a digest is compared with it, and pull takes what the signed index names.
func TestAForgedRelease(t *testing.T) {
	address, s := start(t, ""), newSealing(t)
	r := open(t, address)
	_, err := apply(t, r, baked(t, "1.0.0", "one"), publish.Order{Channels: []string{"stable"}, Sealing: s})
	must(t, err)
	before, err := r.signed(context.Background())
	must(t, err)
	real := before.index.Releases[0].OCI
	p := &proxy{}
	p.before = func(w http.ResponseWriter, q *http.Request) bool {
		if !strings.HasSuffix(q.URL.Path, "/manifests/"+real) {
			return false
		}
		data := bytes.Replace(manifestOf(t, r, "1.0.0"), []byte("worker"), []byte("wOrker"), 1)
		w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		_, _ = w.Write(data)
		return true
	}
	reader := trusting(t, p.start(t, address), "images", s)
	_, err = pull.Pull(context.Background(), pull.Order{Source: reader, Out: t.TempDir(), Pause: time.Millisecond})
	if err == nil {
		t.Error("a forged manifest was taken")
	}
}

func FuzzIndexLayer(f *testing.F) {
	d := artifact(TypeIndex, "1", []release.File{{Name: publish.IndexName, Size: 2, SHA256: strings.Repeat("a", 64)}}, nil)
	f.Add(d.data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if l, err := indexLayer(data); err == nil && (l.Size < 0 || l.Size > publish.MaxIndex || l.Digest.Validate() != nil) {
			t.Fatalf("%+v was taken", l)
		}
	})
}

// TestReferrers: what is published with a Sigstore key has its bundles as referrers, and they go with it.
func TestReferrers(t *testing.T) {
	r, ctx := open(t, start(t, "")), context.Background()
	secret, _, err := sigstore.Generate("", rand.Reader)
	must(t, err)
	key, err := sigstore.ParsePrivateKey(secret, "")
	must(t, err)
	s := &publish.Sealing{By: release.Signers{Sigstore: &key}, Now: noon, Entropy: rand.Reader}
	dir := baked(t, "1.0.0", "one")
	must(t, prove(dir, "worker"))
	for range 2 {
		_, err = apply(t, r, dir, publish.Order{Sealing: s})
		must(t, err)
	}
	d, x, _, err := r.index(ctx, "1.0.0")
	must(t, err)
	var worker ocispec.Descriptor
	for _, child := range x.Manifests {
		if child.Annotations[roleKey] == "worker" {
			worker = child
		}
	}
	for subject, predicate := range map[digest.Digest]string{d.Digest: signPredicate, worker.Digest: provenance.PredicateType} {
		list, err := r.referrers(ctx, ocispec.Descriptor{MediaType: d.MediaType, Digest: subject, Size: d.Size})
		if err != nil || len(list) != 1 || list[0].ArtifactType != sigstore.MediaType || list[0].Annotations[predicateTypeKey] != predicate {
			t.Fatalf("%+v, %v", list, err)
		}
		statement := statementOf(t, r, list[0], key.PublicKey)
		if !strings.Contains(statement, subject.Encoded()) || !strings.Contains(statement, predicate) {
			t.Errorf("the statement is about something else: %.300s", statement)
		}
	}
	if got := seen(t, r); got != "1.0.0" {
		t.Error(got)
	}
	_, err = apply(t, r, baked(t, "2.0.0", "two"), publish.Order{Sealing: s, Keep: publish.Keep{Newest: 1}})
	must(t, err)
	if list, err := r.referrers(ctx, worker); err != nil || len(list) > 0 {
		t.Errorf("the version is gone, and there is %+v, %v", list, err)
	}
}

// prove puts an image's provenance beside it.
func prove(dir, role string) error {
	base := filepath.Join(dir, "slipway-"+role+"-1.0.0-amd64")
	data, err := os.ReadFile(base + ".json")
	if err != nil {
		return err
	}
	m, err := manifest.Decode(data)
	if err != nil {
		return err
	}
	text, err := provenance.Build{Manifest: m}.Encode()
	if err != nil {
		return err
	}
	return os.WriteFile(base+provenance.Ext, text, 0o600)
}

// statementOf is the statement that a referrer has, verified.
func statementOf(t *testing.T, r *Repository, d ocispec.Descriptor, key sigstore.PublicKey) string {
	t.Helper()
	var m ocispec.Manifest
	must(t, json.Unmarshal(manifestOf(t, r, d.Digest.String()), &m))
	body, err := r.remote.Blobs().Fetch(context.Background(), m.Layers[0])
	must(t, err)
	defer body.Close()
	data, err := io.ReadAll(body)
	must(t, err)
	b, err := sigstore.Parse(data)
	must(t, err)
	text, err := key.VerifyStatement(b)
	must(t, err)
	return string(text)
}
