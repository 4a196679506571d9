package bake

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/authenticode"
	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
)

// TestSecureBoot: what firmware starts is signed, wherever it is: the UKI, the boot loader on a disk image and the one in the root
// image, which a node that installs itself takes. Two bakes with one key give the same bytes.
func TestSecureBoot(t *testing.T) {
	k := newKitchen(t)
	k.formats, k.disk = []string{FormatDisk}, disk.Sizes{ESP: 40 << 20, Root: 4 << 20, State: 1 << 20}
	k.pack("systemd-boot-efi-signed", "", fixture.File{Path: bootspec.Loader("amd64"), Content: string(fixture.Stub(2))})
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "owner"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := authenticode.NewSigner(key, certificate)
	if err != nil {
		t.Fatal(err)
	}
	options := k.options()
	options.SecureBoot = signer
	var digests []string
	for range 2 {
		m, err := Bake(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, m.Artifacts[0].SHA256+m.Artifacts[1].SHA256)
	}
	if digests[0] != digests[1] {
		t.Error("two bakes with one key differ")
	}
	uki, err := os.ReadFile(filepath.Join(k.out, base+bootspec.ExtUKI))
	if err != nil {
		t.Fatal(err)
	}
	cmdline, err := os.ReadFile(filepath.Join(k.out, base+bootspec.ExtCmdline))
	if err != nil {
		t.Fatal(err)
	}
	_, digest, _ := strings.Cut(string(cmdline), bootspec.ArgUKI+"=")
	if err := bootspec.CheckUKIDigest(uki, strings.Fields(digest + " -")[0]); err != nil {
		t.Errorf("a machine that installs the signed image refuses it: %v", err)
	}
	inRoot := []byte(k.cat(bootspec.Loader("amd64")))
	for name, program := range map[string][]byte{"UKI": uki, "boot loader of the root image": inRoot} {
		if err := authenticode.Verify(program, certificate); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	d, err := disk.Inspect(filepath.Join(k.out, base+".disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	if d.Files[0].Size != int64(len(inRoot)) || d.Files[1].Size != int64(len(uki)) {
		t.Errorf("the disk image's ESP has %+v, want %d and %d bytes", d.Files, len(inRoot), len(uki))
	}
}
