package initramfs

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"maps"
	"strings"
	"testing"

	"aead.dev/minisign"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/checksums"
	"github.com/slipway-os/slipway/images/manifest"
)

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// releaseKey is a key pair; its public half is as an image pins it.
func releaseKey(t *testing.T) (pin string, secret minisign.PrivateKey) {
	t.Helper()
	public, secret, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	file, _ := public.MarshalText()
	keys, err := checksums.Keys{}.Add(file)
	if err != nil {
		t.Fatal(err)
	}
	return keys.String(), secret
}

// TestSignedRelease: a machine whose image pins a release key takes from the boot server only what that key has signed, whatever the
// server's manifest says; one whose image pins none says so.
func TestSignedRelease(t *testing.T) {
	const image, list, signature = "slipway-worker-0.1.0-amd64", "slipway-0.1.0.sha256sums", "slipway-0.1.0.sha256sums.minisig"
	const manifestName, ukiName = image + bootspec.ExtManifest, image + bootspec.ExtUKI
	pin, secret := releaseKey(t)
	otherPin, other := releaseKey(t)
	files := func(version, uki string) map[string][]byte {
		m := manifest.Manifest{
			APIVersion: bootspec.Version, Kind: "Manifest", Role: "worker", Version: version, Arch: "amd64", Plan: digestOf(nil), Root: manifest.Root{Hash: digestOf(nil), Data: 4096},
			Artifacts: []manifest.Artifact{{Name: ukiName, Kind: manifest.KindUKI, Size: int64(len(uki)), SHA256: digestOf([]byte(uki))}},
		}
		return map[string][]byte{manifestName: m.Encode(), ukiName: []byte(uki)}
	}
	sign := func(all map[string][]byte, by minisign.PrivateKey) map[string][]byte {
		sums := checksums.Sums{}
		for name, data := range all {
			sums[name] = digestOf(data)
		}
		all[list] = sums.Encode()
		all[signature] = minisign.Sign(by, all[list])
		return all
	}
	good := sign(files("0.1.0", "a kernel"), secret)
	with := func(changes map[string][]byte) map[string][]byte {
		all := maps.Clone(good)
		maps.Copy(all, changes)
		return all
	}
	baked := files("0.1.0", "another!") // of the same name, and with a manifest that fits it
	unnamed := files("0.1.0", "a kernel")
	delete(unnamed, ukiName)
	unnamed = sign(unnamed, secret)
	unnamed[ukiName] = []byte("a kernel")
	for _, tt := range []struct {
		name, pin string
		files     map[string][]byte
		want      string // of the error; empty: none
		says      string
	}{
		{"signed", pin, good, "", "signed with a key that is pinned"},
		{"signed, one of two keys", otherPin + "," + pin, good, "", "signed with a key that is pinned"},
		{"no pin", "", baked, "", "RELEASE KEY NOT PINNED"},
		{"nobody has signed", pin, files("0.1.0", "a kernel"), "nobody has signed version 0.1.0", ""},
		{"no signature", pin, with(map[string][]byte{signature: nil}), "nobody has signed version 0.1.0", ""},
		{"somebody else has", pin, sign(files("0.1.0", "another!"), other), "is signed with key ", ""},
		{"baked again since", pin, with(baked), manifestName + " is not the one that key ", ""},
		{"another kernel image", pin, with(map[string][]byte{ukiName: []byte("A kernel")}), "its manifest says", ""},
		{"a kernel image that wasn't signed", pin, unnamed, "doesn't name " + ukiName, ""},
		{"a changed list", pin, with(map[string][]byte{list: append(bytes.Clone(good[list]), '\n')}), "is not what key ", ""},
		{"a list that is too long", pin, with(map[string][]byte{list: make([]byte, checksums.MaxSums+1)}), "it is over 1048576 bytes", ""},
		{"another image's manifest", pin, sign(files("0.2.0", "a kernel"), secret), "it is of image slipway-worker-0.2.0-amd64", ""},
		{"a pin that is none", "x", good, "kernel argument slipway.release-key", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			client, over := overTLSFiles(t, tt.files)
			var said bytes.Buffer
			b := &boot{
				claimant: client, log: slog.New(slog.NewTextHandler(&said, nil)), secure: over,
				root: bootspec.Root{Image: image}, args: map[string]string{bootspec.ArgReleaseKey: tt.pin},
			}
			got, err := b.serverUKI(t.Context())
			switch {
			case tt.want == "" && (err != nil || !bytes.Equal(got, tt.files[ukiName]) || b.vouched == ""):
				t.Errorf("got %q %v", got, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || got != nil):
				t.Errorf("got %v, want %s", err, tt.want)
			case strings.Contains(tt.want, "sign") && !errors.Is(err, checksums.ErrSignature):
				t.Errorf("%v is no error about a signature", err)
			}
			if !strings.Contains(said.String(), tt.says) {
				t.Errorf("the console says %s", said.String())
			}
		})
	}
}
