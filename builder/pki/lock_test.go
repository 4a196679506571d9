package pki_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/slipway-os/slipway/builder/pki"
)

// newLock is a new secret key of age, as a lock and as text.
func newLock(t testing.TB) (*pki.Lock, *age.X25519Identity) {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	lock, err := pki.ParseLock([]byte("# created: today\n" + key.String() + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return lock, key
}

func with(lock *pki.Lock) pki.Opener { return func(bool) (*pki.Lock, error) { return lock, nil } }

const encryptedTree = `drwx------ identity
-rw------- identity/boot-ca.crt
-rw------- identity/ca.crt
-rw------- identity/etcd-ca.crt
-rw------- identity/front-proxy-ca.crt
-rw------- identity/identity.json
-rw------- identity/keys.age`

// TestKeysAreEncrypted: an identity that is made encrypted, or is encrypted later, opens with its lock alone, is the same, and has nothing in plain.
func TestKeysAreEncrypted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	first, _ := newLock(t)
	second, _ := newLock(t)
	made, err := pki.CreateLocked(dir, lab(t), first, environment(1))
	if err != nil {
		t.Fatal(err)
	}
	if got := tree(t, filepath.Dir(dir)); got != encryptedTree {
		t.Errorf("got\n%s", got)
	}
	same := func(lock *pki.Lock) {
		t.Helper()
		id, err := pki.Open(dir, with(lock))
		if err != nil {
			t.Fatal(err)
		}
		if !id.CA.Key.Equal(made.CA.Key) || !id.Boot.Key.Equal(made.Boot.Key) || !id.ServiceAccount.Equal(made.ServiceAccount) || !bytes.Equal(id.EncryptionKey, made.EncryptionKey) {
			t.Error("it is another one")
		}
	}
	same(first)
	if _, err := pki.Load(dir); !errors.Is(err, pki.ErrLocked) || !strings.HasPrefix(err.Error(), "cannot load identity "+dir+": its keys are encrypted") {
		t.Errorf("without a lock: %v", err)
	}
	if _, err := pki.Open(dir, with(second)); !errors.Is(err, pki.ErrWrongLock) {
		t.Errorf("with another lock: %v", err)
	}
	if _, err := pki.Encrypt(dir, with(second), second, environment(1)); !errors.Is(err, pki.ErrWrongLock) {
		t.Errorf("encrypted anew without the old lock: %v", err)
	}
	if _, err := pki.Encrypt(dir, with(first), second, environment(1)); err != nil {
		t.Fatal(err)
	}
	same(second)
	if _, err := pki.Open(dir, with(first)); !errors.Is(err, pki.ErrWrongLock) {
		t.Errorf("with the lock of before: %v", err)
	}
	both, err := pki.JoinLocks(first, second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Encrypt(dir, with(second), both, environment(1)); err != nil {
		t.Fatal(err)
	}
	same(first)
	same(second)
	if got := tree(t, filepath.Dir(dir)); got != encryptedTree {
		t.Errorf("got\n%s", got)
	}
}

// TestEncryptIsCutOff: at every moment of the encryption of a plain identity of an earlier version, what is there can be encrypted whole, and a half done
// one is not used.
func TestEncryptIsCutOff(t *testing.T) {
	lock, key := newLock(t)
	whole := filepath.Join(t.TempDir(), "identity")
	plain := filepath.Join(t.TempDir(), "identity")
	made, err := pki.Create(plain, lab(t), environment(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"boot-ca.crt", "boot-ca.key"} {
		if err := os.Remove(filepath.Join(plain, name)); err != nil {
			t.Fatal(err)
		}
	}
	copyTree(t, plain, whole)
	if _, err := pki.Encrypt(whole, nil, lock, environment(2)); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, filepath.Dir(whole)); got != encryptedTree {
		t.Errorf("got\n%s", got)
	}
	opened, err := pki.Open(whole, with(lock))
	if err != nil || !opened.CA.Key.Equal(made.CA.Key) || opened.Boot == nil {
		t.Fatalf("%v", err)
	}
	for _, c := range []struct {
		cut  string // done by a shell in a folder that is plain; WHOLE is what it becomes
		want string // what Open says; empty: it opens
	}{
		{"cp WHOLE/keys.age .keys.age.new", ""},
		{"cp WHOLE/keys.age .", "keys in plain lie beside keys.age"},
		{"cp WHOLE/keys.age WHOLE/boot-ca.crt .", "keys in plain lie beside keys.age"},
		{"cp WHOLE/keys.age WHOLE/boot-ca.crt . && rm ca.key sa.key", "keys in plain lie beside keys.age"},
	} {
		dir := filepath.Join(t.TempDir(), "identity")
		copyTree(t, plain, dir)
		cmd := exec.Command("sh", "-c", strings.ReplaceAll(c.cut, "WHOLE", whole))
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		id, err := pki.Open(dir, with(lock))
		if c.want == "" && (err != nil || !id.CA.Key.Equal(made.CA.Key)) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", c.cut, err)
		}
		if _, err := pki.Encrypt(dir, with(lock), lock, environment(3)); err != nil {
			t.Errorf("%s: %v", c.cut, err)
		}
		if got := tree(t, filepath.Dir(dir)); got != encryptedTree {
			t.Errorf("%s: got\n%s", c.cut, got)
		}
		if id, err := pki.Open(dir, with(lock)); err != nil || !id.CA.Key.Equal(made.CA.Key) {
			t.Errorf("%s: %v", c.cut, err)
		}
	}

	// What age opens is the files.
	sealed, err := os.ReadFile(filepath.Join(whole, "keys.age"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := age.Decrypt(bytes.NewReader(sealed), key)
	if err != nil {
		t.Fatal(err)
	}
	var keys struct{ Files map[string]string }
	if err := json.NewDecoder(text).Decode(&keys); err != nil || len(keys.Files) != 6 || !strings.HasPrefix(keys.Files["ca.key"], "-----BEGIN PRIVATE KEY-----") {
		t.Errorf("%d files, %v", len(keys.Files), err)
	}
	// A folder that lacks its boot server's authority gets one, encrypted.
	if err := os.Remove(filepath.Join(whole, "boot-ca.crt")); err != nil {
		t.Fatal(err)
	}
	id, err := pki.Open(whole, with(lock))
	if err != nil {
		t.Fatal(err)
	}
	if id.Boot != nil {
		t.Fatal("it has one without a certificate")
	}
	if err := id.AddBoot(whole, environment(4)); err != nil {
		t.Error(err)
	}
	if again, err := pki.Open(whole, with(lock)); err != nil || !again.Boot.Key.Equal(id.Boot.Key) {
		t.Errorf("%v", err)
	}
	if got := tree(t, filepath.Dir(whole)); got != encryptedTree {
		t.Errorf("got\n%s", got)
	}
}

// TestRotationOfEncryptedKeys: in each step of a rotation, with the folder read again before each, keys are encrypted for all that they were encrypted for, and in
// the end those of before are gone.
func TestRotationOfEncryptedKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	operator, _ := newLock(t)
	safe, key := newLock(t)
	public, err := pki.PublicLock(key.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	both, err := pki.JoinLocks(operator, public)
	if err != nil {
		t.Fatal(err)
	}
	first, err := pki.CreateLocked(dir, lab(t), both, environment(1))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		step pki.Step
		keys int
	}{{pki.StepTrust, 10}, {pki.StepIssue, 10}, {pki.StepFinish, 6}, {"", 6}} {
		id, err := pki.Open(dir, with(operator))
		if err != nil {
			t.Fatal(err)
		}
		if err := id.Advance(dir, environment(byte(2+i))); err != nil {
			t.Fatal(err)
		}
		if err := id.Renewed(dir, "cp-1"); err != nil {
			t.Fatal(err)
		}
		if got := tree(t, dir); strings.Contains(got, ".key") {
			t.Errorf("step %s: got\n%s", want.step, got)
		}
		again, err := pki.Open(dir, with(safe)) // who has only the other key
		if err != nil {
			t.Fatal(err)
		}
		if again.Rotation == nil != (want.step == "") || again.Rotation != nil && (again.Rotation.Step != want.step || !again.Rotation.Done([]string{"cp-1"})) {
			t.Errorf("step %s: %+v", want.step, again.Rotation)
		}
		if moved := !again.CA.Key.Equal(first.CA.Key); moved != (i > 0) || !again.Boot.Key.Equal(first.Boot.Key) {
			t.Errorf("step %s: the authority's key is another one: %v", want.step, moved)
		}
		sealed, err := os.Open(filepath.Join(dir, "keys.age"))
		if err != nil {
			t.Fatal(err)
		}
		text, err := age.Decrypt(sealed, key)
		if err != nil {
			t.Fatal(err)
		}
		var kept struct{ Files map[string]string }
		if err := json.NewDecoder(text).Decode(&kept); err != nil || len(kept.Files) != want.keys {
			t.Errorf("step %s: %d keys are kept, %v", want.step, len(kept.Files), err)
		}
		sealed.Close()
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chmod", "-R", "go=", to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestPassphrase: a passphrase opens, and is told from keys.
func TestPassphrase(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	lock, err := pki.ParseLock([]byte("correct horse battery\n"))
	if err != nil {
		t.Fatal(err)
	}
	pki.Cheap(lock)
	if _, err := pki.CreateLocked(dir, lab(t), lock, environment(1)); err != nil {
		t.Fatal(err)
	}
	asked := false
	_, err = pki.Open(dir, func(passphrase bool) (*pki.Lock, error) {
		asked = passphrase
		return pki.Passphrase("correct horse battery")
	})
	if err != nil || !asked {
		t.Errorf("asked %v, %v", asked, err)
	}
	if _, err := pki.Open(dir, func(bool) (*pki.Lock, error) { return pki.Passphrase("incorrect horse") }); !errors.Is(err, pki.ErrWrongLock) {
		t.Errorf("another passphrase: %v", err)
	}
	other, _ := newLock(t)
	if _, err := pki.Open(dir, with(other)); !errors.Is(err, pki.ErrWrongLock) {
		t.Errorf("a key for a passphrase: %v", err)
	}
	if _, err := pki.JoinLocks(lock, other); err == nil || !strings.Contains(err.Error(), "a passphrase stands alone") {
		t.Error(err)
	}
}

func TestLocksThatAreNone(t *testing.T) {
	_, key := newLock(t)
	for text, want := range map[string]string{
		"":                                   "one line of 12 characters or more",
		"short":                              "one line of 12 characters or more",
		"two lines of\na passphrase":         "one line",
		key.Recipient().String() + "\n":      "it is a public key of age",
		"AGE-SECRET-KEY-1QQQ\n":              "its lines are not secret keys of age",
		key.String() + "\nhello there you\n": "its lines are not secret keys of age",
		strings.Repeat("x", 1<<17):           "it is over 65536 bytes",
	} {
		_, err := pki.ParseLock([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || len(text) > 20 && strings.Contains(err.Error(), text[:20]) {
			t.Errorf("%.20q: got %v, want %s", text, err, want)
		}
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(key.String()), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.ReadLock(file); err == nil || !strings.Contains(err.Error(), "run: chmod 600 "+file) {
		t.Error(err)
	}
	public, err := pki.PublicLock(key.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "identity")
	if _, err := pki.CreateLocked(dir, lab(t), public, environment(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Open(dir, with(public)); err == nil || !strings.Contains(err.Error(), "a public key opens nothing") {
		t.Error(err)
	}
	if _, err := pki.PublicLock("age1nothing"); err == nil {
		t.Error("any text is a public key")
	}
	sealed, err := os.ReadFile(filepath.Join(dir, "keys.age"))
	if err != nil {
		t.Fatal(err)
	}
	sealed[len(sealed)-1] ^= 1
	if err := os.WriteFile(filepath.Join(dir, "keys.age"), sealed, 0o600); err != nil {
		t.Fatal(err)
	}
	secret, err := pki.ParseLock([]byte(key.String()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Open(dir, with(secret)); err == nil || !strings.Contains(err.Error(), "keys.age") {
		t.Errorf("damaged: %v", err)
	}
}

// FuzzLock: any file is a lock or none, and what is wrong with it says nothing of what is in it.
func FuzzLock(f *testing.F) {
	_, key := newLock(f)
	f.Add([]byte(key.String() + "\n"))
	f.Add([]byte("# public key: " + key.Recipient().String() + "\n" + key.String() + "\n"))
	f.Add([]byte("correct horse battery staple"))
	f.Add([]byte("AGE-SECRET-KEY-1\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lock, err := pki.ParseLock(data)
		if (lock == nil) == (err == nil) {
			t.Fatalf("%v, %v", lock, err)
		}
		for word := range strings.FieldsSeq(string(data)) {
			if err != nil && len(word) > 20 && strings.Contains(err.Error(), word) {
				t.Errorf("%v", err)
			}
		}
	})
}
