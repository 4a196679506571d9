package release

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/slipway-os/slipway/builder/provenance"
	"github.com/slipway-os/slipway/builder/sigstore"
	"github.com/slipway-os/slipway/images/bootspec"
)

// Signers are the keys to sign with: one of them, or both.
type Signers struct {
	Minisign *SigningKey
	Sigstore *sigstore.PrivateKey
}

// Signed is what Sign did.
type Signed struct {
	Version   string   `json:"version"`
	Sums      string   `json:"checksums"` // file names
	Signature string   `json:"signature,omitempty"`
	Bundle    string   `json:"bundle,omitempty"`
	Key       string   `json:"key,omitempty"`       // id of the minisign key
	Sigstore  string   `json:"cosignKey,omitempty"` // id of the Sigstore key
	Images    []string `json:"images"`              // role/arch
	Unproven  []string `json:"unproven,omitempty"`  // images without provenance
	Files     int      `json:"files"`               // that the checksum file names
}

func digest(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }

// Sign signs the release of a version in a folder (empty: the only one there is): it compares every artifact with its manifest and
// every provenance with its image, and writes the checksum file and its signatures. The same release and keys give the same bytes.
// Signing again, with more images or other keys, replaces them.
func Sign(dir, version string, by Signers) (Signed, error) {
	s, err := sign(dir, version, by)
	if err != nil {
		return Signed{}, fmt.Errorf("cannot sign the release in %s: %w", dir, err)
	}
	return s, nil
}

func sign(dir, version string, by Signers) (Signed, error) {
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
	s := signing{Signed: Signed{Version: version, Sums: FileName(version, ExtSums)}, root: root, by: by, files: map[string][]byte{}}
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
	for _, i := range images {
		if err := s.attest(i, list); err != nil {
			return Signed{}, err
		}
	}
	s.Files = len(list)
	if err := s.sign(list.Encode()); err != nil {
		return Signed{}, err
	}
	return s.Signed, s.write()
}

// signing is one run of Sign.
type signing struct {
	Signed
	root  *os.Root
	by    Signers
	order []string          // of the files, as they are written
	files map[string][]byte // nil: to be removed, if an earlier run has left it
}

func (s *signing) put(name string, data []byte) {
	s.order = append(s.order, name)
	s.files[name] = data
}

// attest adds an image's provenance to the checksum file, and its bundle where there is a key for that.
func (s *signing) attest(i Image, list Sums) error {
	bundle := bootspec.ArtifactBase(i.Role, i.Version, i.Arch) + ExtAttestation
	s.put(bundle, nil)
	statement, err := readProvenance(context.Background(), Folder(s.root), i.Manifest, i.Data)
	if err != nil {
		return err
	}
	if statement == nil {
		s.Unproven = append(s.Unproven, i.Role+"/"+i.Arch)
		return nil
	}
	list[provenance.FileName(i.Role, i.Version, i.Arch)] = digest(statement.text)
	if s.by.Sigstore == nil {
		return nil
	}
	data, err := s.by.Sigstore.SignStatement(statement.text)
	if err != nil {
		return err
	}
	s.files[bundle], list[bundle] = data, digest(data)
	return nil
}

// sign signs the checksum file.
func (s *signing) sign(text []byte) error {
	s.put(s.Sums, text)
	s.put(FileName(s.Version, ExtSignature), nil)
	s.put(FileName(s.Version, ExtBundle), nil)
	if k := s.by.Minisign; k != nil {
		s.Signature, s.Key = FileName(s.Version, ExtSignature), k.ID()
		s.files[s.Signature] = k.sign(text, "slipway "+s.Version+": "+strings.Join(s.Images, " "))
	}
	if k := s.by.Sigstore; k != nil {
		s.Bundle, s.Sigstore = FileName(s.Version, ExtBundle), k.ID()
		data, err := k.SignBlob(text)
		if err != nil {
			return err
		}
		s.files[s.Bundle] = data
	}
	return nil
}

// write takes the old signatures away first: there is never one beside a checksum file that it doesn't fit.
func (s *signing) write() error {
	for _, name := range s.order {
		if name == s.Sums {
			continue
		}
		if err := s.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, name := range s.order {
		if data := s.files[name]; data != nil {
			if err := write(s.root, name, data); err != nil {
				return err
			}
		}
	}
	return syncFolder(s.root, ".")
}
