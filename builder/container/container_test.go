package container

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"

	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/builder/oci"
	"github.com/slipway-os/slipway/builder/registry"
)

// blobs is what an image is made of, in memory.
type blobs struct {
	t    *testing.T
	all  map[digest.Digest][]byte
	list []ocispec.Descriptor
}

func newBlobs(t *testing.T) *blobs { return &blobs{t: t, all: map[digest.Digest][]byte{}} }

func (b *blobs) add(mediaType string, data []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if b.all[d.Digest] == nil {
		b.list = append(b.list, d)
	}
	b.all[d.Digest] = data
	return d
}

func (b *blobs) json(mediaType string, v any) ocispec.Descriptor {
	data, err := json.Marshal(v)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.add(mediaType, data)
}

// image is one of an architecture, with a layer that all have and one of its own.
func (b *blobs) image(arch string) ocispec.Descriptor {
	platform := ocispec.Platform{OS: "linux", Architecture: arch}
	d := b.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: b.json(ocispec.MediaTypeImageConfig, ocispec.Image{Platform: platform}),
		Layers: []ocispec.Descriptor{b.add(ocispec.MediaTypeImageLayerGzip, []byte("common")), b.add(ocispec.MediaTypeImageLayerGzip, []byte("of "+arch))},
	})
	d.Platform = &platform
	return d
}

func (b *blobs) index(of ...ocispec.Descriptor) ocispec.Descriptor {
	return b.json(ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: of})
}

// archive writes a tar of an image layout.
func (b *blobs) archive(roots ...ocispec.Descriptor) string {
	b.t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	put := func(name string, data []byte) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o644}); err != nil {
			b.t.Fatal(err)
		}
		w.Write(data)
	}
	index, _ := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: roots})
	put("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	put("index.json", index)
	for d, data := range b.all {
		put("blobs/sha256/"+d.Encoded(), data)
	}
	w.Close()
	file := filepath.Join(b.t.TempDir(), "image.tar")
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return file
}

// push puts everything below a root into a registry, and names it by its digest.
func (b *blobs) push(address string, root ocispec.Descriptor) string {
	b.t.Helper()
	source := memory.New()
	for _, d := range b.list {
		if err := source.Push(context.Background(), d, bytes.NewReader(b.all[d.Digest])); err != nil {
			b.t.Fatal(err)
		}
	}
	name := address + "/team/exporter@" + root.Digest.String()
	to, _, err := registry.Remote(name)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := oras.CopyGraph(context.Background(), source, to, root, oras.DefaultCopyGraphOptions); err != nil {
		b.t.Fatal(err)
	}
	return name
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s.Pause = time.Millisecond
	return s
}

