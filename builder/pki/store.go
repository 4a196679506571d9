package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/slipway-os/slipway/profiles/cluster"
)

// Files of an identity folder. The record is what makes it one.
const (
	recordFile     = "identity.json"
	encryptionFile = "encryption.key"
	accountFile    = "sa.key"
	bootName       = "boot-ca"
	maxFile        = 64 << 10 // bytes
)

// Errors of Create and Load that callers branch on.
var (
	// ErrExists: there is an identity (or something else) in the folder already. Nothing was changed.
	ErrExists = errors.New("the folder is not empty")
	// ErrIncomplete: files of the identity are missing.
	ErrIncomplete = errors.New("the identity is incomplete")
	// ErrExposed: others than the owner may read the identity.
	ErrExposed = errors.New("others may read the identity")
)

type record struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Cluster    string    `json:"cluster"`
	Created    time.Time `json:"created"`
	// What rotate keeps (rotate.go).
	Generation int             `json:"generation,omitempty"` // 0: the first
	Rotation   *rotationRecord `json:"rotation,omitempty"`
}

const recordKind = "Identity"

// Create makes an identity for a cluster and keeps it in dir (0700, files 0600), which must not exist or be empty. The
// folder appears whole or not at all: it is made beside and renamed. Its parent folders are made when they are missing.
func Create(dir string, c *cluster.Cluster, env Environment) (*Identity, error) {
	return CreateLocked(dir, c, nil, env)
}

// CreateLocked is Create for an identity whose keys are encrypted, and never written in plain. A nil lock leaves them plain.
func CreateLocked(dir string, c *cluster.Cluster, lock *Lock, env Environment) (*Identity, error) {
	fail := func(err error) (*Identity, error) {
		return nil, fmt.Errorf("cannot create identity %s: %w", dir, err)
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fail(ErrExists)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	id, err := generate(c.Metadata.Name, env)
	if err != nil {
		return fail(err)
	}
	files, err := id.files(env.Now)
	if err != nil {
		return fail(err)
	}
	if files, err = locked(files, lock); err != nil {
		return fail(err)
	}
	parent := filepath.Dir(filepath.Clean(dir))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fail(err)
	}
	beside, err := os.MkdirTemp(parent, "."+filepath.Base(dir)+".new-") // 0700
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(beside) // gone already when the rename was done
	if err := writeFiles(beside, files); err != nil {
		return fail(err)
	}
	// os.Rename never replaces a folder, and os.Remove only an empty one: of two that create at once one wins whole.
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(ErrExists)
	}
	if err := os.Rename(beside, dir); errors.Is(err, fs.ErrExist) {
		return fail(ErrExists)
	} else if err != nil {
		return fail(err)
	}
	if err := syncFolder(parent); err != nil {
		return fail(err)
	}
	id.lock = lock
	return id, nil
}

// files are the identity's files by name.
func (id *Identity) files(now time.Time) (map[string][]byte, error) {
	files := map[string][]byte{encryptionFile: []byte(base64.StdEncoding.EncodeToString(id.EncryptionKey) + "\n")}
	for _, g := range id.generations() {
		if err := g.files(files); err != nil {
			return nil, err
		}
	}
	var err error
	if id.Boot != nil {
		files[bootName+".crt"] = id.Boot.PEM()
		files[bootName+".key"], err = id.Boot.KeyPEM()
	}
	if err == nil {
		files[recordFile], err = id.record(now)
	}
	return files, err
}

// record is the identity's record as it is kept.
func (id *Identity) record(created time.Time) ([]byte, error) {
	r := record{APIVersion: cluster.Version, Kind: recordKind, Cluster: id.Cluster, Created: created.UTC().Truncate(time.Second), Rotation: id.Rotation.record()}
	if id.number > 1 {
		r.Generation = id.number
	}
	text, err := json.MarshalIndent(r, "", "  ")
	return append(text, '\n'), err
}

