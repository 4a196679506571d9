package oci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-os/slipway/builder/rootfs"
)

func sample(t *testing.T) Image {
	t.Helper()
	files := rootfs.New()
	if err := files.Add(rootfs.Entry{Path: "usr/bin/pause", Type: rootfs.Regular, Mode: 0o755, Content: rootfs.Inline([]byte("\x7fELF pause"))}); err != nil {
		t.Fatal(err)
	}
	return Image{Reference: "slipway.local/pause:0.1.0", Arch: "arm64", Entrypoint: []string{"/usr/bin/pause"}, User: "65535:65535", Ports: []string{"53/udp", "53/tcp"}, Files: files, Epoch: 1700000000}
}

// TestFromArchiveToFile follows the digests of an archive as a runtime does, down to the file in the layer.
func TestFromArchiveToFile(t *testing.T) {
	var b bytes.Buffer
	name, err := Write(&b, sample(t))
	if err != nil {
		t.Fatal(err)
	}
	files := untar(t, &b)
	read := func(d v1.Descriptor, into any) []byte {
		data := files["blobs/sha256/"+d.Digest.Encoded()]
		if digest.FromBytes(data) != d.Digest || int64(len(data)) != d.Size {
			t.Fatalf("blob %s is not what its descriptor says", d.Digest)
		}
		if into != nil {
			if err := json.Unmarshal(data, into); err != nil {
				t.Fatal(err)
			}
		}
		return data
	}
	var index v1.Index
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	top := index.Manifests[0]
	if top.Digest.String() != name || top.Annotations["io.containerd.image.name"] != "slipway.local/pause:0.1.0" || top.Annotations[v1.AnnotationRefName] != "0.1.0" {
		t.Errorf("index says %+v, Write said %s", top, name)
	}
	var manifest v1.Manifest
	var config v1.Image
	read(top, &manifest)
	read(manifest.Config, &config)
	if config.Architecture != "arm64" || config.Config.User != "65535:65535" || config.Config.Entrypoint[0] != "/usr/bin/pause" || len(config.Config.ExposedPorts) != 2 {
		t.Errorf("config %+v", config)
	}
	z, err := zstd.NewReader(bytes.NewReader(read(manifest.Layers[0], nil)))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil || digest.FromBytes(plain) != config.RootFS.DiffIDs[0] {
		t.Errorf("the layer does not unpack to its diff id (%v)", err)
	}
	if got := untar(t, bytes.NewReader(plain))["usr/bin/pause"]; string(got) != "\x7fELF pause" {
		t.Errorf("the layer's file holds %q", got)
	}
}

func untar(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSameBytesTwice(t *testing.T) {
	var a, b bytes.Buffer
	if _, err := Write(&a, sample(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(&b, sample(t)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("two archives of the same image differ")
	}
}

func TestReferenceNeedsTag(t *testing.T) {
	for _, ref := range []string{"", "slipway.local/pause", "localhost:5000/pause", "slipway.local/pause:"} {
		image := sample(t)
		image.Reference = ref
		if _, err := Write(io.Discard, image); err == nil || !strings.Contains(err.Error(), "tag") {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

// TestSkopeoReadsIt asks an independent implementation.
func TestSkopeoReadsIt(t *testing.T) {
	tool, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("skopeo is not installed")
	}
	path := filepath.Join(t.TempDir(), "pause.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	name, err := Write(f, sample(t))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tool, "inspect", "oci-archive:"+path+":0.1.0").CombinedOutput()
	if err != nil || !strings.Contains(string(out), name) {
		t.Errorf("%v: %s", err, out)
	}
}
