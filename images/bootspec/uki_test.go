package bootspec_test

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

// ukiOf is a PE file with a kernel and a command line, and padding behind them.
func ukiOf(cmdline string) []byte {
	var head bytes.Buffer
	head.Write(append([]byte("MZ"), make([]byte, 58)...))
	sections := []struct{ name, data string }{{".cmdline", cmdline}, {".linux", strings.Repeat("kernel", 100)}}
	binary.Write(&head, binary.LittleEndian, uint32(64))
	head.WriteString("PE\x00\x00")
	binary.Write(&head, binary.LittleEndian, pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: uint16(len(sections)), SizeOfOptionalHeader: 240})
	binary.Write(&head, binary.LittleEndian, pe.OptionalHeader64{Magic: 0x20b, NumberOfRvaAndSizes: 16})
	body := []byte{}
	for _, s := range sections {
		h := pe.SectionHeader32{VirtualSize: uint32(len(s.data)), SizeOfRawData: uint32(len(s.data)), PointerToRawData: uint32(1024 + len(body))}
		copy(h.Name[:], s.name)
		binary.Write(&head, binary.LittleEndian, h)
		body = append(body, s.data...)
	}
	return append(append(append(head.Bytes(), make([]byte, 1024-head.Len())...), body...), make([]byte, 100)...)
}

// TestSealUKI: a sealed image is the one with its digest, and with any other bit it is not.
func TestSealUKI(t *testing.T) {
	uki := ukiOf("quiet " + bootspec.NoUKIDigest() + " panic=30")
	digest, err := bootspec.SealUKI(uki)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(uki, []byte("quiet "+bootspec.ArgUKI+"="+digest+" panic=30")) {
		t.Error("the digest is not on the command line")
	}
	if err := bootspec.CheckUKIDigest(uki, digest); err != nil {
		t.Fatal(err)
	}
	again := bytes.Clone(uki)
	if second, err := bootspec.SealUKI(again); err != nil || second != digest || !bytes.Equal(again, uki) {
		t.Errorf("sealed again: %s %v", second, err)
	}
	for at := range uki {
		changed := bytes.Clone(uki)
		changed[at] ^= 1
		if bootspec.CheckUKIDigest(changed, digest) == nil {
			t.Fatalf("with another bit in byte %d it passes", at)
		}
	}
	for name, other := range map[string][]byte{"longer": append(bytes.Clone(uki), 0), "shorter": uki[:len(uki)-1], "sealed otherwise": ukiOf("quiet " + bootspec.ArgUKI + "=" + digest)} {
		if err := bootspec.CheckUKIDigest(other, digest); err == nil || !strings.Contains(err.Error(), "not the one that this machine booted") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUKIWithoutDigest(t *testing.T) {
	digest := strings.Repeat("ab", 32)
	seal := bootspec.ArgUKI + "=" + digest
	for name, c := range map[string]struct {
		uki          []byte
		digest, want string
	}{
		"none":                   {ukiOf("quiet"), digest, "doesn't have slipway.uki.sha256 once: it was baked by an older slipway"},
		"two":                    {ukiOf(seal + " " + seal), digest, "doesn't have slipway.uki.sha256 once"},
		"cut off":                {ukiOf(seal[:40]), digest, "doesn't have slipway.uki.sha256 once"},
		"no digits":              {ukiOf(bootspec.ArgUKI + "=" + strings.Repeat("x", 64)), digest, "is not a SHA-256 value"},
		"no such section":        {bytes.Replace(ukiOf(seal), []byte(".cmdline"), []byte(".cmdlime"), 1), digest, "it has no kernel command line"},
		"no program":             {nil, digest, "it is no unified kernel image"},
		"booted without":         {ukiOf(seal), "", `"" is not a SHA-256 value: this image was baked by another slipway`},
		"booted with capitals":   {ukiOf(seal), strings.ToUpper(digest), "is not a SHA-256 value"},
		"booted with half of it": {ukiOf(seal), digest[:32], "is not a SHA-256 value"},
	} {
		if err := bootspec.CheckUKIDigest(c.uki, c.digest); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	if _, err := bootspec.SealUKI(ukiOf("quiet")); err == nil {
		t.Error("an image without room for it was sealed")
	}
}

// FuzzCheckUKIDigest reads files that anybody may have made: only the sealed one passes.
func FuzzCheckUKIDigest(f *testing.F) {
	uki := ukiOf("quiet " + bootspec.NoUKIDigest())
	digest, err := bootspec.SealUKI(uki)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uki)
	f.Add(ukiOf(bootspec.ArgUKI + "="))
	f.Fuzz(func(t *testing.T, data []byte) {
		if bootspec.CheckUKIDigest(data, digest) == nil && !bytes.Equal(data, uki) {
			t.Fatal("another file passes")
		}
		_, _ = bootspec.SealUKI(bytes.Clone(data))
	})
}

// TestUKIDigestOfASignedImage: a signature for Secure Boot, made of a sealed image, changes nothing of its digest; what is in the image still
// does, and so does what only pretends to be a signature.
func TestUKIDigestOfASignedImage(t *testing.T) {
	uki := ukiOf("quiet " + bootspec.NoUKIDigest())
	uki = append(uki, make([]byte, 8-len(uki)%8)...)
	digest, err := bootspec.SealUKI(uki)
	if err != nil {
		t.Fatal(err)
	}
	const directory = 64 + 4 + 20 + 112 + 4*8
	sign := func(at, size int, table string) []byte {
		out := append(bytes.Clone(uki), table...)
		binary.LittleEndian.PutUint32(out[directory:], uint32(at))
		binary.LittleEndian.PutUint32(out[directory+4:], uint32(size))
		return out
	}
	const table = "a signature of 24 bytes."
	signed := sign(len(uki), len(table), table)
	if err := bootspec.CheckUKIDigest(signed, digest); err != nil {
		t.Fatal(err)
	}
	for at := range uki {
		if at >= directory && at < directory+8 {
			continue
		}
		changed := bytes.Clone(signed)
		changed[at] ^= 1
		if bootspec.CheckUKIDigest(changed, digest) == nil {
			t.Fatalf("with another bit in byte %d it passes", at)
		}
	}
	for name, other := range map[string][]byte{
		"something behind the signature": append(bytes.Clone(signed), 0), "a table over the image": sign(1024, len(uki)-1024, ""),
		"a table over the header": sign(64, len(uki)-64, ""), "a table that isn't there": sign(len(uki), 0, "")[:len(uki)-1], "a longer table": sign(len(uki), len(table)+1, table),
	} {
		if bootspec.CheckUKIDigest(other, digest) == nil {
			t.Errorf("%s passes", name)
		}
	}
}
