package oci

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Foreign is a container image that was not made here: its manifest and blobs are taken as they are.
type Foreign struct {
	Reference string // the name that containerd is to give it: registry.example.com/exporter:1.2
	Digest    string // sha256:... of its manifest
	Arch      string // Go's name
	Epoch     int64  // Unix seconds: time of the archive's files
	Blob      func(digest string) (path string)
}

// maxManifest bounds a manifest in bytes.
const maxManifest = 4 << 20

// WriteForeign writes the image as an archive, like Write. Every byte is compared with its digest on the way.
func WriteForeign(w io.Writer, image Foreign) error {
	if err := image.write(w); err != nil {
		return fmt.Errorf("cannot write container image %s: %w", image.Reference, err)
	}
	return nil
}

func (i Foreign) write(w io.Writer) error {
	_, tag, ok := strings.Cut(i.Reference[strings.LastIndex(i.Reference, "/")+1:], ":")
	if !ok || tag == "" {
		return fmt.Errorf("the reference has no tag")
	}
	data, err := i.manifest()
	if err != nil {
		return err
	}
	var m v1.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("manifest %s: %w", i.Digest, err)
	}
	named := v1.Descriptor{MediaType: m.MediaType, Digest: digest.Digest(i.Digest), Size: int64(len(data))}
	if named.MediaType == "" {
		named.MediaType = v1.MediaTypeImageManifest // OCI manifests need not say so
	}
	out := newLayout(w, i.Epoch)
	if err := out.begin(indexOf(named, i.Reference, tag, i.Arch)); err != nil {
		return err
	}
	seen := map[digest.Digest]bool{}
	for _, d := range append([]v1.Descriptor{m.Config}, append(m.Layers, named)...) {
		if seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		if err := i.copy(out, d); err != nil {
			return err
		}
	}
	return out.tar.Close()
}

func (i Foreign) manifest() ([]byte, error) {
	f, err := os.Open(i.Blob(i.Digest))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxManifest)) // copy compares it with its digest
}

func (i Foreign) copy(out layout, d v1.Descriptor) error {
	if d.Digest.Algorithm() != digest.SHA256 || d.Digest.Validate() != nil {
		return fmt.Errorf("%q is not a SHA-256 digest", d.Digest)
	}
	f, err := os.Open(i.Blob(d.Digest.String()))
	if err != nil {
		return err
	}
	defer f.Close()
	verifier := d.Digest.Verifier()
	if err := out.put(blobName(d.Digest), d.Size, io.TeeReader(f, verifier)); err != nil {
		return fmt.Errorf("%s: %w", d.Digest, err)
	}
	if !verifier.Verified() {
		return fmt.Errorf("%s: the cache has other bytes under this digest", d.Digest)
	}
	return nil
}
