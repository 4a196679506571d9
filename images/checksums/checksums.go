// Package checksums knows the checksum file of a release: what it is called, its lines, and whose signatures of it count for an image.
//
// slipway-VERSION.sha256sums names every file of a release as sha256sum(1) writes it. It is what is signed: by minisign beside it in
// .minisig, by a key of cosign's kind in a Sigstore bundle, .sigstore.json. Both the builder, which writes and serves these files
// (builder/release), and a node, which asks for them before it installs anything (agent/initramfs), read them; the keys here are those
// that an image pins (bootspec.ArgReleaseKey).
package checksums

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Extensions of a release's own files, after slipway-VERSION.
const (
	ExtSums      = ".sha256sums"
	ExtSignature = ".sha256sums.minisig"       // minisign's, of the checksum file
	ExtBundle    = ".sha256sums.sigstore.json" // Sigstore's, of the checksum file
)

// Bounds, in bytes.
const (
	MaxSums      = 1 << 20 // of a checksum file
	MaxSignature = 4 << 10
	MaxBundle    = 64 << 10
)

// FileName is the name of one of a release's own files.
func FileName(version, ext string) string { return "slipway-" + version + ext }

// Sums are the SHA-256 digests of a release's files, by name.
type Sums map[string]string

// Encode is the checksum file: a line each, in the order of the names, as sha256sum --text writes it.
func (s Sums) Encode() []byte {
	var b bytes.Buffer
	for _, name := range s.Names() {
		fmt.Fprintf(&b, "%s  %s\n", s[name], name)
	}
	return b.Bytes()
}

// Names are the files' names, sorted.
func (s Sums) Names() []string { return slices.Sorted(maps.Keys(s)) }

// Decode reads a checksum file strictly: only what Encode writes is one.
func Decode(data []byte) (Sums, error) {
	if len(data) > MaxSums {
		return nil, fmt.Errorf("%d bytes are over the limit of %d", len(data), MaxSums)
	}
	sums := Sums{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, MaxSums+1)
	for n := 1; lines.Scan(); n++ {
		digest, name, ok := strings.Cut(lines.Text(), "  ")
		switch {
		case !ok || len(digest) != 64 || strings.Trim(digest, "0123456789abcdef") != "":
			return nil, fmt.Errorf("line %d is no SHA-256, two spaces and a file name", n)
		case !IsFileName(name):
			return nil, fmt.Errorf("line %d: %q is not a plain file name", n, name)
		case sums[name] != "":
			return nil, fmt.Errorf("line %d: %s comes twice", n, name)
		}
		sums[name] = digest
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if !bytes.Equal(sums.Encode(), data) {
		return nil, errors.New("its lines are not in the order of their names, or do not end as lines do")
	}
	return sums, nil
}

// IsFileName tells whether a name may be one of a file of a release: no path, not hidden, no white space.
func IsFileName(name string) bool {
	return name != "" && !strings.HasPrefix(name, ".") && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r == '\\' || r == 0x7f })
}