// written is the archive that a node gets.
func written(t *testing.T, s *Store, of, arch string) []byte {
	t.Helper()
	var out bytes.Buffer
	err := oci.WriteForeign(&out, oci.Foreign{Reference: "r.example:5000/exporter:1.2", Digest: of, Arch: arch, Epoch: 1700000000, Blob: s.Path})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// The same image from an archive and from a registry: the same digest, and the same bytes for the node.
func TestFromArchiveAndRegistry(t *testing.T) {
	b := newBlobs(t)
	amd, arm := b.image("amd64"), b.image("arm64")
	root := b.index(amd, arm)
	var want []byte
	origins := []Origin{{Archive: b.archive(root)}, {Archive: b.archive(amd, arm)}}
	address, stop, err := fixture.Registry(t.TempDir(), "")
	if err == nil {
		defer stop()
		origins = append(origins, Origin{Source: b.push(address, root)}, Origin{Source: b.push(address, amd)})
	} else if !errors.Is(err, fixture.ErrNoRegistry) {
		t.Fatal(err)
	}
	for _, o := range origins {
		s := newStore(t)
		found, err := s.Resolve(context.Background(), o, "amd64")
		if err != nil || found.Digest != amd.Digest.String() || found.Size <= amd.Size {
			t.Fatalf("%s: %+v, %v", o, found, err)
		}
		if err := s.Fetch(context.Background(), o, found.Digest); err != nil {
			t.Fatal(err)
		}
		got := written(t, s, found.Digest, "amd64")
		if want == nil {
			want = got
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: other bytes", o)
		}
	}
	// What was written is an archive that can be read, with the name that containerd is to give it.
	file := filepath.Join(t.TempDir(), "node.tar")
	if err := os.WriteFile(file, want, 0o600); err != nil {
		t.Fatal(err)
	}
	roots, err := readIndex(file)
	if err != nil || len(roots) != 1 || roots[0].Annotations["io.containerd.image.name"] != "r.example:5000/exporter:1.2" || roots[0].Annotations[ocispec.AnnotationRefName] != "1.2" {
		t.Errorf("%+v, %v", roots, err)
	}
	if found, err := newStore(t).Resolve(context.Background(), Origin{Archive: file}, "amd64"); err != nil || found.Digest != amd.Digest.String() {
		t.Errorf("%+v, %v", found, err)
	}
}

// What is damaged in the cache is fetched again; what is whole is not asked for.
func TestDamagedStore(t *testing.T) {
	b := newBlobs(t)
	amd := b.image("amd64")
	o := Origin{Archive: b.archive(amd)}
	s := newStore(t)
	of := amd.Digest.String()
	if err := s.Fetch(context.Background(), o, of); err != nil {
		t.Fatal(err)
	}
	want := written(t, s, of, "amd64")
	for _, d := range b.list {
		file := s.Path(d.Digest.String())
		if err := os.Chmod(file, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, bytes.Repeat([]byte("x"), int(d.Size)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := oci.WriteForeign(new(bytes.Buffer), oci.Foreign{Reference: "a/b:1", Digest: of, Arch: "amd64", Blob: s.Path}); err == nil {
			t.Errorf("%s: damage is written into an archive", d.MediaType)
		}
		if err := s.Fetch(context.Background(), o, of); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(written(t, s, of, "amd64"), want) {
			t.Errorf("%s: other bytes", d.MediaType)
		}
	}
	if err := s.Fetch(context.Background(), Origin{Archive: "/nowhere"}, of); err != nil {
		t.Errorf("asked again for what is there: %v", err)
	}
}

func TestWrongOrigins(t *testing.T) {
	b := newBlobs(t)
	amd, arm := b.image("amd64"), b.image("arm64")
	unsaid := amd
	unsaid.Platform = nil
	lying := arm
	lying.Platform = amd.Platform
	second := b.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{Config: b.json(ocispec.MediaTypeImageConfig, ocispec.Image{Platform: *amd.Platform})})
	second.Platform = amd.Platform
	missing := amd
	missing.Digest = digest.FromString("elsewhere")
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for name, c := range map[string]struct{ archive, want string }{
		"no platform said":     {b.archive(unsaid), ""},
		"another architecture": {b.archive(b.index(arm)), "it has no image for linux/amd64 (there are: linux/arm64)"},
		"index that lies":      {b.archive(lying), "the image is for linux/arm64"},
		"several":              {b.archive(amd, second), "it has 2 images for linux/amd64: keep one"},
		"empty":                {b.archive(), "it has no image"},
		"blob is missing":      {b.archive(missing), "it is not there: " + missing.Digest.String()},
		"not a tar":            {write(strings.Repeat("hello", 300)), "it is not an OCI archive, a tar without compression"},
		"no file":              {"/nowhere/x.tar", "no such file"},
		"empty file":           {write(""), "it has no index.json"},
	} {
		_, err := newStore(t).Resolve(context.Background(), Origin{Archive: c.archive}, "amd64")
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
	err := newStore(t).Fetch(context.Background(), Origin{Archive: b.archive(arm)}, amd.Digest.String())
	if !errors.Is(err, ErrGone) {
		t.Errorf("an archive that was changed: %v", err)
	}
}

func TestRegistryWithoutTheImage(t *testing.T) {
	address, stop, err := fixture.Registry(t.TempDir(), "")
	if errors.Is(err, fixture.ErrNoRegistry) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	b := newBlobs(t)
	amd := b.image("amd64")
	o := Origin{Source: address + "/team/exporter@" + amd.Digest.String()}
	if _, err := newStore(t).Resolve(context.Background(), o, "amd64"); !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
	if err := newStore(t).Fetch(context.Background(), o, amd.Digest.String()); !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte("index.json"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := NewStore(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if found, err := s.Resolve(context.Background(), Origin{Archive: file}, "amd64"); err == nil && found.Digest == "" {
			t.Fatal("an image without a digest")
		}
	})
}
