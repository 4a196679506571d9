package netboot

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/builder/uki"
	"github.com/slipway-os/slipway/images/manifest"
)

// TestUBootFiles: a node's configuration file and what it names, for that node alone; nothing for one that boots from its disk.
func TestUBootFiles(t *testing.T) {
	image := uki.Image{OSRelease: []byte("x"), Cmdline: "console=ttyAMA0\n audit=0", Uname: "6.12", Kernel: []byte("kernel"), Initrd: []byte("initrd")}
	data, err := uki.Build(fixture.StubFor(0xaa64, 3), image)
	must(t, err)
	dir := t.TempDir()
	bake(t, dir, "worker", "0.1.0", "arm64", func(m *manifest.Manifest) {
		m.Artifacts[0].Size, m.Artifacts[0].SHA256 = int64(len(data)), fmt.Sprintf("%x", sha256.Sum256(data))
		write(t, filepath.Join(dir, m.Artifacts[0].Name), string(data))
	})
	files, err := openArtifacts(t.Context(), dir, "", []string{"worker"}, nil)
	must(t, err)
	defer files.close()
	s := &Server{config: Config{Site: lab(t)}, states: newStates(t, lab(t))}
	s.live.Store(&live{site: s.config.Site, artifacts: files})
	own := netip.MustParseAddr("10.1.0.21")
	read := func(name string, client netip.Addr) string {
		file, err := s.openTFTP(name, client)
		if errors.Is(err, fs.ErrNotExist) {
			return ""
		}
		must(t, err)
		defer file.Close()
		text, err := io.ReadAll(io.NewSectionReader(file, 0, file.Size()))
		must(t, err)
		return string(text)
	}
	const config, folder = "pxelinux.cfg/01-52-54-00-00-00-21", "uboot/slipway-worker-0.1.0-arm64/"
	want := "default slipway\nlabel slipway\n\tkernel " + folder + "linux\n\tinitrd " + folder + "initrd\n\tappend console=ttyAMA0 audit=0\n"
	for name, want := range map[string]string{
		config: want, folder + "linux": "kernel", folder + "initrd": "initrd", "slipway-worker-0.1.0-arm64.efi": string(data),
		folder + "cmdline": "", "uboot/slipway-worker-9.9.9-arm64/linux": "", "uboot/linux": "", "pxelinux.cfg/default": "",
		"pxelinux.cfg/01-52-54-00-00-00-99": "", "pxelinux.cfg/01-no": "", "linux": "",
	} {
		if got := read(name, own); got != want {
			t.Errorf("%s: %q, want %q", name, got[:min(len(got), 200)], want[:min(len(want), 200)])
		}
	}
	if got := read(config, netip.MustParseAddr("10.1.0.99")); got != "" {
		t.Errorf("another machine gets %s", got)
	}
	must(t, s.states.setBootFrom(s.config.Site, "worker-1", FromDisk))
	if got := read(config, own); got != "" {
		t.Errorf("a node that boots from its disk gets %s", got)
	}
	if text := read(strings.ToUpper(config), own); text != "" {
		t.Errorf("%s", text)
	}
}
