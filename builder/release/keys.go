package release

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"aead.dev/minisign"

	"github.com/slipway-os/slipway/builder/sigstore"
)

// Extensions of a key pair's files, as minisign has them.
const (
	ExtSecret = ".key"
	ExtPublic = ".pub"
)

const maxKey = 4 << 10 // bytes of a key file

// ErrPassword is what errors wrap when a secret key is encrypted and its password is missing or wrong.
var ErrPassword = errors.New("its password is missing or wrong")

// SigningKey is a secret key.
type SigningKey struct{ secret minisign.PrivateKey }

// ID is what people tell keys apart by: 16 hexadecimal digits, as minisign prints them.
func (k SigningKey) ID() string { return keyID(k.secret.ID()) }

func keyID(id uint64) string { return fmt.Sprintf("%016X", id) }

// sign makes a minisign signature. Nothing in it tells the time: the comment is signed too, and says what was.
func (k SigningKey) sign(text []byte, comment string) []byte {
	return append(bytes.TrimRight(minisign.SignWithComments(k.secret, text, comment, "signature of key "+k.ID()), "\n"), '\n')
}

// ReadSigningKey reads a secret key as minisign or Generate wrote it. The password is asked for where it is encrypted.
func ReadSigningKey(file string, password func() (string, error)) (SigningKey, error) {
	k, err := readSigningKey(file, password)
	if err != nil {
		return SigningKey{}, fmt.Errorf("cannot read secret key %s: %w", file, err)
	}
	return k, nil
}

func readSigningKey(file string, password func() (string, error)) (SigningKey, error) {
	data, err := readKey(file)
	if err != nil {
		return SigningKey{}, err
	}
	var k SigningKey
	if minisign.IsEncrypted(data) {
		word, err := password()
		if err != nil {
			return SigningKey{}, err
		}
		if k.secret, err = minisign.DecryptKey(word, data); err != nil {
			return SigningKey{}, ErrPassword
		}
		return k, nil
	}
	if sigstore.IsPEM(data) {
		return SigningKey{}, errors.New("it is a key in PEM, as cosign has them (--cosign-key)")
	}
	if err := k.secret.UnmarshalText(data); err != nil {
		return SigningKey{}, errors.New("it is no minisign secret key (slipway keygen makes one)")
	}
	return k, nil
}

func readKey(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, bare(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err != nil {
		return nil, bare(err)
	}
	if len(data) > maxKey {
		return nil, fmt.Errorf("it is over %d bytes", maxKey)
	}
	return bytes.TrimSpace(data), nil
}

// bare is an error without the path that the message around it says already.
func bare(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// Generate makes a key pair: base.key (0600), encrypted unless the password is empty, and base.pub. It never replaces a file.
func Generate(base, password string, entropy io.Reader) (Key, error) {
	k, err := generate(base, password, entropy)
	if err != nil {
		return Key{}, fmt.Errorf("cannot make key %s: %w", base, err)
	}
	return k, nil
}

func generate(base, password string, entropy io.Reader) (Key, error) {
	public, secret, err := minisign.GenerateKey(entropy)
	if err != nil {
		return Key{}, err
	}
	text, err := secret.MarshalText()
	if err == nil && password != "" {
		text, err = minisign.EncryptKey(password, secret)
	}
	if err != nil {
		return Key{}, err
	}
	shown, err := public.MarshalText()
	if err != nil {
		return Key{}, err
	}
	return Key{ID: keyID(public.ID()), File: base + ExtPublic, minisign: &public}, writePair(base, append(text, '\n'), append(shown, '\n'))
}

// writePair writes a key pair's files, which must not be there.
func writePair(base string, secret, public []byte) error {
	for _, ext := range []string{ExtSecret, ExtPublic} {
		if _, err := os.Lstat(base + ext); err == nil {
			return fmt.Errorf("%s is there already: a key is never replaced", base+ext)
		}
	}
	if err := os.MkdirAll(filepath.Dir(base), 0o755); err != nil {
		return err
	}
	if err := writeNew(base+ExtSecret, secret, 0o600); err != nil {
		return err
	}
	if err := writeNew(base+ExtPublic, public, 0o644); err != nil {
		return errors.Join(err, os.Remove(base+ExtSecret))
	}
	return nil
}

// GenerateSigstore makes a key pair as cosign does: base.key, encrypted, if with an empty password, and base.pub. It never replaces a file.
func GenerateSigstore(base, password string, entropy io.Reader) (Key, error) {
	secret, public, err := sigstore.Generate(password, entropy)
	if err == nil {
		err = writePair(base, secret, public)
	}
	if err != nil {
		return Key{}, fmt.Errorf("cannot make key %s: %w", base, err)
	}
	return parseKey(base+ExtPublic, public)
}

// ReadSigstoreKey reads a secret key as cosign or GenerateSigstore wrote it, or another in PEM (PKCS#8, SEC 1). The password is asked for
// where it is encrypted.
func ReadSigstoreKey(file string, password func() (string, error)) (sigstore.PrivateKey, error) {
	k, err := readSigstoreKey(file, password)
	if err != nil {
		return k, fmt.Errorf("cannot read secret key %s: %w", file, err)
	}
	return k, nil
}

func readSigstoreKey(file string, password func() (string, error)) (sigstore.PrivateKey, error) {
	data, err := readKey(file)
	if err != nil {
		return sigstore.PrivateKey{}, err
	}
	if !sigstore.IsEncrypted(data) {
		return sigstore.ParsePrivateKey(data, "")
	}
	k, err := sigstore.ParsePrivateKey(data, "") // pipelines' keys often have an empty one
	if !errors.Is(err, sigstore.ErrPassword) {
		return k, err
	}
	word, err := password()
	if err != nil {
		return sigstore.PrivateKey{}, err
	}
	if k, err = sigstore.ParsePrivateKey(data, word); errors.Is(err, sigstore.ErrPassword) {
		err = ErrPassword
	}
	return k, err
}

// writeNew writes a file that isn't there.
func writeNew(name string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
