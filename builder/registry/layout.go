// Package registry knows releases as OCI artifacts in a registry (OCI image specification 1.1, distribution specification 1.1).
//
// A release is an image index. It names an artifact for each image, whose layers are the image's files, its manifest
// first, and one for the release's own files: the checksum file and its signature. Each layer has a file's bytes as they
// are, and its name as title, so that tools for artifacts fetch them as files. A version is a tag, with an underscore for the plus
// sign of build metadata, which tags cannot have; so is a channel. Tags are signed by nobody; where the place is signed, the tag _index names
// an artifact with the same index that a folder has, and that says which releases there are, by digest, and what channels name.
//
// What may be done to a repository is decided by builder/publish; what is read here is believed by nobody before builder/pull
// has verified it.
package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-os/slipway/builder/publish"
	"github.com/slipway-os/slipway/builder/release"
	"github.com/slipway-os/slipway/images/manifest"
	"github.com/slipway-os/slipway/images/version"
)

// Types of artifacts and of their layers.
const (
	TypeRelease = "application/vnd.slipway.release.v1" // of the index, and of the artifact with the release's own files
	TypeImage   = "application/vnd.slipway.image.v1"
	TypeFile    = "application/vnd.slipway.file.v1"
	TypeIndex   = "application/vnd.slipway.index.v1" // of the artifact with the signed index
)

// Annotations.
const (
	roleKey   = "dev.slipway.role"
	signerKey = "dev.slipway.signer"
)

// indexTag names the signed index. It can be no version's and no channel's.
const indexTag = "_index"

const maxManifest = 4 << 20 // bytes; what registries take at most

// tag is a version's tag.
func tag(v string) string { return strings.ReplaceAll(v, "+", "_") }

// Untag is the version of a tag, or the tag itself where it is none.
func Untag(t string) string {
	if v, ok := untag(t); ok {
		return v
	}
	return t
}

// untag is the version of a tag; ok is false when it is none.
func untag(t string) (v string, ok bool) {
	v = strings.ReplaceAll(t, "_", "+")
	return v, version.Check(v) == nil && tag(v) == t
}

// document is a manifest as it is pushed.
type document struct {
	ocispec.Descriptor
	data []byte
}

func newDocument(mediaType, artifactType string, content any) document {
	data, err := json.Marshal(content)
	if err != nil {
		panic("registry: " + err.Error()) // plain structs always encode
	}
	return document{ocispec.Descriptor{MediaType: mediaType, ArtifactType: artifactType, Digest: digest.FromBytes(data), Size: int64(len(data))}, data}
}

// layout is a release as documents: its artifacts, and the index that names them.
type layout struct {
	index    document
	children []document
}

// arrange lays out a release. The same release has the same bytes.
func arrange(r *release.Release, described publish.Release) layout {
	var l layout
	left := map[string]release.File{}
	for _, f := range described.Files {
		left[f.Name] = f
	}
	take := func(names ...string) (files []release.File) {
		for _, name := range names {
			if f, ok := left[name]; ok {
				files = append(files, f)
				delete(left, name)
			}
		}
		return files
	}
	for _, i := range r.Images {
		names := []string{i.File}
		for _, a := range i.Artifacts {
			names = append(names, a.Name)
		}
		d := artifact(TypeImage, r.Version, take(names...), map[string]string{roleKey: i.Role})
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: i.Arch}
		l.children = append(l.children, d)
	}
	var rest []string
	for name := range left {
		rest = append(rest, name)
	}
	slices.Sort(rest)
	l.children = append(l.children, artifact(TypeRelease, r.Version, take(rest...), nil))
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, ArtifactType: TypeRelease}
	index.Annotations = map[string]string{ocispec.AnnotationVersion: r.Version}
	if r.Signer != "" {
		index.Annotations[signerKey] = r.Signer
	}
	for _, c := range l.children {
		index.Manifests = append(index.Manifests, c.Descriptor)
	}
	l.index = newDocument(ocispec.MediaTypeImageIndex, TypeRelease, index)
	return l
}

// artifact is a manifest of files.
func artifact(kind, v string, files []release.File, annotations map[string]string) document {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: kind, Config: ocispec.DescriptorEmptyJSON,
		Annotations: map[string]string{ocispec.AnnotationVersion: v},
	}
	m.Config.Data = nil // not every registry knows inlined content
	for k, value := range annotations {
		m.Annotations[k] = value
	}
	for _, f := range files {
		m.Layers = append(m.Layers, ocispec.Descriptor{
			MediaType: TypeFile, Digest: digest.NewDigestFromEncoded(digest.SHA256, f.SHA256), Size: f.Size,
			Annotations: map[string]string{ocispec.AnnotationTitle: f.Name},
		})
	}
	d := newDocument(ocispec.MediaTypeImageManifest, kind, m)
	d.Annotations = annotations
	return d
}

// decodeIndex reads an index of a release.
func decodeIndex(data []byte) (ocispec.Index, string, error) {
	var x ocispec.Index
	if err := json.Unmarshal(data, &x); err != nil {
		return x, "", err
	}
	v := x.Annotations[ocispec.AnnotationVersion]
	if x.MediaType != ocispec.MediaTypeImageIndex || x.ArtifactType != TypeRelease || version.Check(v) != nil {
		return x, "", errors.New("it is no release of Slipway")
	}
	for _, c := range x.Manifests {
		if c.MediaType != ocispec.MediaTypeImageManifest || c.Size < 0 || c.Size > maxManifest || c.Digest.Validate() != nil {
			return x, "", fmt.Errorf("it names %s of %d bytes (%s)", c.Digest, c.Size, c.MediaType)
		}
	}
	return x, v, nil
}

// addFiles adds the files of an artifact of a release to what is known about it.
func addFiles(r *publish.Release, child ocispec.Descriptor, data []byte) error {
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	for _, l := range m.Layers {
		name := l.Annotations[ocispec.AnnotationTitle]
		known := slices.ContainsFunc(r.Files, func(f release.File) bool { return f.Name == name })
		if !release.IsFileName(name) || known || l.Size < 0 || l.Digest.Validate() != nil || l.Digest.Algorithm() != digest.SHA256 {
			return fmt.Errorf("file %q of %d bytes (%s)", name, l.Size, l.Digest)
		}
		r.Files = append(r.Files, release.File{Name: name, Size: l.Size, SHA256: l.Digest.Encoded()})
		if name == release.FileName(r.Version, release.ExtSums) {
			r.Digest = l.Digest.Encoded()
		}
		if manifest.IsName(name) && child.Platform != nil {
			r.Images = append(r.Images, publish.Image{Role: child.Annotations[roleKey], Arch: child.Platform.Architecture})
		}
	}
	return nil
}
