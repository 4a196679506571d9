package release

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Signed is what Sign did.
type Signed struct {
	Version   string   `json:"version"`
	Sums      string   `json:"checksums"` // file names
	Signature string   `json:"signature"`
	Key       string   `json:"key"`    // id
	Images    []string `json:"images"` // role/arch
	Files     int      `json:"files"`  // that the checksum file names
}

func digest(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }

// Sign signs the release of a version in a folder (empty: the only one there is): it compares every artifact with its manifest, and
// writes the checksum file and its signature. The same release and key give the same bytes. Signing again, with more images
// or another key, replaces both.
func Sign(dir, version string, key SigningKey) (Signed, error) {
	s, err := sign(dir, version, key)
	if err != nil {
		return Signed{}, fmt.Errorf("cannot sign the release in %s: %w", dir, err)
	}
	return s, nil
}

func sign(dir, version string, key SigningKey) (Signed, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Signed{}, err
	}
	defer root.Close()
	all, err := Images(root)
	if err != nil {
		return Signed{}, err
	}
	version, images, err := choose(all, version)
	if err != nil {
		return Signed{}, err
	}
	s := Signed{Version: version, Sums: FileName(version, ExtSums), Signature: FileName(version, ExtSignature), Key: key.ID()}
	for _, i := range images {
		if err := i.VerifyFolder(dir); err != nil {
			return Signed{}, err
		}
		s.Images = append(s.Images, i.Role+"/"+i.Arch)
	}
	list, err := sums(images)
	if err != nil {
		return Signed{}, err
	}
	s.Files = len(list)
	text := list.Encode()
	comment := "slipway " + version + ": " + strings.Join(s.Images, " ")
	return s, writeSigned(root, s, text, key.sign(text, comment))
}

// writeSigned takes the old signature away first: there is never one beside a checksum file that it doesn't fit.
func writeSigned(root *os.Root, s Signed, text, signature []byte) error {
	if err := root.Remove(s.Signature); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := write(root, s.Sums, text); err != nil {
		return err
	}
	if err := write(root, s.Signature, signature); err != nil {
		return err
	}
	return syncFolder(root, ".")
}
