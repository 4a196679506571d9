package initramfs

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/agent/drives"
	"github.com/slipway-os/slipway/agent/media"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// TestRunsFrom: a machine that booted from the disk that is meant is installed; a stick that only happens to fit is not it.
func TestRunsFrom(t *testing.T) {
	fixed := drives.Drive{Name: "sda", Path: "/dev/sda", Serial: "S3Z8", Size: 100e9, Transport: "ata"}
	stick := drives.Drive{Name: "sdb", Path: "/dev/sdb", Serial: "STICK", Size: 100e9, Transport: "usb"}
	cd := drives.Drive{Name: "sr0", Path: "/dev/sr0", Size: 1e9, Optical: true, ReadOnly: true, Transport: "ata"}
	smallest, named := bootspec.DiskMatch{Smallest: true}, bootspec.DiskMatch{Serial: "S3Z8"}
	for _, tt := range []struct {
		name   string
		booted *drives.Drive
		match  bootspec.DiskMatch
		want   bool
	}{
		{"from the network", nil, smallest, false},
		{"from the disk by a rule", &fixed, smallest, true},
		{"from the disk by name", &fixed, named, true},
		{"from another disk", &fixed, bootspec.DiskMatch{Serial: "OTHER"}, false},
		{"from a disk the rule doesn't fit", &fixed, bootspec.DiskMatch{MinSize: 200e9}, false},
		{"from a stick, by a rule", &stick, smallest, false},
		{"from a stick, another is named", &stick, named, false},
		{"from a stick that is named", &stick, bootspec.DiskMatch{Serial: "STICK"}, true},
		{"from a CD-ROM", &cd, smallest, false},
	} {
		b := &boot{}
		if tt.booted != nil {
			b.medium = &media.Medium{Drive: *tt.booted}
		}
		if got := b.runsFrom(tt.match); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// TestServerUKI: what is installed is what the manifest says, whatever the server sends.
func TestServerUKI(t *testing.T) {
	const image = "slipway-worker-0.1.0-amd64"
	uki := []byte("a kernel")
	sum := sha256.Sum256(uki)
	of := func(digest string, size int64) []byte {
		m := manifest.Manifest{
			APIVersion: bootspec.Version, Kind: "Manifest", Role: "worker", Version: "0.1.0", Arch: "amd64", Plan: digest, Root: manifest.Root{Hash: digest, Data: 4096},
			Artifacts: []manifest.Artifact{{Name: image + bootspec.ExtUKI, Kind: manifest.KindUKI, Size: size, SHA256: digest}},
		}
		return m.Encode()
	}
	right := of(hex.EncodeToString(sum[:]), int64(len(uki)))
	for _, tt := range []struct {
		name     string
		manifest []byte
		uki      []byte
		want     string // of the error; empty: none
	}{
		{"right", right, uki, ""},
		{"other bytes", right, []byte("another "), "its manifest says"},
		{"cut off", right, uki[:4], "(4 bytes), its manifest says"},
		{"longer", right, append(uki, 0), "it is over 8 bytes"},
		{"no manifest", nil, uki, "404 Not Found"},
		{"nonsense", []byte("{}"), uki, "cannot use the boot server's manifest"},
		{"too large for memory", of(hex.EncodeToString(sum[:]), 1<<40), uki, "no unified kernel image that can be installed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			client, over := overTLSFiles(t, map[string][]byte{image + bootspec.ExtManifest: tt.manifest, image + bootspec.ExtUKI: tt.uki})
			b := &boot{
				claimant: client, secure: over, log: slog.New(slog.NewTextHandler(io.Discard, nil)),
				root: bootspec.Root{Image: image},
			}
			got, err := b.serverUKI(t.Context())
			switch {
			case tt.want == "" && (err != nil || string(got) != string(uki)):
				t.Errorf("got %q %v", got, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}
