package install

import (
	"bytes"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// noise is size bytes that follow from a name.
func noise(name string, size int) []byte {
	data := make([]byte, 0, size+sha256.Size)
	for sum := sha256.Sum256([]byte(name)); len(data) < size; sum = sha256.Sum256(sum[:]) {
		data = append(data, sum[:]...)
	}
	return data[:size]
}

// testImage is an image whose verity tree is noise: nothing here mounts it.
func testImage(version string) Image {
	root := noise("root "+version, 2<<20+64<<10)
	clear(root[512<<10 : 1<<20])
	digest, hash := sha256.Sum256(root), sha256.Sum256([]byte(version))
	r := bootspec.Root{
		Image: "slipway-worker-" + version + "-amd64", Hash: hex.EncodeToString(hash[:]), Data: 2 << 20, Size: int64(len(root)), Digest: hex.EncodeToString(digest[:]),
	}
	return Image{
		Root: r, Arch: "amd64", Loader: noise("loader", 90_001), UKI: testUKI(r),
		CopyRoot: func(w io.Writer) error { _, err := io.Copy(w, bytes.NewReader(root)); return err },
	}
}

// testUKI is a PE file with two sections: a kernel that is noise, and the command line.
func testUKI(r bootspec.Root) []byte {
	cmdline := "quiet"
	for _, a := range r.Args() {
		cmdline += " " + a
	}
	uki := peFile(map[string][]byte{".linux": noise("kernel "+r.Image, 300_000), ".cmdline": []byte(cmdline + " " + bootspec.NoUKIDigest() + "\x00")})
	if _, err := bootspec.SealUKI(uki); err != nil {
		panic(err)
	}
	return uki
}

// digestOf is what a machine that booted an image knows of it.
func digestOf(t testing.TB, uki []byte) string {
	t.Helper()
	digest, err := bootspec.SealUKI(bytes.Clone(uki))
	must(t, err)
	return digest
}

func peFile(sections map[string][]byte) []byte {
	var head, body bytes.Buffer
	head.Write(append([]byte("MZ"), make([]byte, 58)...))
	binary.Write(&head, binary.LittleEndian, uint32(64))
	head.WriteString("PE\x00\x00")
	binary.Write(&head, binary.LittleEndian, pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: uint16(len(sections)), SizeOfOptionalHeader: 240})
	binary.Write(&head, binary.LittleEndian, pe.OptionalHeader64{Magic: 0x20b, NumberOfRvaAndSizes: 16})
	for _, name := range []string{".linux", ".cmdline"} {
		data, ok := sections[name]
		if !ok {
			continue
		}
		h := pe.SectionHeader32{VirtualSize: uint32(len(data)), SizeOfRawData: uint32(len(data)), PointerToRawData: uint32(4096 + body.Len())}
		copy(h.Name[:], name)
		binary.Write(&head, binary.LittleEndian, h)
		body.Write(data)
	}
	return append(append(head.Bytes(), make([]byte, 4096-head.Len())...), body.Bytes()...)
}

const diskSize = 2 << 30

func testConfig() bootspec.Config {
	return bootspec.Config{Cluster: "lab", Node: "worker-1", Document: []byte(`{"ignition": {"version": "3.5.0"}}`)}
}

func job(device *os.File, version, seed string) Job {
	return Job{Device: device, Size: diskSize, SectorSize: 512, Image: testImage(version), Config: testConfig(), Seed: seed}
}

// blank is a disk of zeros that takes no room.
func blank(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	must(t, err)
	t.Cleanup(func() { f.Close() })
	must(t, f.Truncate(diskSize))
	return f
}

// look is what the agent of worker-1 would do with a disk, in words: "write", "done", "refuse ID".
func look(t testing.TB, r io.ReaderAt, overwrite string, again bool) (Found, string) {
	t.Helper()
	f, err := Look(r, diskSize, "lab", "worker-1")
	must(t, err)
	write, err := Decide(f, overwrite, again)
	switch {
	case err != nil:
		return f, fmt.Sprintf("refuse: %v", err)
	case write:
		return f, "write"
	}
	return f, "done"
}
