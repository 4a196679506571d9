package bake

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/layer"
)

// stages is the cache of a bake: layers of packages, and files that are named by what they are (root-worker) and the
// digest of all that went into them. Beside each lies what is known of it (.json), written last.
type stages struct {
	dir    string
	layers *layer.Store
}

// kept is how many files of one name stay in the cache, the newest ones.
const kept = 2

func newStages(dir string) (*stages, error) {
	dir, err := makeFolder("cache folder", filepath.Join(dir, "stages"))
	if err != nil {
		return nil, err
	}
	layers, err := layer.NewStore(filepath.Join(filepath.Dir(dir), "layers"))
	if err != nil {
		return nil, err
	}
	return &stages{dir, layers}, nil
}

// stage is the path of a stage's file, and what is known of it, filled into about (a pointer). When it is not there,
// make writes the file and fills about.
func (s *stages) stage(name, key string, about any, make func(path string) error) (path string, cached bool, err error) {
	path = filepath.Join(s.dir, name+"-"+key)
	if text, err := os.ReadFile(path + ".json"); err == nil && json.Unmarshal(text, about) == nil {
		if _, err := os.Stat(path); err == nil {
			return path, true, nil
		}
	}
	tmp, err := os.MkdirTemp(s.dir, ".new-")
	if err != nil {
		return "", false, err
	}
	defer os.RemoveAll(tmp)
	file := filepath.Join(tmp, "file")
	if err := make(file); err != nil {
		return "", false, err
	}
	text, err := json.Marshal(about)
	if err != nil {
		return "", false, err
	}
	if err := os.WriteFile(file+".json", text, 0o644); err != nil {
		return "", false, err
	}
	if err := errors.Join(os.Rename(file, path), os.Rename(file+".json", path+".json")); err != nil {
		return "", false, err
	}
	s.trim(name)
	return path, false, nil
}

// drop forgets a stage that turned out to be damaged.
func (s *stages) drop(path string) { os.Remove(path + ".json") }

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
