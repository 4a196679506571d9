package bake

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/images/manifest"
)

// A definition's files: mode, owner, links and folders; they win over a package's.
func TestDefinitionFiles(t *testing.T) {
	k := newKitchen(t)
	k.plan.Files = []plan.File{
		{Path: "/etc/localtime", Mode: 0o777, Link: "/etc/site.conf"},
		{Path: "/etc/site.conf", Mode: 0o640, GID: 42, Size: 5, SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte("here\n"))), Content: []byte("here\n")},
		{Path: "/opt/data", Mode: 0o1750, UID: 7, Directory: true},
		{Path: "/usr/lib/systemd/system/multi-user.target", Mode: 0o644, Size: 6, SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte("# mine"))), Content: []byte("# mine")},
	}
	k.bake()
	list := k.list()
	for _, want := range []string{"-rw-r----- 0/42 /etc/site.conf\n", "drwxr-x--T 7/0 /opt/data\n", "lrwxrwxrwx 0/0 /etc/localtime -> /etc/site.conf\n"} {
		if !strings.Contains(list, want) {
			t.Errorf("no %q in\n%s", want, list)
		}
	}
	if got := k.cat("etc/site.conf") + k.cat("usr/lib/systemd/system/multi-user.target"); got != "here\n# mine" {
		t.Errorf("the files hold %q", got)
	}
	k.plan.Files[1].Content = []byte("other")
	if _, err := Bake(context.Background(), k.options()); err == nil || !strings.Contains(err.Error(), "file /etc/site.conf of the definition is not the one of the plan") {
		t.Errorf("%v", err)
	}
}

// Of firmware only what is named, and what links lead to.
func TestFirmwareSelection(t *testing.T) {
	k := newKitchen(t)
	k.pack("firmware-demo", "", fixture.File{Path: "usr/lib/firmware/nic/a.fw", Content: "A"}, fixture.File{Path: "usr/lib/firmware/nic/b.fw", Content: "B"},
		fixture.File{Path: "lib/firmware/other/c.fw", Content: "C"}, fixture.File{Path: "usr/lib/firmware/nic/link.fw", Link: "../other/c.fw"},
		fixture.File{Path: "usr/lib/firmware/radio/d.fw", Content: "D"})
	k.plan.FirmwareFiles = []string{"nic", "!nic/b.fw"}
	k.bake()
	var got []string
	for line := range strings.Lines(k.list()) {
		if _, name, ok := strings.Cut(line, "/usr/lib/firmware/"); ok && !strings.HasPrefix(line, "d") {
			got = append(got, strings.TrimSpace(name))
		}
	}
	if want := "nic/a.fw nic/link.fw -> ../other/c.fw other/c.fw"; strings.Join(got, " ") != want {
		t.Errorf("firmware %q, want %q", got, want)
	}
	k.plan.FirmwareFiles = []string{"nic", "nick*"}
	if _, err := Bake(context.Background(), k.options()); err == nil || !strings.Contains(err.Error(), `firmwareFiles "nick*": no package has such a file below usr/lib/firmware/`) {
		t.Errorf("%v", err)
	}
}

// An image that comes as it is: in the root image under its own digest, in the manifest and in the bill of materials.
func TestForeignImage(t *testing.T) {
	k := newKitchen(t)
	put := func(data string) string {
		digest := fmt.Sprintf("%x", sha256.Sum256([]byte(data)))
		k.write(digest, []byte(data))
		return "sha256:" + digest
	}
	config, layer := `{"os":"linux","architecture":"amd64"}`, "a layer as it came"
	manifested := put(fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":%q,"size":%d}]}`,
		put(config), len(config), put(layer), len(layer)))
	k.plan.ContainerImages = append(k.plan.ContainerImages, plan.ContainerImage{
		Name: "exporter", Reference: "r.example:5000/team/exporter:1.2", Source: "r.example:5000/team/exporter@" + manifested, Digest: manifested, Size: 100,
	})
	o := k.options()
	o.Blob = func(digest string) string { return filepath.Join(k.dir, strings.TrimPrefix(digest, "sha256:")) }
	m, err := Bake(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Images[1]; got != (manifest.Image{Reference: "r.example:5000/team/exporter:1.2", Digest: manifested}) {
		t.Errorf("the manifest says %+v", got)
	}
	archived := k.cat("usr/share/slipway/container-images/exporter.tar")
	var names []string
	for r := tar.NewReader(strings.NewReader(archived)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	if len(names) != 5 || !strings.Contains(archived, layer) || !strings.Contains(archived, `"io.containerd.image.name":"r.example:5000/team/exporter:1.2"`) {
		t.Errorf("the archive holds %q", names)
	}
	if bill := k.artifacts()[base+".spdx.json"]; !bytes.Contains(bill, []byte("pkg:oci/exporter@sha256")) || !bytes.Contains(bill, []byte(`"r.example:5000/team/exporter"`)) {
		t.Error("the bill of materials doesn't have it")
	}
	o.Blob = nil
	if _, err := Bake(context.Background(), o); err == nil || !strings.Contains(err.Error(), "container image exporter: nothing was fetched") {
		t.Errorf("%v", err)
	}
}

// A lock whose version was changed by hand: the file says otherwise.
func TestPackageOfAnotherVersion(t *testing.T) {
	k := newKitchen(t)
	k.plan.Packages[1].Version = "1.0-2"
	_, err := Bake(context.Background(), k.options())
	if !errors.Is(err, plan.ErrBadLock) || !strings.Contains(err.Error(), "package base-passwd 1.0-2: the file that it names is base-passwd 1.0-1") {
		t.Errorf("%v", err)
	}
}
