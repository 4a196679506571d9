package bake

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/slipway-os/slipway/builder/layer"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/builder/record"
	"github.com/slipway-os/slipway/builder/rootfs"
	"github.com/slipway-os/slipway/builder/squashfs"
)

// stages is the cache of a bake: layers of packages, and files that are named by what they are (root-worker) and the
// digest of all that went into them. Beside each lies what is known of it (.json), written last.
type stages struct {
	dir    string
	layers *layer.Store
	pieces *squashfs.Store
	lock   *os.File // held shared while a bake uses the cache
	mu     sync.Mutex
	used   []usedStage // by this bake
	warn   func(string)
}

// usedStage is a stage's file with what is known of it.
type usedStage struct {
	path    string
	content rootfs.Content
}

// known is what is known of a stage's file; more may be.
type known interface{ plain() file }

func (f *file) plain() file { return *f }

// kept is how many files of one name stay in the cache, the newest ones.
const kept = 2

func newStages(dir string, warn func(string)) (*stages, error) {
	dir, err := makeFolder("cache folder", filepath.Join(dir, "stages"))
	if err != nil {
		return nil, err
	}
	layers, err := layer.NewStore(filepath.Join(filepath.Dir(dir), "layers"), warn)
	if err != nil {
		return nil, err
	}
	pieces, err := squashfs.NewStore(filepath.Join(filepath.Dir(dir), "pieces"))
	if err != nil {
		return nil, err
	}
	s := &stages{dir: dir, layers: layers, pieces: pieces, warn: warn}
	return s, s.enter()
}

// enter marks the cache as used. When nobody else uses it, what bakes that were killed left half-made is taken away.
func (s *stages) enter() (err error) {
	if s.lock, err = os.OpenFile(filepath.Join(s.dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return fmt.Errorf("cannot use cache folder: %w", err)
	}
	if syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		for _, folder := range []string{s.dir, s.layers.Dir()} {
			left, _ := filepath.Glob(filepath.Join(folder, ".new-*"))
			for _, path := range left {
				os.RemoveAll(path)
			}
		}
		if err := s.pieces.Sweep(); err != nil {
			return fmt.Errorf("cannot tidy cache folder: %w", err)
		}
	}
	if err := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_SH); err != nil {
		return fmt.Errorf("cannot use cache folder %s: %w", s.dir, err)
	}
	return nil
}

func (s *stages) leave() { s.lock.Close() }

// stage is a stage's file as content that is checked when it is read, and what is known of it is filled into about (a
// pointer). When it is not there, make writes the file and fills about.
func (s *stages) stage(name, key string, about known, make func(path string) error) (content rootfs.Content, cached bool, err error) {
	path := filepath.Join(s.dir, name+"-"+key)
	err = s.load(path, about)
	if cached = err == nil; !cached {
		if _, there := os.Lstat(path + ".json"); there == nil { // else it was never made, or not to its end
			if err := s.drop(path, err); err != nil {
				return content, false, err
			}
		}
		if err := s.make(path, about, make); err != nil {
			return content, false, err
		}
		s.trim(name)
	}
	content, err = rootfs.File(path, about.plain().Size, about.plain().SHA256)
	if err != nil {
		return content, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = append(s.used, usedStage{path, content})
	return content, cached, nil
}

func (s *stages) load(path string, about known) error {
	text, err := os.ReadFile(path + ".json")
	if err != nil {
		return err
	}
	if err := record.Decode(text, about); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() != about.plain().Size {
		return fmt.Errorf("%d bytes, not %d", info.Size(), about.plain().Size)
	}
	return nil
}

// drop forgets a stage's file, so that it is made anew.
func (s *stages) drop(path string, why error) error {
	if !errors.Is(why, record.ErrOld) {
		s.warn(fmt.Sprintf("stage %s in the cache is damaged (%v): it is made again", filepath.Base(path), why))
	}
	return errors.Join(os.RemoveAll(path+".json"), os.RemoveAll(path))
}

func (s *stages) make(path string, about known, make func(path string) error) error {
	tmp, err := os.MkdirTemp(s.dir, ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	file := filepath.Join(tmp, "file")
	if err := make(file); err != nil {
		return err
	}
	text, err := record.Encode(about)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".json", text, 0o644); err != nil {
		return err
	}
	return errors.Join(os.Rename(file, path), os.Rename(file+".json", path+".json"))
}

// heal forgets what turned out to be damaged among the stages and layers that this bake uses, and tells whether it
// found something.
func (s *stages) heal(packages []plan.Package, layers func(plan.Package) *layer.Store) (bool, error) {
	found := false
	for _, u := range s.used {
		if why := u.content.CopyTo(io.Discard); why != nil {
			found = true
			if err := s.drop(u.path, why); err != nil {
				return found, err
			}
		}
	}
	for _, p := range packages {
		if why := layers(p).Check(p.SHA256); why != nil {
			found = true
			if err := layers(p).Drop(p.SHA256, why); err != nil {
				return found, err
			}
		}
	}
	return found, nil
}

// trim removes all but the newest files of a name. What cannot be removed stays.
func (s *stages) trim(name string) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	type file struct {
		name string
		at   int64
	}
	var files []file
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), name+"-")
		info, err := e.Info()
		if ok && err == nil && len(rest) == 2*sha256.Size {
			files = append(files, file{e.Name(), info.ModTime().UnixNano()})
		}
	}
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(b.at, a.at) })
	for _, f := range files[min(kept, len(files)):] {
		os.Remove(filepath.Join(s.dir, f.name+".json"))
		os.Remove(filepath.Join(s.dir, f.name))
	}
}

// key is a digest of parts, which may be anything that prints.
func key(parts ...any) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%q\n", fmt.Sprint(p))
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// file is what is known of a plain file.
type file struct {
	Size   int64
	SHA256 string
}

// create writes a file through a buffer and tells its size and digest.
func create(path string, write func(io.Writer) error) (file, error) {
	f, err := os.Create(path)
	if err != nil {
		return file{}, err
	}
	defer f.Close()
	h := sha256.New()
	counted := &counter{w: io.MultiWriter(f, h)}
	buffered := bufio.NewWriterSize(counted, 1<<20)
	if err := write(buffered); err != nil {
		return file{}, err
	}
	if err := errors.Join(buffered.Flush(), f.Close()); err != nil {
		return file{}, err
	}
	return file{counted.n, fmt.Sprintf("%x", h.Sum(nil))}, nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
