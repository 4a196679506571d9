package pki

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"

	"github.com/slipway-os/slipway/profiles/cluster"
)

// Lock is what the keys of an identity are encrypted with (age, https://age-encryption.org/v1): age's keys, or a passphrase. One
// that was made of public keys alone encrypts and opens nothing.
type Lock struct {
	recipients []age.Recipient
	identities []age.Identity
	names      []string // of recipients; a passphrase has none
	passphrase bool
}

// Lock is what the identity's keys are encrypted with; nil: they are plain. It opens them again, as long as they aren't encrypted for others.
func (id *Identity) Lock() *Lock { return id.lock }

// minPassphrase is the length of a passphrase in bytes.
const minPassphrase = 12

// maxLock bounds a file with a lock in bytes.
const maxLock = 64 << 10

// Errors of locks that callers branch on.
var (
	// ErrLocked: the identity's keys are encrypted, and there is nothing to open them with.
	ErrLocked = errors.New("its keys are encrypted")
	// ErrWrongLock: they are encrypted for somebody else.
	ErrWrongLock = errors.New("its keys are encrypted for another key or with another passphrase")
)

// ReadLock reads a file that only its owner may read: age's secret keys (age-keygen), or a passphrase in one line.
func ReadLock(file string) (*Lock, error) {
	fail := func(err error) (*Lock, error) {
		return nil, fmt.Errorf("cannot read the identity's key %s: %w", file, err)
	}
	f, err := os.Open(file)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return fail(fmt.Errorf("others may read it: it has mode %04o (run: chmod 600 %s)", info.Mode().Perm(), file))
	}
	data, err := io.ReadAll(io.LimitReader(f, maxLock+1))
	if err != nil {
		return fail(err)
	}
	lock, err := ParseLock(data)
	if err != nil {
		return fail(err)
	}
	return lock, nil
}

// ParseLock is ReadLock for what is in such a file. Errors say nothing of it.
func ParseLock(data []byte) (*Lock, error) {
	if len(data) > maxLock {
		return nil, fmt.Errorf("it is over %d bytes", maxLock)
	}
	if !bytes.Contains(data, []byte("AGE-SECRET-KEY-")) {
		word := strings.TrimRight(string(data), "\r\n")
		if strings.HasPrefix(word, "age1") {
			return nil, errors.New("it is a public key of age, which opens nothing: the secret key is needed")
		}
		return Passphrase(word)
	}
	identities, err := age.ParseIdentities(bytes.NewReader(data))
	if err != nil {
		return nil, errors.New("its lines are not secret keys of age (AGE-SECRET-KEY-1...)") // the cause could tell of them
	}
	lock := &Lock{identities: identities}
	for _, i := range identities {
		own, ok := i.(*age.X25519Identity)
		if !ok {
			return nil, errors.New("a key of this kind can't be used")
		}
		lock.recipients = append(lock.recipients, own.Recipient())
		lock.names = append(lock.names, own.Recipient().String())
	}
	return lock, nil
}

// Passphrase makes a lock of a passphrase, of 12 bytes or more, in one line. To open it takes a second and 256 MB of memory (scrypt).
func Passphrase(word string) (*Lock, error) {
	if len(word) < minPassphrase || strings.ContainsAny(word, "\r\n") {
		return nil, fmt.Errorf("neither a secret key of age nor a passphrase: one line of %d characters or more", minPassphrase)
	}
	recipient, err := age.NewScryptRecipient(word)
	if err != nil {
		return nil, err
	}
	identity, err := age.NewScryptIdentity(word)
	if err != nil {
		return nil, err
	}
	return &Lock{recipients: []age.Recipient{recipient}, identities: []age.Identity{identity}, passphrase: true}, nil
}

// PublicLock makes a lock of a public key of age (age1...).
func PublicLock(key string) (*Lock, error) {
	recipient, err := age.ParseX25519Recipient(key)
	if err != nil {
		return nil, fmt.Errorf("%q is not a public key of age", key)
	}
	return &Lock{recipients: []age.Recipient{recipient}, names: []string{key}}, nil
}

// JoinLocks makes a lock that each of several opens. A passphrase stands alone (age v1, section scrypt recipient stanza).
func JoinLocks(locks ...*Lock) (*Lock, error) {
	joined := &Lock{}
	for _, l := range locks {
		if l.passphrase && len(locks) > 1 {
			return nil, errors.New("a passphrase stands alone: keys that it opens can't be opened by others too")
		}
		joined.recipients = append(joined.recipients, l.recipients...)
		joined.identities = append(joined.identities, l.identities...)
		joined.names = append(joined.names, l.names...)
		joined.passphrase = l.passphrase
	}
	return joined, nil
}

// lockedKeys is what keysFile holds, encrypted.
type lockedKeys struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Files      map[string]string `json:"files"` // the files of an identity that holds them in plain, by name
	// Recipients are the public keys that it is encrypted to, so that whoever opens it can encrypt a change for all of them.
	Recipients []string `json:"recipients,omitempty"`
}

const lockedKind = "IdentityKeys"

// seal encrypts files. What it gives is opened again, if the lock can, before it is trusted.
func (l *Lock) seal(files map[string][]byte) ([]byte, error) {
	keys := lockedKeys{APIVersion: cluster.Version, Kind: lockedKind, Files: map[string]string{}, Recipients: l.names}
	for name, data := range files {
		keys.Files[name] = string(data)
	}
	text, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, l.recipients...)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if len(l.identities) > 0 {
		back, _, err := l.open(out.Bytes())
		if err != nil {
			return nil, err
		}
		for name, data := range files {
			if !bytes.Equal(back[name], data) {
				return nil, errors.New("what was encrypted can't be opened again")
			}
		}
	}
	return out.Bytes(), nil
}

// open decrypts what seal gave, and gives the lock that it was sealed with, as far as this one opens it.
func (l *Lock) open(data []byte) (map[string][]byte, *Lock, error) {
	if len(l.identities) == 0 {
		return nil, nil, errors.New("a public key opens nothing")
	}
	r, err := age.Decrypt(bytes.NewReader(data), l.identities...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, nil, ErrWrongLock
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", keysFile, err)
	}
	text, err := io.ReadAll(io.LimitReader(r, maxKeys+1))
	if err != nil {
		return nil, nil, fmt.Errorf("%s is damaged: %w", keysFile, err)
	}
	var keys lockedKeys
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&keys); err != nil || keys.APIVersion != cluster.Version || keys.Kind != lockedKind {
		return nil, nil, fmt.Errorf("%s holds no keys that this slipway reads", keysFile)
	}
	files := map[string][]byte{}
	for name, text := range keys.Files {
		files[name] = []byte(text)
	}
	if l.passphrase {
		return files, l, nil
	}
	again := &Lock{identities: l.identities}
	for _, name := range keys.Recipients {
		one, err := PublicLock(name)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", keysFile, err)
		}
		again.recipients, again.names = append(again.recipients, one.recipients...), append(again.names, name)
	}
	if len(again.recipients) == 0 {
		return nil, nil, fmt.Errorf("%s doesn't say whom it is encrypted for", keysFile)
	}
	return files, again, nil
}

// wantsPassphrase says whether encrypted keys are opened by a passphrase: the header's first line tells (age v1, section header).
func wantsPassphrase(data []byte) bool {
	header, _, _ := bytes.Cut(data, []byte("\n---"))
	return bytes.Contains(header[:min(len(header), 256)], []byte("\n-> scrypt "))
}
