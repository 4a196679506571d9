package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"aead.dev/minisign"

	"github.com/slipway-os/slipway/builder/sigstore"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/checksums"
	"github.com/slipway-os/slipway/images/manifest"
)

// ErrSignature is what errors wrap about releases whose signature is missing, wrong, or of somebody who isn't trusted.
var ErrSignature = errors.New("the signature does not vouch for it")

// Key is a public key that is trusted: one of minisign's or of Sigstore's.
type Key struct {
	ID       string `json:"id"`
	File     string `json:"file"` // where it was read
	minisign *minisign.PublicKey
	sigstore *sigstore.PublicKey
}

// parseKey reads a public key.
func parseKey(file string, data []byte) (Key, error) {
	k := Key{File: file}
	if sigstore.IsPEM(data) {
		public, err := sigstore.ParsePublicKey(data)
		if err != nil {
			return Key{}, err
		}
		k.ID, k.sigstore = public.ID(), &public
		return k, nil
	}
	var public minisign.PublicKey
	if err := public.UnmarshalText(data); err != nil {
		return Key{}, errors.New("it is no minisign public key, and none in PEM")
	}
	k.ID, k.minisign = keyID(public.ID()), &public
	return k, nil
}

// Trust is whose signatures count. Without keys nobody's is asked for: images that were just baked here have none.
type Trust struct{ Keys []Key }

// Wanted tells whether signatures are asked for.
func (t *Trust) Wanted() bool { return len(t.keys()) > 0 }

func (t *Trust) keys() []Key {
	if t == nil {
		return nil
	}
	return t.Keys
}

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
		k, err := parseKey(file, data)
		if err != nil {
			return nil, fmt.Errorf("cannot read trusted key %s: %w", file, err)
		}
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

// Own are a release's own files. One that isn't there is nil.
type Own struct {
	Sums      []byte // the checksum file
	Signature []byte // minisign's of it
	Bundle    []byte // Sigstore's of it
}

// ReadOwn reads a release's own files.
func ReadOwn(ctx context.Context, beside Reader, version string) (Own, error) {
	var own Own
	for _, f := range own.files(version) {
		data, err := beside(ctx, f.Name, f.Most)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return own, err
		}
		*f.Data = data
	}
	return own, nil
}

// ownFile is one of a release's own files: its name, how large it may be, in bytes, and what was read.
type ownFile struct {
	Name string
	Most int64
	Data *[]byte
}

func (o *Own) files(version string) []ownFile {
	return []ownFile{
		{FileName(version, ExtSums), checksums.MaxSums, &o.Sums}, {FileName(version, ExtSignature), checksums.MaxSignature, &o.Signature}, {FileName(version, ExtBundle), checksums.MaxBundle, &o.Bundle},
	}
}

// Files are the own files of a version, those that are there.
func (o Own) Files(version string) map[string][]byte {
	there := map[string][]byte{}
	for _, f := range o.files(version) {
		if *f.Data != nil {
			there[f.Name] = *f.Data
		}
	}
	return there
}

// signer is the id of the key that a signature names: minisign's, else Sigstore's.
func (o Own) signer() string {
	var s minisign.Signature
	if o.Signature != nil && s.UnmarshalText(o.Signature) == nil {
		return keyID(s.KeyID)
	}
	if b, err := sigstore.Parse(o.Bundle); o.Bundle != nil && err == nil {
		return b.KeyID()
	}
	return ""
}

// release reads the checksum file of a version and verifies its signatures.
func (t *Trust) release(ctx context.Context, beside Reader, version string) (Sums, Key, error) {
	own, err := ReadOwn(ctx, beside, version)
	if err != nil {
		return nil, Key{}, fmt.Errorf("%w: cannot read what vouches for version %s: %w", ErrSignature, version, err)
	}
	return t.Vouch(version, own)
}

