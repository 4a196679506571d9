// Package pipelines tries what image pipelines count on, with the shipped definition and the program itself: that other conditions
// give the same bytes, that no rights are needed, and that the page's script works as it stands there.
package pipelines

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/archive"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/profiles/role"
)

const repository = "../.."

// userCache is the cache that bakes of this machine have filled; without what the roles need the test is skipped, because it
// neither downloads nor compiles for minutes.
func userCache(t *testing.T, program string, roles ...string) string {
	t.Helper()
	cache := os.Getenv("SLIPWAY_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			t.Skip(err)
		}
		cache = filepath.Join(dir, "slipway")
	}
	images := filepath.Join(repository, "images")
	definition, err := plan.LoadDefinition(os.DirFS(images), plan.DefinitionName, images)
	if err != nil {
		t.Fatal(err)
	}
	lock, err := plan.ReadLock(lockFile())
	if err != nil {
		t.Fatal(err)
	}
	packages := archive.NewCache(cache)
	for _, name := range roles {
		r, err := role.Load(role.Embedded(), name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := plan.Make(definition, lock, r, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range append(p.Packages, p.Kernel) {
			if _, err := os.Stat(packages.Path(q.SHA256)); err != nil {
				t.Skipf("package %s is not in the cache; a bake puts it there", q.Name)
			}
		}
	}
	compile(t, program, cache, roles)
	return cache
}

// compile makes the components that are missing in the cache: only the agent, where a bake has been before.
func compile(t *testing.T, program, cache string, roles []string) {
	t.Helper()
	run(t, exec.Command(program, "bake", "--check", "--role", strings.Join(roles, ","), "--images", filepath.Join(repository, "images"), "--lock", lockFile(), "--cache", cache))
}

// lockFile is the committed lock, or the one that `make test` has made because the mirror has moved on.
func lockFile() string {
	made := filepath.Join(repository, "out", "test", plan.LockName)
	if _, err := os.Stat(made); err == nil {
		return made
	}
	return filepath.Join(repository, "images", plan.LockName)
}

// linkCache gives a cache of its own, with the packages and components of another and nothing else: stages, unpacked packages and
// programs are made anew. What is linked is only ever read.
func linkCache(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "cache")
	for _, part := range []string{"packages", "components"} {
		err := filepath.WalkDir(filepath.Join(from, part), func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) { // another bake tidies up
				return nil
			}
			if err != nil {
				return err
			}
			name, err := filepath.Rel(from, path)
			if err != nil {
				return err
			}
			switch {
			case e.IsDir() && strings.HasPrefix(e.Name(), "."): // being made
				return fs.SkipDir
			case e.IsDir():
				return os.MkdirAll(filepath.Join(to, name), 0o755)
			case strings.HasPrefix(e.Name(), ".") || strings.HasSuffix(e.Name(), ".part"):
				return nil
			}
			return link(path, filepath.Join(to, name))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// link is a hard link, or a copy where there can't be one, or where others could not read it.
func link(from, to string) error {
	info, err := os.Stat(from)
	if errors.Is(err, fs.ErrNotExist) { // another bake tidies up
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&0o044 == 0o044 && os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

var level = regexp.MustCompile(`(?m)^  (level|releaseLevel): (\d+)\b.*$`)

// checkout is what a checkout has for a bake, as a tar archive whose entries come in an order that a seed decides. The root
// images are packed with at most a level of compression: how long that takes is no matter of these tests.
func checkout(t *testing.T, seed byte, most int) []byte {
	t.Helper()
	var names []string
	for _, top := range []string{"agent", "builder", "images", "profiles"} {
		err := filepath.WalkDir(filepath.Join(repository, top), func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				names = append(names, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	names = append(names, filepath.Join(repository, "go.mod"), filepath.Join(repository, "go.sum"))
	if seed > 0 {
		rand.New(rand.NewChaCha8([32]byte{seed})).Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		path := name
		if name == filepath.Join(repository, "images", plan.LockName) {
			path = lockFile()
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(name) == plan.DefinitionName {
			data = level.ReplaceAllFunc(data, func(line []byte) []byte {
				found := level.FindSubmatch(line)
				n, err := strconv.Atoi(string(found[2]))
				if err != nil || n <= most {
					return line
				}
				return fmt.Appendf(nil, "  %s: %d", found[1], most)
			})
		}
		header := tar.Header{Name: strings.TrimPrefix(name, repository+"/"), Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(int64(seed), 0)}
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unpack unpacks a checkout into a folder.
func unpack(t *testing.T, archive []byte) string {
	t.Helper()
	dir := t.TempDir()
	c := exec.Command("tar", "-x", "-C", dir)
	c.Stdin = bytes.NewReader(archive)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	return dir
}

// build compiles slipway, with more arguments for `go build`.
func build(t *testing.T, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "slipway")
	args = append([]string{"build", "-trimpath", "-o", path}, append(args, repository+"/builder/slipway")...)
	c := exec.Command("go", args...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("cannot build slipway: %v\n%s", err, out)
	}
	return path
}

// run runs a command that must succeed, and gives what it said.
func run(t *testing.T, c *exec.Cmd) string {
	t.Helper()
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(c.Args, " "), err, out)
	}
	return string(out)
}
