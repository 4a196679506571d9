package release

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/provenance"
	"github.com/slipway-os/slipway/images/version"
)

// Release is all images of one version in a folder.
type Release struct {
	Version string
	Images  []Image
	Sums    Sums
	Own     Own    // the checksum file, and its signatures
	Signer  string // id of the key that a signature names; empty: nobody signed
	Key     Key    // a trusted key that made one; zero: none was asked for
}

// File is one file of a release.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Open reads the release of a version in a folder (empty: the only one there is): its manifests, checksum file and signature, which
// must agree and, where keys are trusted, be signed with one of them. A release that nobody signed has no checksum file yet: it gets
// the one that Sign would write. The artifacts are not read; whoever takes them compares them with Sums.
func Open(ctx context.Context, root *os.Root, wanted string, trust *Trust) (*Release, error) {
	r, err := open(ctx, root, wanted, trust)
	if err != nil {
		return nil, fmt.Errorf("cannot read the release in %s: %w", root.Name(), err)
	}
	return r, nil
}

func open(ctx context.Context, root *os.Root, wanted string, trust *Trust) (*Release, error) {
	all, err := Images(root)
	if err != nil {
		return nil, err
	}
	r := &Release{}
	if r.Version, r.Images, err = choose(all, wanted); err != nil {
		return nil, err
	}
	if err := version.Check(r.Version); err != nil {
		return nil, err
	}
	if err := r.readSums(ctx, root, trust); err != nil {
		return nil, err
	}
	return r, r.compare()
}

// readSums reads and verifies the checksum file, and the provenance of the images.
func (r *Release) readSums(ctx context.Context, root *os.Root, trust *Trust) error {
	own, err := ReadOwn(ctx, Folder(root), r.Version)
	if err != nil {
		return err
	}
	if own.Sums == nil && !trust.Wanted() {
		if r.Sums, err = sums(r.Images); err != nil {
			return err
		}
		return r.unsigned(ctx, root)
	}
	if r.Sums, r.Key, err = trust.Vouch(r.Version, own); err != nil {
		return err
	}
	r.Own, r.Signer = own, own.signer()
	if r.Signer == "" && (own.Signature != nil || own.Bundle != nil) {
		return fmt.Errorf("%w: the signature of %s is damaged: copy it again, or sign the release again", ErrSignature, FileName(r.Version, ExtSums))
	}
	for _, i := range r.Images {
		if _, err := trust.provenance(ctx, Folder(root), r.Sums, i.Manifest, i.Data); err != nil {
			return err
		}
	}
	return nil
}

// unsigned makes the checksum file that Sign would write.
func (r *Release) unsigned(ctx context.Context, root *os.Root) error {
	for _, i := range r.Images {
		s, err := readProvenance(ctx, Folder(root), i.Manifest, i.Data)
		if err != nil {
			return err
		}
		if s != nil {
			r.Sums[provenance.FileName(i.Role, i.Version, i.Arch)] = digest(s.text)
		}
	}
	r.Own.Sums = r.Sums.Encode()
	return nil
}

// compare wants the checksum file and the manifests to say the same.
func (r *Release) compare() error {
	want, err := sums(r.Images)
	if err != nil {
		return err
	}
	list := FileName(r.Version, ExtSums)
	for _, name := range want.Names() {
		switch r.Sums[name] {
		case want[name]:
		case "":
			return fmt.Errorf("%s does not name %s: it was baked later; sign the release again", list, name)
		default:
			return fmt.Errorf("%s has another digest for %s: it was baked again since; sign the release again", list, name)
		}
	}
	return nil
}

// Files are all files of the release, by name, the checksum file and its signature among them. Those that are not there, or have
// another size than their manifest says, are errors.
func (r *Release) Files(root *os.Root) ([]File, error) {
	sizes := map[string]int64{}
	for _, i := range r.Images {
		for _, a := range i.Artifacts {
			sizes[a.Name] = a.Size
		}
	}
	var files []File
	for _, name := range r.Sums.Names() {
		info, err := root.Stat(name)
		if err != nil {
			return nil, fmt.Errorf("cannot find a file of the release: %w (bake it again)", err)
		}
		if size, ok := sizes[name]; !info.Mode().IsRegular() || ok && size != info.Size() {
			return nil, fmt.Errorf("%s is not what its manifest says: %d bytes, not %d (bake the image again)", name, info.Size(), size)
		}
		files = append(files, File{name, info.Size(), r.Sums[name]})
	}
	for name, data := range r.Own.Files(r.Version) {
		files = append(files, File{name, int64(len(data)), digest(data)})
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return files, nil
}

// Digest is the SHA-256 of the checksum file: releases with the same one have the same bytes.
func (r *Release) Digest() string { return digest(r.Own.Sums) }