// Vouch reads a release's checksum file and wants, where keys are trusted, a signature of it to be of one of them.
func (t *Trust) Vouch(version string, own Own) (Sums, Key, error) {
	list := FileName(version, ExtSums)
	var key Key
	if t.Wanted() {
		switch {
		case own.Sums == nil:
			return nil, Key{}, t.nobody(version, list)
		case own.Signature == nil && own.Bundle == nil:
			return nil, Key{}, t.nobody(version, FileName(version, ExtSignature)+", nor "+FileName(version, ExtBundle))
		}
		var err error
		if key, err = t.verify(list, own.Sums, [2]attempt{
			{FileName(version, ExtSignature), own.Signature, t.verifyMinisign}, {FileName(version, ExtBundle), own.Bundle, t.verifyBundle},
		}); err != nil {
			return nil, Key{}, fmt.Errorf("%w: %w", ErrSignature, err)
		}
	}
	sums, err := checksums.Decode(own.Sums)
	if err != nil && t.Wanted() {
		err = fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if err != nil {
		return nil, Key{}, fmt.Errorf("cannot read %s: %w", list, err)
	}
	return sums, key, nil
}

// nobody is the error about a release that lacks one of its own files.
func (t *Trust) nobody(version, lacks string) error {
	return fmt.Errorf("%w: nobody has signed version %s: there is no %s, and %s trusted; "+
		"sign it (slipway sign), or take what you baked yourself with --unsigned", ErrSignature, version, lacks, t.who())
}

// stranger is the fault of a signature that may be good, but is of a key that isn't trusted.
type stranger struct{ id string }

func (s stranger) Error() string { return "is signed with key " + s.id }

// verify finds a trusted key that made one of a text's signatures. Of several faults it tells the worst.
func (t *Trust) verify(name string, text []byte, attempts [2]attempt) (Key, error) {
	var strangers []string
	var worst error
	for _, a := range attempts {
		if a.data == nil {
			continue
		}
		key, err := a.verify(text, a.data)
		var other stranger
		switch {
		case err == nil:
			return key, nil
		case errors.As(err, &other):
			strangers = append(strangers, other.id)
		case worst == nil && errors.Is(err, errDamaged):
			worst = fmt.Errorf("%s %w; copy it again", a.name, err)
		case worst == nil:
			worst = fmt.Errorf("%s %w", name, err)
		}
	}
	if worst != nil {
		return Key{}, worst
	}
	if len(strangers) == 0 {
		return Key{}, fmt.Errorf("%s %w, and %s trusted", name, errNobody, t.who())
	}
	return Key{}, fmt.Errorf("%s is signed with key %s, and %s trusted: if you trust its owner, get the public key from there and add it (--trust)",
		name, strings.Join(strangers, " and key "), t.who())
}

var errDamaged = errors.New("it is damaged")

// verifyMinisign finds the key that made a signature. The id in it is only a hint.
func (t *Trust) verifyMinisign(text, signature []byte) (Key, error) {
	var s minisign.Signature
	if err := s.UnmarshalText(signature); err != nil {
		return Key{}, fmt.Errorf("is no minisign signature: %w", errDamaged)
	}
	id := keyID(s.KeyID)
	var named Key
	for _, k := range t.keys() {
		if k.minisign == nil || k.ID != id {
			continue
		}
		if named = k; minisign.Verify(*k.minisign, text, signature) {
			return k, nil
		}
	}
	if named.ID == "" {
		return Key{}, stranger{id}
	}
	return Key{}, fmt.Errorf("is not what key %s (%s) signed: it or its signature was changed; get the release again", id, named.File)
}

func (t *Trust) verifyBundle(text, data []byte) (Key, error) {
	b, err := sigstore.Parse(data)
	if err != nil {
		return Key{}, fmt.Errorf("is no bundle: %w (%w)", errDamaged, err)
	}
	for _, k := range t.keys() {
		if k.sigstore == nil {
			continue
		}
		switch err := k.sigstore.VerifyBlob(b, text); {
		case err == nil:
			return k, nil
		case k.ID == b.KeyID():
			return Key{}, fmt.Errorf("is not what key %s (%s) signed: %w; get the release again", k.ID, k.File, err)
		}
	}
	return Key{}, stranger{b.KeyID()}
}

// who says which keys are trusted.
func (t *Trust) who() string {
	var list []string
	for _, k := range t.keys() {
		list = append(list, k.ID+" ("+k.File+")")
	}
	if len(list) == 1 {
		return "only key " + list[0] + " is"
	}
	return "only keys " + strings.Join(list, ", ") + " are"
}
