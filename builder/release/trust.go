package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"aead.dev/minisign"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// ErrSignature is what errors wrap about releases whose signature is missing, wrong, or of somebody who isn't trusted.
var ErrSignature = errors.New("the signature does not vouch for it")

// Key is a public key that is trusted.
type Key struct {
	ID     string `json:"id"`
	File   string `json:"file"` // where it was read
	public minisign.PublicKey
}

// Trust is whose signatures count. Without keys nobody's is asked for: images that were just baked here have none.
type Trust struct{ Keys []Key }

// Wanted tells whether signatures are asked for.
func (t *Trust) Wanted() bool { return t != nil && len(t.Keys) > 0 }

// ReadTrust reads public keys: files, and of folders all *.pub in them, which may be none. A folder that isn't there has none; a
// file that can't be read is an error, so that a key never counts for nothing in silence.
func ReadTrust(files, folders []string) (*Trust, error) {
	for _, dir := range folders {
		found, err := filepath.Glob(filepath.Join(dir, "*"+ExtPublic))
		if err != nil {
			return nil, fmt.Errorf("cannot look for trusted keys in %s: %w", dir, err)
		}
		files = append(files, found...)
	}
	t := &Trust{}
	for _, file := range files {
		data, err := readKey(file)
		if err != nil {
			return nil, fmt.Errorf("cannot read trusted key %s: %w", file, err)
		}
		k := Key{File: file}
		if err := k.public.UnmarshalText(data); err != nil {
			return nil, fmt.Errorf("cannot read trusted key %s: it is no minisign public key", file)
		}
		k.ID = keyID(k.public.ID())
		t.Keys = append(t.Keys, k)
	}
	return t, nil
}

// Reader reads a small file beside a manifest: at most so many bytes. What is not there is fs.ErrNotExist.
type Reader func(ctx context.Context, name string, most int64) ([]byte, error)

// Folder is a Reader of a folder on this machine.
func Folder(root *os.Root) Reader {
	return func(_ context.Context, name string, most int64) ([]byte, error) { return read(root, name, most) }
}

// Check wants a manifest to be what a trusted key has signed as part of its release, and tells whose key that was. data is
// the manifest's file as it is. Without keys in t it checks nothing.
func (t *Trust) Check(ctx context.Context, beside Reader, m *manifest.Manifest, data []byte) (Key, error) {
	if !t.Wanted() {
		return Key{}, nil
	}
	sums, key, err := t.release(ctx, beside, m.Version)
	if err != nil {
		return Key{}, err
	}
	name := bootspec.ArtifactBase(m.Role, m.Version, m.Arch) + bootspec.ExtManifest
	switch list := FileName(m.Version, ExtSums); sums[name] {
	case digest(data):
		return key, nil
	case "":
		return Key{}, fmt.Errorf("%w: %s, which key %s signed, doesn't name %s: it was baked later; sign the release again", ErrSignature, list, key.ID, name)
	default:
		return Key{}, fmt.Errorf("%w: %s is not the one that key %s signed (%s has another digest): it was changed, or baked again since",
			ErrSignature, name, key.ID, list)
	}
}

// release reads the checksum file of a version and verifies its signature.
func (t *Trust) release(ctx context.Context, beside Reader, version string) (Sums, Key, error) {
	list, sig := FileName(version, ExtSums), FileName(version, ExtSignature)
	text, err := beside(ctx, list, MaxSums)
	if err == nil {
		var signature []byte
		if signature, err = beside(ctx, sig, maxSignature); err == nil {
			return t.open(version, text, signature)
		}
		list = sig
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, Key{}, t.nobody(version, list)
	}
	return nil, Key{}, fmt.Errorf("%w: cannot read %s: %w", ErrSignature, list, err)
}

// nobody is the error about a release that lacks one of its own files.
func (t *Trust) nobody(version, lacks string) error {
	return fmt.Errorf("%w: nobody has signed version %s: there is no %s, and %s trusted; "+
		"sign it (slipway sign), or take what you baked yourself with --unsigned", ErrSignature, version, lacks, t.who())
}

func (t *Trust) open(version string, text, signature []byte) (Sums, Key, error) {
	list, sig := FileName(version, ExtSums), FileName(version, ExtSignature)
	var s minisign.Signature
	if err := s.UnmarshalText(signature); err != nil {
		return nil, Key{}, fmt.Errorf("%w: %s is no minisign signature: it is damaged; copy it again", ErrSignature, sig)
	}
	key, err := t.verify(s, text, signature)
	if err != nil {
		return nil, Key{}, fmt.Errorf("%w: %s %w", ErrSignature, list, err)
	}
	sums, err := DecodeSums(text)
	if err != nil {
		return nil, Key{}, fmt.Errorf("%w: cannot read %s: %w", ErrSignature, list, err)
	}
	return sums, key, nil
}

// verify finds the key that made a signature. The id in it is only a hint.
func (t *Trust) verify(s minisign.Signature, text, signature []byte) (Key, error) {
	id := keyID(s.KeyID)
	i := slices.IndexFunc(t.Keys, func(k Key) bool { return k.ID == id && minisign.Verify(k.public, text, signature) })
	if i >= 0 {
		return t.Keys[i], nil
	}
	if i = slices.IndexFunc(t.Keys, func(k Key) bool { return k.ID == id }); i >= 0 {
		return Key{}, fmt.Errorf("is not what key %s (%s) signed: it or its signature was changed; get the release again", id, t.Keys[i].File)
	}
	return Key{}, fmt.Errorf("is signed with key %s, and %s trusted: if you trust its owner, get the public key from there and add it (--trust)", id, t.who())
}

// who says which keys are trusted.
func (t *Trust) who() string {
	var list []string
	for _, k := range t.Keys {
		list = append(list, k.ID+" ("+k.File+")")
	}
	if len(list) == 1 {
		return "only key " + list[0] + " is"
	}
	return "only keys " + strings.Join(list, ", ") + " are"
}
