package pki_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/slipway-os/slipway/builder/pki"
	"github.com/slipway-os/slipway/profiles/cluster"
)

func TestCreateAndLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "identity")
	id, err := pki.Create(dir, lab(t), environment(1))
	if err != nil {
		t.Fatal(err)
	}
	if got := tree(t, filepath.Dir(dir)); got != `drwx------ identity
-rw------- identity/boot-ca.crt
-rw------- identity/boot-ca.key
-rw------- identity/ca.crt
-rw------- identity/ca.key
-rw------- identity/encryption.key
-rw------- identity/etcd-ca.crt
-rw------- identity/etcd-ca.key
-rw------- identity/front-proxy-ca.crt
-rw------- identity/front-proxy-ca.key
-rw------- identity/identity.json
-rw------- identity/sa.key` {
		t.Errorf("got\n%s", got)
	}
	loaded, err := pki.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if loaded.Cluster != "lab" || !loaded.CA.Key.Equal(id.CA.Key) || !loaded.Etcd.Certificate.Equal(id.Etcd.Certificate) ||
		!loaded.FrontProxy.Key.Equal(id.FrontProxy.Key) || !loaded.Boot.Key.Equal(id.Boot.Key) || !loaded.ServiceAccount.Equal(id.ServiceAccount) || string(loaded.EncryptionKey) != string(id.EncryptionKey) {
		t.Error("what was loaded is not what was created")
	}
}

// TestAddBoot: an identity of an earlier version gets an authority for the boot server, once, and what was cut off in the middle is done
// again.
func TestAddBoot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	if _, err := pki.Create(dir, lab(t), environment(1)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "boot-ca.crt")); err != nil { // the key is what a cut leaves
		t.Fatal(err)
	}
	id, err := pki.Load(dir)
	if err != nil || id.Boot != nil {
		t.Fatalf("%v, %v", id, err)
	}
	if _, err := id.BootServer(environment(2)); err == nil {
		t.Error("a certificate without an authority")
	}
	for range 2 {
		if err := id.AddBoot(dir, environment(2)); err != nil {
			t.Fatal(err)
		}
	}
	again, err := pki.Load(dir)
	if err != nil || !again.Boot.Key.Equal(id.Boot.Key) {
		t.Fatalf("loaded: %v", err)
	}
	if got := tree(t, dir); strings.Contains(got, ".new") || strings.Count(got, "\n") != 10 {
		t.Errorf("left behind:\n%s", got)
	}
	if _, err := again.BootServer(environment(3)); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, "boot-ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Load(dir); !errors.Is(err, pki.ErrIncomplete) || !strings.Contains(err.Error(), "boot-ca.key missing") {
		t.Errorf("without its key: %v", err)
	}
}

// tree has all below dir as lines of mode and path.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		rel, _ := filepath.Rel(dir, path)
		lines = append(lines, fmt.Sprintf("%s %s", info.Mode(), rel))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

func TestCreateNeverOverwrites(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Create(dir, lab(t), environment(1)); err != nil {
		t.Fatalf("an empty folder was refused: %v", err)
	}
	before, err := os.ReadFile(filepath.Join(dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Create(dir, lab(t), environment(2)); !errors.Is(err, pki.ErrExists) {
		t.Errorf("second create: %v", err)
	}
	after, err := os.ReadFile(filepath.Join(dir, "ca.key"))
	if err != nil || string(before) != string(after) {
		t.Errorf("the key was overwritten (%v)", err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(dir)); len(entries) != 1 {
		t.Errorf("something was left beside: %v", entries)
	}
}

func TestCreateAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	errs := make([]error, 4)
	var wg sync.WaitGroup
	c := lab(t)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = pki.Create(dir, c, pki.Environment{Now: now, Rand: rand.Reader})
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, pki.ErrExists) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d creates won", won)
	}
	if _, err := pki.Load(dir); err != nil {
		t.Error(err)
	}
}

