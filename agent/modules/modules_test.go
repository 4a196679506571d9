package modules

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
)

var folder = fstest.MapFS{
	"modules.dep": {Data: []byte(`kernel/drivers/net/virtio_net.ko.xz: kernel/net/core/net_failover.ko.xz kernel/net/core/failover.ko.xz
kernel/net/core/net_failover.ko.xz: kernel/net/core/failover.ko.xz
kernel/net/core/failover.ko.xz:
kernel/drivers/md/dm-verity.ko: kernel/drivers/md/dm-bufio.ko
kernel/drivers/md/dm-bufio.ko:
kernel/crypto/crc32c_generic.ko:
kernel/crypto/crc32c_other.ko:
kernel/fs/ext4.ko:
kernel/fs/xfs.ko:
`)},
	"modules.alias": {Data: []byte(`# Aliases extracted from modules themselves.
alias virtio:d00000001v* virtio_net
alias pci:v00008086d0000100Esv*sd*bc*sc*i* e1000
alias fs-ext4 ext4
alias crypto-crc32c crc32c_generic
alias crypto-crc32c crc32c_other
`)},
	"modules.softdep": {Data: []byte("softdep ext4 pre: crc32c-generic missing post: dm-bufio\nsoftdep xfs pre: crypto-crc32c\n")},
	"modules.builtin": {Data: []byte("kernel/drivers/virtio/virtio_pci.ko\n")},
}

func loader(t *testing.T, insert func(string) error) (*Loader, *[]string) {
	t.Helper()
	x, err := ReadIndex(folder)
	if err != nil {
		t.Fatal(err)
	}
	files := &[]string{}
	return newLoader(x, func(f string) error {
		if err := insert(f); err != nil {
			return err
		}
		*files = append(*files, filepath.Base(f))
		return nil
	}, slog.New(slog.NewTextHandler(io.Discard, nil))), files
}

func fine(string) error { return nil }

func TestLoadInOrder(t *testing.T) {
	for name, want := range map[string]string{
		"virtio-net": "failover.ko.xz net_failover.ko.xz virtio_net.ko.xz",
		"dm_verity":  "dm-bufio.ko dm-verity.ko",
		"ext4":       "crc32c_generic.ko ext4.ko dm-bufio.ko",
		"xfs":        "crc32c_generic.ko crc32c_other.ko xfs.ko", // by an alias
		"virtio-pci": "",                                         // built in
	} {
		l, files := loader(t, fine)
		if err := l.Load(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := l.Load(name); err != nil {
			t.Errorf("%s again: %v", name, err)
		}
		if got := strings.Join(*files, " "); got != want {
			t.Errorf("%s: loaded %q, want %q", name, got, want)
		}
	}
}

func TestLoadErrors(t *testing.T) {
	l, _ := loader(t, func(f string) error {
		if strings.Contains(f, "bufio") {
			return unix.ENOEXEC
		}
		if strings.Contains(f, "failover") {
			return unix.EEXIST
		}
		return nil
	})
	err := l.Load("dm-verity")
	if !errors.Is(err, unix.ENOEXEC) || !strings.Contains(err.Error(), "dm_verity needs dm_bufio") {
		t.Errorf("error %v doesn't name the dependency", err)
	}
	if err := l.Load("virtio_net"); err != nil {
		t.Errorf("modules that are loaded already: %v", err)
	}
	if err := l.Load("nonesuch"); err == nil {
		t.Error("a module that doesn't exist was loaded")
	}
}

func TestColdplugFollowsDevices(t *testing.T) {
	sys := t.TempDir()
	device := func(path, modalias string) {
		dir := filepath.Join(sys, path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "modalias"), []byte(modalias+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	device("pci0000:00/0000:00:02.0", "fs-ext4")
	l, files := loader(t, func(f string) error {
		if strings.Contains(f, "ext4") { // the bus driver makes the device behind it appear
			device("pci0000:00/0000:00:02.0/virtio0", "virtio:d00000001v00001AF4")
		}
		return nil
	})
	if err := l.Coldplug(sys); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(*files, "virtio_net.ko.xz") {
		t.Errorf("loaded %v without the driver of the device that came later", *files)
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"virtio:d00000001v*", "virtio:d00000001v00001AF4", true},
		{"virtio:d00000002v*", "virtio:d00000001v00001AF4", false},
		{"acpi*:PNP0501:*", "acpi:PNP0501:", true},
		{"usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v1D6Bp0002d0510dc09dsc00dp01ic08isc06ip50in00", true},
		{"usb:v0BDAp81[0-9A-B]?d*", "usb:v0BDAp81AFd1", true},
		{"usb:v0BDAp81[!0-9]?d*", "usb:v0BDAp811Fd1", false},
		{"x[", "x[", false},
		{"", "", true},
		{"*", "", true},
		{"a*b*c", "aXbXbc", true},
		{"a*b*c", "aXbXb", false},
	} {
		if got := match(c.pattern, c.s); got != c.want {
			t.Errorf("match(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v1D6Bp0002d0510dc09dsc00dp01ic08isc06ip50in00")
	f.Add("a[!b-d]*\\", "aec")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		got := match(pattern, s)
		if !strings.ContainsAny(pattern, "*?[\\") && got != (pattern == s) {
			t.Errorf("match(%q, %q) = %v", pattern, s, got)
		}
		if got && !match(pattern+"*", s) {
			t.Errorf("match(%q, %q) but not with one more star", pattern, s)
		}
	})
}

func FuzzReadIndex(f *testing.F) {
	f.Add(string(folder["modules.dep"].Data), string(folder["modules.alias"].Data), string(folder["modules.softdep"].Data))
	f.Add("a.ko: b.ko\nb.ko: a.ko\n", "alias * a", "softdep a pre: b\nsoftdep b pre: a post: a")
	f.Fuzz(func(t *testing.T, dep, aliases, softdep string) {
		x, err := ReadIndex(fstest.MapFS{"modules.dep": {Data: []byte(dep)}, "modules.alias": {Data: []byte(aliases)}, "modules.softdep": {Data: []byte(softdep)}})
		if err != nil {
			return
		}
		l := newLoader(x, func(f string) error {
			if f == "" {
				return fmt.Errorf("empty file name")
			}
			return nil
		}, slog.New(slog.NewTextHandler(io.Discard, nil)))
		for name := range x.files {
			_ = l.Load(name) // must end, also with dependencies in a circle
		}
		x.Lookup("pci:v00008086d0000100E")
	})
}
