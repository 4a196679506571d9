package media

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"aead.dev/minisign"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/checksums"
)

// worker is a folder with copies of the worker's artifacts that a machine asks the boot server for.
func worker(t *testing.T) (dir, image string) {
	t.Helper()
	base := strings.TrimSuffix(artifact(t, bootspec.ExtRoot), bootspec.ExtRoot)
	dir = t.TempDir()
	for _, ext := range []string{bootspec.ExtRoot, bootspec.ExtUKI, bootspec.ExtKernel, bootspec.ExtInitrd, bootspec.ExtCmdline, bootspec.ExtManifest} {
		if out, err := exec.Command("cp", "--reflink=auto", base+ext, dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return dir, filepath.Base(base)
}

// signFolder signs a folder's manifest and kernel image.
func signFolder(t *testing.T, dir, image string, secret minisign.PrivateKey) {
	t.Helper()
	sums := checksums.Sums{}
	for _, ext := range []string{bootspec.ExtUKI, bootspec.ExtManifest} {
		sums[image+ext] = digestOf([]byte(read(t, filepath.Join(dir, image+ext))))
	}
	version := strings.TrimSuffix(strings.TrimPrefix(image, "slipway-worker-"), "-amd64")
	list := filepath.Join(dir, checksums.FileName(version, ""))
	must(t, os.WriteFile(list+checksums.ExtSums, sums.Encode(), 0o600), os.WriteFile(list+checksums.ExtSignature, minisign.Sign(secret, sums.Encode()), 0o600))
}

// TestMachineInstallsOnlyWhatIsSigned: a machine whose image pins a release key writes nothing while nobody, or somebody else, has signed the
// release, nor when the boot server has another kernel image with a manifest and a signature that fit; then it installs what is signed.
func TestMachineInstallsOnlyWhatIsSigned(t *testing.T) {
	dir, image := worker(t)
	t.Setenv("SLIPWAY_ARTIFACTS", dir)
	server := newBootServer(t)
	server.serve(t, bootspec.Install{Disk: bootspec.DiskMatch{MinSize: 1 << 30}})
	public, secret, err := minisign.GenerateKey(rand.Reader)
	must(t, err)
	_, other, err := minisign.GenerateKey(rand.Reader)
	must(t, err)
	path := emptyDisk(t)
	power := func() *machine {
		args := server.fromNetwork(t, path)
		args[slices.Index(args, "-append")+1] += " " + bootspec.ArgReleaseKey + "=" + public.String()
		return launch(t, args...)
	}
	refuses := func(want string) {
		t.Helper()
		m := power()
		m.await(lineFailed)
		m.await(want)
		m.off()
		m.never(lineInstalling)
		info, err := os.Stat(path)
		must(t, err)
		if n := info.Sys().(*syscall.Stat_t).Blocks; n != 0 {
			t.Errorf("%s: %d blocks of the disk are written", want, n)
		}
	}
	refuses("the signature does not vouch for it: nobody has signed version ")

	signFolder(t, dir, image, other)
	refuses("is signed with key ")

	uki, manifest := filepath.Join(dir, image+bootspec.ExtUKI), filepath.Join(dir, image+bootspec.ExtManifest)
	good, text := read(t, uki), read(t, manifest)
	changed := []byte(good)
	changed[len(changed)/2] ^= 1
	must(t, os.WriteFile(uki, changed, 0o600), os.WriteFile(manifest, []byte(strings.ReplaceAll(text, digestOf([]byte(good)), digestOf(changed))), 0o600))
	signFolder(t, dir, image, secret)
	refuses("unified kernel image: it is not the one that this machine booted: its SHA-256")
	must(t, os.WriteFile(uki, []byte(good), 0o600), os.WriteFile(manifest, []byte(text), 0o600))

	signFolder(t, dir, image, secret)
	m := power()
	m.await(lineInstalled, lineFailed)
	m.off()
	if got := state(t, path); got != "whole" {
		t.Fatalf("the disk is %s", got)
	}
	if !strings.Contains(m.console(), "the release is signed with a key that is pinned in this image") {
		t.Error("the console doesn't say who has signed it")
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	must(t, err)
	return string(data)
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
