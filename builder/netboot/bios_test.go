package netboot

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/builder/uki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// bakeUKI bakes an image whose UKI is a real one.
func bakeUKI(t *testing.T, dir, role, cmdline string) uki.Image {
	t.Helper()
	image := uki.Image{
		OSRelease: []byte("ID=debian\n"), Cmdline: cmdline, Uname: "6.12",
		Kernel: bytes.Repeat([]byte("kernel"), 50_000), Initrd: bytes.Repeat([]byte("initrd"), 30_001),
	}
	data, err := uki.Build(fixture.Stub(3), image)
	if err != nil {
		t.Fatal(err)
	}
	bake(t, dir, role, "0.1.0", "amd64", func(m *manifest.Manifest) {
		a := &m.Artifacts[0]
		a.Size, a.SHA256 = int64(len(data)), fmt.Sprintf("%x", sha256.Sum256(data))
		write(t, filepath.Join(dir, a.Name), string(data))
		loader := "undionly of " + role
		name := strings.TrimSuffix(a.Name, bootspec.ExtUKI) + bootspec.ExtBIOS
		write(t, filepath.Join(dir, name), loader)
		m.Artifacts = append(m.Artifacts, manifest.Artifact{
			Name: name, Kind: manifest.KindBIOS, Size: int64(len(loader)), SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte(loader))),
		})
	})
	return image
}

// serveImages is serveLoopback with other artifacts.
func serveImages(t *testing.T, make func(dir string)) *serving {
	t.Helper()
	s := serveLoopback(t)
	dir := t.TempDir()
	make(dir)
	files, err := openArtifacts(t.Context(), dir, "", bothRoles, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.artifacts.close()
	s.artifacts, s.handler.port = files, 8080
	return s
}

func (s *serving) fetch(path string) (int, string) {
	s.t.Helper()
	answer, err := http.Get(s.base + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

// TestIPXEBootsTheUKIsParts fetches what iPXE would: the script, and what it names.
func TestIPXEBootsTheUKIsParts(t *testing.T) {
	const cmdline = "console=ttyS0,115200 slipway.root.hash=00ff audit=0"
	var image uki.Image
	s := serveImages(t, func(dir string) {
		image = bakeUKI(t, dir, "worker", cmdline)
		bake(t, dir, "control-plane", "0.1.0", "amd64")
	})
	const folder = "/ipxe/slipway-worker-0.1.0-amd64/"
	code, script := s.fetch(folder + "boot.ipxe")
	want := `#!ipxe
echo slipway-worker-0.1.0-amd64
kernel --timeout 30000 http://10.1.0.1:8080` + folder + `linux ` + cmdline + ` initrd=initrd || kernel http://10.1.0.1:8080` + folder + `linux ` + cmdline + ` initrd=initrd || goto failed
initrd --timeout 30000 http://10.1.0.1:8080` + folder + `initrd || initrd http://10.1.0.1:8080` + folder + `initrd || goto failed
boot || goto failed
:failed
echo Cannot boot slipway-worker-0.1.0-amd64. This machine starts anew in 30 seconds.
sleep 30
reboot
`
	if code != 200 || script != want {
		t.Errorf("%d\n%s\nwant\n%s", code, script, want)
	}
	code, script = s.fetch(folder + "uefi.ipxe")
	efi := "http://10.1.0.1:8080/artifacts/slipway-worker-0.1.0-amd64.efi " + cmdline
	if line := "kernel --timeout 30000 " + efi + " || kernel " + efi + " || goto failed\nboot || goto failed\n"; code != 200 || !strings.Contains(script, line) {
		t.Errorf("%d\n%s\nwant in it\n%s", code, script, line)
	}
	// A node whose boot server is reached over a bond or a VLAN has that in its script, at its address alone.
	s.site.Machines[1].NetworkArgument = "eyJ4IjoxfQ"
	for _, file := range []string{"boot.ipxe", "uefi.ipxe"} {
		_, _, own := s.ask(workerAddress, "GET "+folder+file)
		_, _, other := s.ask(cpAddress, "GET "+folder+file)
		if !strings.Contains(own, cmdline+" slipway.network=eyJ4IjoxfQ ") || strings.Contains(other, "slipway.network") {
			t.Errorf("%s: a node with a bond gets\n%s\nanother\n%s", file, own, other)
		}
	}
	s.site.Machines[1].NetworkArgument = strings.Repeat("x", 2000)
	if code, _, _ := s.ask(workerAddress, "GET "+folder+"boot.ipxe"); code != 500 || !strings.Contains(s.log.String(), "a kernel takes 2047") {
		t.Errorf("a command line that no kernel takes: %d", code)
	}
	for file, want := range map[string][]byte{"linux": image.Kernel, "initrd": image.Initrd} {
		if code, got := s.fetch(folder + file); code != 200 || got != string(want) {
			t.Errorf("%s: %d, %d bytes, want %d", file, code, len(got), len(want))
		}
	}
	for path, want := range map[string]int{
		folder + "cmdline": 404, "/ipxe/slipway-worker-9.9.9-amd64/linux": 404, "/ipxe/..%2f/linux": 404,
		"/ipxe/slipway-control-plane-0.1.0-amd64/linux": 500, // it isn't a PE file, and the log says so
	} {
		if code, _ := s.fetch(path); code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
	}
	if log := s.log.String(); !strings.Contains(log, "not a PE32+ image") {
		t.Errorf("the log does not say why:\n%s", log)
	}
}

// TestScriptRefusesWhatIPXEWouldTakeApart: a command line must reach the kernel as it is.
func TestScriptRefusesWhatIPXEWouldTakeApart(t *testing.T) {
	for _, cmdline := range []string{"a || b", "a && b", "x=${net0/mac}", "a\x00b"} {
		if text, err := script("http://10.1.0.1:8080", "slipway-worker-0.1.0-amd64", cmdline); err == nil {
			t.Errorf("%q became\n%s", cmdline, text)
		}
		if text, err := scriptUEFI("http://10.1.0.1:8080", "slipway-worker-0.1.0-amd64", cmdline); err == nil {
			t.Errorf("%q became\n%s", cmdline, text)
		}
	}
	text, err := script("http://10.1.0.1:8080", "slipway-worker-0.1.0-amd64", "a=b\n c|d\n")
	if err != nil || !strings.Contains(text, "/linux a=b c|d initrd=initrd || goto") {
		t.Errorf("%v\n%s", err, text)
	}
}

// TestBIOSLoaderIsServed: the ROM's iPXE is one of the artifacts, of the same image.
func TestBIOSLoaderIsServed(t *testing.T) {
	s := serveImages(t, func(dir string) {
		bakeUKI(t, dir, "worker", "a")
		bake(t, dir, "control-plane", "0.1.0", "amd64")
	})
	if got := s.artifacts.bios["worker"]; got != "slipway-worker-0.1.0-amd64.kpxe" || s.artifacts.bios["control-plane"] != "" {
		t.Errorf("iPXE of the roles: %v", s.artifacts.bios)
	}
	file, _, err := s.artifacts.open("slipway-worker-0.1.0-amd64.kpxe")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if data, err := os.ReadFile(file.Name()); err != nil || string(data) != "undionly of worker" {
		t.Errorf("%q %v", data, err)
	}
}
