package bootspec

import (
	"bytes"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// A unified kernel image has its own digest on its kernel command line (ArgUKI), so that a machine which runs it knows the image's file
// to the last byte without believing anybody: SHA-256 of the whole file, with the 64 digits themselves as zeros. A signature for Secure Boot,
// which is made of the file with its digest, doesn't count: the digest is that of the file as it was before it.

// maxUKICmdline bounds the command line in a unified kernel image in bytes.
const maxUKICmdline = 64 << 10

// NoUKIDigest stands on a command line where SealUKI will write the digest.
func NoUKIDigest() string { return ArgUKI + "=" + noDigest }

var noDigest = strings.Repeat("0", sha256.Size*2)

// SealUKI writes a unified kernel image's digest into its command line, which must have NoUKIDigest, and returns it.
func SealUKI(uki []byte) (digest string, err error) {
	at, err := findUKIDigest(uki)
	if err != nil {
		return "", fmt.Errorf("cannot seal unified kernel image: %w", err)
	}
	digest = digestUKI(uki, at)
	copy(uki[at:], digest)
	return digest, nil
}

// CheckUKIDigest wants a unified kernel image to be, to the last byte, the one with this digest, and to say so itself.
func CheckUKIDigest(uki []byte, digest string) error {
	if b, err := hex.DecodeString(digest); err != nil || len(b) != sha256.Size || strings.ToLower(digest) != digest {
		return fmt.Errorf("kernel argument %s: %.100q is not a SHA-256 value: this image was baked by another slipway", ArgUKI, digest)
	}
	at, err := findUKIDigest(uki)
	if err != nil {
		return err
	}
	is, says := digestUKI(uki, at), string(uki[at:at+len(noDigest)])
	if is != digest || says != digest {
		return fmt.Errorf("it is not the one that this machine booted: its SHA-256, taken as %s is, is %s (it says %s itself), and %s was booted", ArgUKI, is, says, digest)
	}
	return nil
}

// unsigned is a PE image without its signatures: they are the end of the file, and the header has a pointer to them ("PE Format", sections
// "Optional Header Data Directories" and "The Attribute Certificate Table"). An image whose table isn't exactly its end stays as it is.
func unsigned(uki []byte) []byte {
	const optional, directories, certificates = 4 + 20, 112, 4 // after the place that the DOS header names; of PE32+
	if len(uki) < 64 {
		return uki
	}
	entry := int64(binary.LittleEndian.Uint32(uki[60:])) + optional + directories + certificates*8
	if entry+8 > int64(len(uki)) {
		return uki
	}
	at, size := int64(binary.LittleEndian.Uint32(uki[entry:])), int64(binary.LittleEndian.Uint32(uki[entry+4:]))
	if at == 0 || at < entry+8 || at+size != int64(len(uki)) {
		return uki
	}
	out := bytes.Clone(uki[:at])
	clear(out[entry : entry+8])
	return out
}

func digestUKI(uki []byte, at int) string {
	uki = unsigned(uki)
	if at+len(noDigest) > len(uki) { // a signature's table over the command line: nobody made that in good faith
		return ""
	}
	h := sha256.New()
	h.Write(uki[:at])
	h.Write([]byte(noDigest))
	h.Write(uki[at+len(noDigest):])
	return hex.EncodeToString(h.Sum(nil))
}

// findUKIDigest finds the digits in a file that anybody may have made.
func findUKIDigest(uki []byte) (at int, err error) {
	file, err := pe.NewFile(bytes.NewReader(uki))
	if err != nil {
		return 0, fmt.Errorf("it is no unified kernel image: %w", err)
	}
	defer file.Close()
	section := file.Section(".cmdline")
	if section == nil {
		return 0, errors.New("it is no unified kernel image: it has no kernel command line")
	}
	start, size := int64(section.Offset), int64(min(section.Size, section.VirtualSize))
	if size > maxUKICmdline || start+size > int64(len(uki)) {
		return 0, fmt.Errorf("its kernel command line of %d bytes is too long, or cut off", size)
	}
	line := uki[start : start+size]
	before, rest, ok := bytes.Cut(line, []byte(ArgUKI+"="))
	if !ok || len(rest) < len(noDigest) || bytes.Contains(rest, []byte(ArgUKI+"=")) {
		return 0, fmt.Errorf("its kernel command line doesn't have %s once: it was baked by an older slipway", ArgUKI)
	}
	if strings.Trim(string(rest[:len(noDigest)]), "0123456789abcdef") != "" {
		return 0, fmt.Errorf("its kernel command line: %s is not a SHA-256 value", ArgUKI)
	}
	return int(start) + len(before) + len(ArgUKI+"="), nil
}
