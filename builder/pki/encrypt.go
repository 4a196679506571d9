package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// keysFile holds all that is secret of an identity, encrypted; the certificates lie beside as they are. maxKeys bounds it in bytes.
const (
	keysFile = "keys.age"
	maxKeys  = 256 << 10
)

// Opener gets the lock of an identity whose keys are encrypted. It is asked only then; passphrase says that a passphrase opens it. A nil Opener
// has none.
type Opener func(passphrase bool) (*Lock, error)

// Encrypted says whether the keys of the identity in dir are encrypted.
func Encrypted(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, keysFile))
	return err == nil
}

// holdsKey says whether a file of an identity holds a key.
func holdsKey(name string) bool { return strings.HasSuffix(name, ".key") }

// split parts the files of an identity into those that anyone may see and those with keys.
func split(files map[string][]byte) (open, keys map[string][]byte) {
	open, keys = map[string][]byte{}, map[string][]byte{}
	for name, data := range files {
		if holdsKey(name) {
			keys[name] = data
			continue
		}
		open[name] = data
	}
	return open, keys
}

// locked replaces the keys among the files of an identity by what is encrypted of them. Without a lock they stay.
func locked(files map[string][]byte, lock *Lock) (map[string][]byte, error) {
	if lock == nil {
		return files, nil
	}
	open, keys := split(files)
	sealed, err := lock.seal(keys)
	open[keysFile] = sealed
	return open, err
}

// plainKeys are the files in an identity's folder that hold keys in plain, those of cut off changes too.
func plainKeys(root *os.Root) (names []string, err error) {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	known := []string{caName + ".key", etcdName + ".key", frontProxyName + ".key", bootName + ".key", accountFile, encryptionFile}
	for _, e := range entries {
		name := strings.TrimSuffix(strings.TrimPrefix(e.Name(), "."), ".new")
		if number, rest, found := strings.Cut(name, "-"); found && strings.Trim(number, "0123456789") == "" {
			name = rest // of another generation
		}
		if slices.Contains(known, name) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// unlock adds the keys of an identity that are encrypted to its files, and gives the lock to encrypt them anew with; nil: none are.
// tolerant: keys in plain may lie beside, which is what an encryption leaves that was cut off.
func unlock(root *os.Root, dir string, from Opener, tolerant bool, files map[string][]byte) (*Lock, error) {
	data, err := readBounded(root, dir, keysFile, maxKeys)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	plain, err := plainKeys(root)
	if err != nil {
		return nil, err
	}
	if len(plain) > 0 && !tolerant {
		return nil, fmt.Errorf("keys in plain lie beside %s, because an encryption was cut off or somebody has put them there: %s (run slipway identity encrypt again)", keysFile, strings.Join(plain, ", "))
	}
	if from == nil {
		return nil, ErrLocked
	}
	lock, err := from(wantsPassphrase(data))
	if err != nil {
		return nil, err
	}
	keys, again, err := lock.open(data)
	if err != nil {
		return nil, err
	}
	for name, data := range keys {
		if holdsKey(name) && len(data) <= maxFile {
			files[name] = data
		}
	}
	return again, nil
}

// keepKeys replaces what is encrypted in an identity's folder by the keys that it has now.
func (id *Identity) keepKeys(root *os.Root, dir string) error {
	files, err := id.files(time.Time{})
	if err != nil {
		return err
	}
	_, keys := split(files)
	sealed, err := id.lock.seal(keys)
	if err != nil {
		return err
	}
	return replaceFile(root, dir, keysFile, sealed)
}

// Encrypt encrypts the keys of the identity in dir, or encrypts them anew for somebody else when they are already (from opens them
// then). It first adds what an identity of an earlier version lacks (AddBoot). What is encrypted is whole on the disk before the keys in plain are removed; a cut
// leaves either, or both, and then Encrypt goes on where it was. What was on the disk in plain before may still be read from it by who
// has the disk.
func Encrypt(dir string, from Opener, to *Lock, env Environment) (*Identity, error) {
	fail := func(err error) (*Identity, error) { return nil, fmt.Errorf("cannot encrypt identity %s: %w", dir, err) }
	id, err := load(dir, from, true)
	if err != nil {
		return fail(err)
	}
	id.lock = to
	if id.Boot == nil {
		if id.Boot, err = newBoot(id.Cluster, env); err != nil {
			return fail(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	if err := id.keepKeys(root, dir); err != nil {
		return fail(err)
	}
	if err := replaceFile(root, dir, bootName+".crt", id.Boot.PEM()); err != nil {
		return fail(err)
	}
	plain, err := plainKeys(root)
	if err != nil {
		return fail(err)
	}
	for _, name := range plain {
		if err := root.Remove(name); err != nil {
			return fail(err)
		}
	}
	if err := syncFolder(dir); err != nil {
		return fail(err)
	}
	return id, nil
}