func TestLoadRefuses(t *testing.T) {
	write := func(name, content string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600) }
	}
	tests := []struct {
		name   string
		damage func(dir string) error
		is     error
		want   string // DIR stands for the folder
	}{
		{"no folder", os.RemoveAll, fs.ErrNotExist, ""},
		{"folder for all", func(d string) error { return os.Chmod(d, 0o755) }, pki.ErrExposed, "its folder has mode 0755 (run: chmod 700 DIR)"},
		{"key for the group", func(d string) error { return os.Chmod(d+"/ca.key", 0o640) }, pki.ErrExposed, "ca.key has mode 0640 (run: chmod 600 DIR/ca.key)"},
		{"token key for all", func(d string) error { return os.Chmod(d+"/sa.key", 0o604) }, pki.ErrExposed, "sa.key has mode 0604 (run: chmod 600 DIR/sa.key)"},
		{"half made", func(d string) error { return errors.Join(os.Remove(d+"/sa.key"), os.Remove(d+"/etcd-ca.crt")) }, pki.ErrIncomplete,
			"etcd-ca.crt, sa.key missing (restore it from a backup, or choose another folder to create one)"},
		{"another's key", func(d string) error { return os.Rename(d+"/etcd-ca.key", d+"/ca.key") }, nil, ""},
		{"keys exchanged", func(d string) error {
			return errors.Join(os.Rename(d+"/etcd-ca.key", d+"/x"), os.Rename(d+"/ca.key", d+"/etcd-ca.key"), os.Rename(d+"/x", d+"/ca.key"))
		}, nil, "certificate and key don't belong together"},
		{"no PEM", write("ca.crt", "hello"), nil, "ca: not one certificate in PEM"},
		{"broken key", write("sa.key", "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n"), nil, "sa.key: not a PKCS #8 key"},
		{"short key", write("encryption.key", "aGVsbG8="), nil, "encryption.key: not 32 bytes in base64"},
		{"another version", write("identity.json", `{"apiVersion": "slipway.dev/v9", "kind": "Identity"}`), nil, "identity.json: slipway.dev/v9 Identity is not an identity that this slipway reads"},
		{"a pipe for a file", func(d string) error { return errors.Join(os.Remove(d+"/ca.crt"), os.Mkdir(d+"/ca.crt", 0o700)) }, nil, "ca.crt is not a file"},
		{"a link out", func(d string) error {
			return errors.Join(os.Remove(d+"/ca.crt"), os.Symlink("/etc/hostname", d+"/ca.crt"))
		}, nil, "escapes"},
		{"far too long", write("ca.crt", strings.Repeat("x", 1<<17)), nil, "ca.crt is over the limit of 65536 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "identity")
			if _, err := pki.Create(dir, lab(t), environment(1)); err != nil {
				t.Fatal(err)
			}
			if err := tt.damage(dir); err != nil {
				t.Fatal(err)
			}
			_, err := pki.Load(dir)
			if err == nil {
				t.Fatal("loaded")
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v is not %v", err, tt.is)
			}
			if want := strings.ReplaceAll(tt.want, "DIR", dir); !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "cannot load identity "+dir) {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
}

// TestNoKeyInErrors checks that what goes wrong says nothing of keys.
func TestNoKeyInErrors(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	if _, err := pki.Create(dir, lab(t), environment(1)); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(dir + "/sa.key")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(key), "\n")
	if err := os.WriteFile(dir+"/sa.key", []byte(strings.Join(slices.Delete(lines, 1, 2), "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = pki.Load(dir)
	if err == nil || strings.Contains(err.Error(), lines[2][:8]) {
		t.Errorf("%v", err)
	}
}

// FuzzLoad damages one file of an identity: it loads whole, or not at all with the file's name in the error.
func FuzzLoad(f *testing.F) {
	dir := filepath.Join(f.TempDir(), "identity")
	c, err := cluster.Parse("lab.yaml", cluster.Lab())
	if err != nil {
		f.Fatal(err)
	}
	if _, err := pki.Create(dir, c, environment(1)); err != nil {
		f.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		f.Fatal(err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			f.Fatal(err)
		}
		files[e.Name()] = data
		f.Add(e.Name(), data)
	}
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		damaged := maps.Clone(files)
		if _, ok := files[name]; !ok {
			return
		}
		damaged[name] = data
		id, err := pki.Parse(damaged)
		if (id == nil) == (err == nil) {
			t.Fatalf("identity %v, error %v", id, err)
		}
		if base := strings.TrimSuffix(strings.TrimSuffix(name, ".crt"), ".key"); err != nil && !strings.Contains(err.Error(), base) {
			t.Fatalf("%s: %v", name, err)
		}
	})
}
