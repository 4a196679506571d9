// Package oci writes container images as OCI archives: a tar of an image layout (OCI Image Format Specification 1.1)
// with one image of one layer, as `ctr image import` takes it. Equal images give equal bytes.
//
// The layer is compressed with zstd: a node imports it into memory-backed storage, where a layer of 20 MB costs less
// than one of 75. It does not talk to registries and does not build what goes into an image (builder/component).
package oci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// containerdName is the annotation that containerd names an imported image by.
const containerdName = "io.containerd.image.name"

// Image is a container image.
type Image struct {
	Reference  string // slipway.local/pause:0.1.0
	Arch       string // Go's name
	Entrypoint []string
	Args       []string
	User       string   // UID:GID, numbers
	Ports      []string // 53/udp
	Files      *rootfs.Tree
	Epoch      int64 // Unix seconds: time of the image and of all files
	// Zstd compresses what feed writes; nil: Go's encoder does, at its best.
	Zstd func(w io.Writer, feed func(io.Writer) error) error
}

// blob is content that is found by its digest.
type blob struct {
	v1.Descriptor
	data []byte
}

func newBlob(mediaType string, data []byte) blob {
	return blob{v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}, data}
}

// Write writes the image as an archive and returns the digest of its manifest (sha256:...).
func Write(w io.Writer, image Image) (string, error) {
	d, err := write(w, image)
	if err != nil {
		return "", fmt.Errorf("cannot write container image %s: %w", image.Reference, err)
	}
	return d.String(), nil
}

func write(w io.Writer, image Image) (digest.Digest, error) {
	_, tag, ok := strings.Cut(image.Reference[strings.LastIndex(image.Reference, "/")+1:], ":")
	if !ok || tag == "" {
		return "", fmt.Errorf("the reference has no tag")
	}
	layer, plain, err := image.layer()
	if err != nil {
		return "", err
	}
	config := newBlob(v1.MediaTypeImageConfig, encode(image.config(plain)))
	manifest := newBlob(v1.MediaTypeImageManifest, encode(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    config.Descriptor,
		Layers:    []v1.Descriptor{layer.Descriptor},
	}))
	index := indexOf(manifest.Descriptor, image.Reference, tag, image.Arch)
	return manifest.Digest, writeArchive(w, image.Epoch, index, config, layer, manifest)
}

// indexOf is the layout's index: the one image, under the name that containerd is to give it.
func indexOf(manifest v1.Descriptor, reference, tag, arch string) []byte {
	manifest.Platform = &v1.Platform{OS: "linux", Architecture: arch}
	manifest.Annotations = map[string]string{v1.AnnotationRefName: tag, containerdName: reference}
	return encode(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{manifest}})
}

// layer is the compressed layer and the digest of what it unpacks to.
func (i Image) layer() (blob, digest.Digest, error) {
	var packed bytes.Buffer
	plain := digest.SHA256.Digester()
	compress := i.Zstd
	if compress == nil {
		compress = inGo
	}
	err := compress(&packed, func(w io.Writer) error { return i.Files.WriteTar(io.MultiWriter(w, plain.Hash()), i.Epoch) })
	if err != nil {
		return blob{}, "", err
	}
	return newBlob(v1.MediaTypeImageLayerZstd, packed.Bytes()), plain.Digest(), nil
}

func inGo(w io.Writer, feed func(io.Writer) error) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	if err := feed(z); err != nil {
		return err
	}
	return z.Close()
}

func (i Image) config(layer digest.Digest) v1.Image {
	created := time.Unix(i.Epoch, 0).UTC()
	c := v1.Image{
		Created:  &created,
		Platform: v1.Platform{OS: "linux", Architecture: i.Arch},
		Config:   v1.ImageConfig{User: i.User, Entrypoint: i.Entrypoint, Cmd: i.Args, Env: []string{"PATH=/usr/bin"}},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer}},
		History:  []v1.History{{Created: &created, CreatedBy: "slipway"}},
	}
	for _, p := range i.Ports {
		if c.Config.ExposedPorts == nil {
			c.Config.ExposedPorts = map[string]struct{}{}
		}
		c.Config.ExposedPorts[p] = struct{}{}
	}
	return c
}

func encode(v any) []byte {
	b, err := json.Marshal(v) // maps are sorted
	if err != nil {
		panic("oci: " + err.Error()) // plain structs always encode
	}
	return b
}

func writeArchive(w io.Writer, epoch int64, index []byte, blobs ...blob) error {
	out := newLayout(w, epoch)
	if err := out.begin(index); err != nil {
		return err
	}
	for _, b := range blobs {
		if err := out.put(blobName(b.Digest), int64(len(b.data)), bytes.NewReader(b.data)); err != nil {
			return err
		}
	}
	return out.tar.Close()
}

func blobName(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }

// layout writes an image layout as a tar.
type layout struct {
	tar  *tar.Writer
	time time.Time
}

func newLayout(w io.Writer, epoch int64) layout {
	return layout{tar.NewWriter(w), time.Unix(epoch, 0).UTC()}
}

func (l layout) put(name string, size int64, content io.Reader) error {
	if err := l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: l.time}); err != nil {
		return err
	}
	_, err := io.Copy(l.tar, content)
	return err
}

func (l layout) begin(index []byte) error {
	version := encode(v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err := l.put(v1.ImageLayoutFile, int64(len(version)), bytes.NewReader(version)); err != nil {
		return err
	}
	return l.put(v1.ImageIndexFile, int64(len(index)), bytes.NewReader(index))
}
