// Package release knows releases: all images of one version, of whatever roles and architectures, in one folder.
//
// Its checksum file, slipway-VERSION.sha256sums, names every manifest of the release and every file that these name, as
// sha256sum(1) writes it. The file is what is signed, so that one signature speaks for the release as a whole, and common
// tools verify it without Slipway: minisign the signature, sha256sum the files. Slipway itself reads the signature, the
// checksum of a manifest, and the manifest; what that says of its artifacts is compared where they are read.
//
// An image's provenance (builder/provenance) belongs to the release too. With a Sigstore key the checksum file has a second
// signature, and each provenance a bundle of its own, for cosign and its kin: any one trusted signature of the checksum file is enough.
//
// A release is not an image (images/manifest), and this package bakes nothing.
package release

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/checksums"
	"github.com/slipway-os/slipway/images/manifest"
)

// Extensions of a release's own files, after slipway-VERSION.
const (
	ExtSums      = checksums.ExtSums
	ExtSignature = checksums.ExtSignature // minisign's, of the checksum file
	ExtBundle    = checksums.ExtBundle    // Sigstore's, of the checksum file
)

// ExtAttestation is the extension of an image's provenance in a Sigstore bundle, which is signed with a key.
const ExtAttestation = ".provenance.sigstore.json"

// Sums are the SHA-256 digests of a release's files, by name.
type Sums = checksums.Sums

// FileName is the name of one of a release's own files.
func FileName(version, ext string) string { return checksums.FileName(version, ext) }

// IsFileName tells whether a name may be one of a file of a release.
func IsFileName(name string) bool { return checksums.IsFileName(name) }

// Image is one image of a release, with its manifest as it is in the file.
type Image struct {
	*manifest.Manifest
	File string // name of the manifest's file
	Data []byte // that file
}

// Images reads the manifests in a folder, by the names of their files. A manifest whose file has another name than its
// image is an error: a signature speaks of names.
func Images(root *os.Root) ([]Image, error) {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var images []Image
	for _, e := range entries {
		if !manifest.IsName(e.Name()) {
			continue
		}
		data, err := read(root, e.Name(), manifest.MaxSize)
		if err != nil {
			return nil, err
		}
		m, err := manifest.Decode(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		if want := bootspec.ArtifactBase(m.Role, m.Version, m.Arch) + bootspec.ExtManifest; e.Name() != want {
			return nil, fmt.Errorf("%s is the manifest of another image: its name would be %s", e.Name(), want)
		}
		images = append(images, Image{m, e.Name(), data})
	}
	return images, nil
}

// read reads a file of at most so many bytes.
func read(root *os.Root, name string, most int64) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s is over the limit of %d bytes", name, most)
	}
	return data, err
}

// choose picks the images of one version; of the only one there is where version is empty.
func choose(images []Image, version string) (string, []Image, error) {
	var versions []string
	for _, i := range images {
		if !slices.Contains(versions, i.Version) {
			versions = append(versions, i.Version)
		}
	}
	switch {
	case len(versions) == 0:
		return "", nil, errors.New("the folder has no image (bake them into it: slipway bake --role ROLE --out DIR)")
	case version == "" && len(versions) > 1:
		return "", nil, fmt.Errorf("the folder has images of versions %s: say which is meant (--version)", strings.Join(versions, ", "))
	case version == "":
		version = versions[0]
	case !slices.Contains(versions, version):
		return "", nil, fmt.Errorf("the folder has no image of version %s, but of %s", version, strings.Join(versions, ", "))
	}
	chosen := slices.DeleteFunc(slices.Clone(images), func(i Image) bool { return i.Version != version })
	return version, chosen, nil
}

// sums are the digests of all files of images: of the manifests themselves, and as these say of their artifacts.
func sums(images []Image) (Sums, error) {
	all := Sums{}
	add := func(name, digest string) error {
		if old := all[name]; old != "" && old != digest {
			return fmt.Errorf("two images name %s, with different digests", name)
		}
		all[name] = digest
		return nil
	}
	for _, i := range images {
		if err := add(i.File, digest(i.Data)); err != nil {
			return nil, err
		}
		for _, a := range i.Artifacts {
			if err := add(a.Name, a.SHA256); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// write puts a file into a folder, whole or not at all.
func write(root *os.Root, name string, data []byte) error {
	hidden := "." + name + ".new"
	f, err := root.OpenFile(hidden, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer root.Remove(hidden) // gone already when the rename was done
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return root.Rename(hidden, name)
}

// syncFolder makes renames in a folder durable.
func syncFolder(root *os.Root, name string) error {
	d, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