// AddBoot makes the authority of the boot server for an identity of an earlier version and keeps it in the identity's folder; one
// that has it stays as it is. The key is there before the certificate, so that a cut leaves none or both.
func (id *Identity) AddBoot(dir string, env Environment) error {
	if id.Boot != nil {
		return nil
	}
	fail := func(err error) error {
		return fmt.Errorf("cannot add the boot server's authority to identity %s: %w", dir, err)
	}
	made, err := newBoot(id.Cluster, env)
	if err != nil {
		return fail(err)
	}
	key, err := made.KeyPEM()
	if err != nil {
		return fail(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	if id.lock != nil {
		with := *id
		with.Boot = made
		if err := with.keepKeys(root, dir); err == nil {
			err = replaceFile(root, dir, bootName+".crt", made.PEM())
		}
		if err != nil {
			return fail(err)
		}
		id.Boot = made
		return nil
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{bootName + ".key", key}, {bootName + ".crt", made.PEM()}} {
		if err := replaceFile(root, dir, f.name, f.data); err != nil {
			return fail(err)
		}
	}
	id.Boot = made
	return nil
}

// replaceFile puts a file in the place of the one there may be, so that a cut leaves the one or the other.
func replaceFile(root *os.Root, dir, name string, data []byte) error {
	beside := "." + name + ".new"
	if err := root.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeFile(root, beside, data); err != nil {
		return err
	}
	return errors.Join(root.Rename(beside, name), syncFolder(dir))
}

func writeFiles(dir string, files map[string][]byte) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for name, data := range files {
		if err := writeFile(root, name, data); err != nil {
			return err
		}
	}
	return syncFolder(dir)
}

func writeFile(root *os.Root, name string, data []byte) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Load reads the identity in dir. It refuses one that others may read (ErrExposed, with the command that ends it), that
// lacks files (ErrIncomplete), or whose keys and certificates don't belong together. A folder that doesn't exist is
// fs.ErrNotExist. One whose keys are encrypted is ErrLocked.
func Load(dir string) (*Identity, error) { return Open(dir, nil) }

// Open is Load, and opens keys that are encrypted with what from gives (ErrWrongLock: they are encrypted for somebody else).
func Open(dir string, from Opener) (*Identity, error) { return load(dir, from, false) }

func load(dir string, from Opener, tolerant bool) (*Identity, error) {
	fail := func(err error) (*Identity, error) {
		return nil, fmt.Errorf("cannot load identity %s: %w", dir, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	info, err := root.Stat(".")
	if err != nil {
		return fail(err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fail(fmt.Errorf("%w: its folder has mode %04o (run: chmod 700 %s)", ErrExposed, info.Mode().Perm(), dir))
	}
	files, lock, err := readFiles(root, dir, from, tolerant)
	if err != nil {
		return fail(err)
	}
	id, err := parse(files)
	if err != nil {
		return fail(err)
	}
	id.lock = lock
	return id, nil
}

// readFiles reads what the record names, and the lock of keys that are encrypted (nil: they are plain).
func readFiles(root *os.Root, dir string, from Opener, tolerant bool) (map[string][]byte, *Lock, error) {
	files := map[string][]byte{}
	read := func(names ...string) error {
		for _, name := range names {
			data, err := readFile(root, dir, name)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err == nil {
				files[name] = data
			}
		}
		return nil
	}
	// Identities of an earlier version have no authority for the boot server. The certificate is written last.
	if err := read(recordFile, encryptionFile, bootName+".crt", bootName+".key"); err != nil {
		return nil, nil, err
	}
	names := generationFiles(1)
	if text, ok := files[recordFile]; ok {
		r, err := parseRecord(text)
		if err != nil {
			return nil, nil, err
		}
		names = r.generationFiles()
	}
	if err := read(names...); err != nil {
		return nil, nil, err
	}
	lock, err := unlock(root, dir, from, tolerant, files)
	if err != nil {
		return nil, nil, err
	}
	names = append([]string{recordFile, encryptionFile}, names...)
	if files[bootName+".crt"] != nil {
		names = append(names, bootName+".key")
	}
	var missing []string
	for _, name := range names {
		if files[name] == nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return nil, nil, fmt.Errorf("%w: %s missing (restore it from a backup, or choose another folder to create one)", ErrIncomplete, strings.Join(missing, ", "))
	}
	return files, lock, nil
}

func readFile(root *os.Root, dir, name string) ([]byte, error) {
	return readBounded(root, dir, name, maxFile)
}

func readBounded(root *os.Root, dir, name string, limit int64) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", name)
	}
	if info.Mode().Perm()&0o077 != 0 {
		path := filepath.Join(dir, name)
		return nil, fmt.Errorf("%w: %s has mode %04o (run: chmod 600 %s)", ErrExposed, name, info.Mode().Perm(), path)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is over the limit of %d bytes", name, limit)
	}
	return data, err
}

func parseRecord(text []byte) (record, error) {
	var r record
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return r, fmt.Errorf("%s: %w", recordFile, err)
	}
	if r.APIVersion != cluster.Version || r.Kind != recordKind {
		return r, fmt.Errorf("%s: %s %s is not an identity that this slipway reads", recordFile, r.APIVersion, r.Kind)
	}
	if err := r.check(); err != nil {
		return r, fmt.Errorf("%s: %w", recordFile, err)
	}
	return r, nil
}

func parse(files map[string][]byte) (*Identity, error) {
	r, err := parseRecord(files[recordFile])
	if err != nil {
		return nil, err
	}
	id := &Identity{Cluster: r.Cluster}
	own, err := parseGeneration(files, max(r.Generation, 1))
	if err != nil {
		return nil, err
	}
	id.take(own)
	if id.Rotation, err = r.rotation(files); err != nil {
		return nil, err
	}
	if certificate := files[bootName+".crt"]; certificate != nil {
		if id.Boot, err = parseAuthority(certificate, files[bootName+".key"]); err != nil {
			return nil, fmt.Errorf("%s: %w", bootName, err)
		}
	}
	id.EncryptionKey, err = base64.StdEncoding.DecodeString(strings.TrimSpace(string(files[encryptionFile])))
	if err != nil || len(id.EncryptionKey) != 32 {
		return nil, fmt.Errorf("%s: not 32 bytes in base64", encryptionFile)
	}
	return id, nil
}

func parseAuthority(certificate, key []byte) (*Authority, error) {
	block, rest := pem.Decode(certificate)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("not one certificate in PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	if !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, errors.New("the certificate is not an authority's")
	}
	k, err := parseKey(key)
	if err != nil {
		return nil, err
	}
	if !k.PublicKey.Equal(c.PublicKey) {
		return nil, errors.New("certificate and key don't belong together")
	}
	return &Authority{Certificate: c, Key: k}, nil
}

func parseKey(data []byte) (*ecdsa.PrivateKey, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("not one PKCS #8 key in PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("not a PKCS #8 key") // the cause could tell of the key
	}
	k, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("not an ECDSA key")
	}
	return k, nil
}
