package component

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	sums "github.com/slipway-os/slipway/builder/record"
)

// cache keeps results below dir/KEY: the binaries, and a record of what they are and were made of. A result has its
// final name only once it is whole. Several processes may share a cache.
type cache struct {
	dir  string
	warn func(string)
}

const recordName = "component.json"

// record is what component.json holds. Sources are file names in its folder.
type record struct {
	Component Component `json:"component"`
	Inputs    inputs    `json:"inputs"` // why it has this key: compare two records to see what changed
}

// get gives a whole and undamaged result. A damaged one is removed.
func (c cache) get(want Component) (Component, bool) {
	dir := filepath.Join(c.dir, want.Key)
	made, err := c.read(dir, want)
	if err == nil {
		now := time.Now()
		_ = os.Chtimes(dir, now, now) // used: prune takes the one that wasn't for longest
		return made, true
	}
	if !errors.Is(err, os.ErrNotExist) || exists(dir) {
		c.warn(fmt.Sprintf("component %s in the cache is damaged (%v): it is made again", want.Name, err))
		_ = os.RemoveAll(dir) // if it can't be removed, put says why
	}
	return Component{}, false
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

func (c cache) read(dir string, want Component) (Component, error) {
	text, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return Component{}, err
	}
	r, err := readRecord(text)
	if err != nil {
		return Component{}, err
	}
	made := r.Component
	if made.Name != want.Name || made.Version != want.Version || made.Arch != want.Arch || made.Key != want.Key ||
		r.Inputs.key() != want.Key || len(made.Files) == 0 {
		return Component{}, errors.New("the record is of something else")
	}
	for i, f := range made.Files {
		if f.Link != "" {
			continue
		}
		if !filepath.IsLocal(f.Source) {
			return Component{}, fmt.Errorf("file name %q leads elsewhere", f.Source)
		}
		made.Files[i].Source = filepath.Join(dir, f.Source)
		sum, err := fileDigest(made.Files[i].Source)
		if err != nil {
			return Component{}, err
		}
		if sum != f.SHA256 {
			return Component{}, fmt.Errorf("%s is damaged", f.Source)
		}
	}
	return made, nil
}

// put makes a result in a folder beside and renames it. The caller holds the component's lock, so the folder's name is
// free and what an earlier, killed build left there can go.
func (c cache) put(want Component, in inputs, build func(dir string) ([]File, error)) (Component, error) {
	dir := filepath.Join(c.dir, ".building-"+want.Name+"-"+want.Arch)
	if err := os.RemoveAll(dir); err != nil {
		return Component{}, fmt.Errorf("cannot prepare the cache: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Component{}, fmt.Errorf("cannot prepare the cache: %w", err)
	}
	defer os.RemoveAll(dir)
	made := want
	var err error
	if made.Files, err = build(dir); err != nil {
		return Component{}, err
	}
	if err := writeRecord(dir, record{made, in}); err != nil {
		return Component{}, fmt.Errorf("cannot write the cache: %w", err)
	}
	final := filepath.Join(c.dir, want.Key)
	if err := os.Rename(dir, final); err != nil {
		return Component{}, fmt.Errorf("cannot write the cache: %w", err)
	}
	if err := syncFolder(c.dir); err != nil {
		return Component{}, fmt.Errorf("cannot write the cache: %w", err)
	}
	for i, f := range made.Files {
		if f.Link == "" {
			made.Files[i].Source = filepath.Join(final, f.Source)
		}
	}
	c.prune(made)
	return made, nil
}

// kept is how many results of one component and architecture stay: enough to go back and forth between branches.
const kept = 5

// prune removes the results of a component that were not used for longest. What can't be read or removed stays: the next
// build tries again.
func (c cache) prune(made Component) {
	records, _ := filepath.Glob(filepath.Join(c.dir, "[0-9a-f]*", recordName))
	type result struct {
		dir  string
		used time.Time
	}
	var same []result
	for _, name := range records {
		dir := filepath.Dir(name)
		info, err := os.Stat(dir)
		if err != nil || dir == filepath.Join(c.dir, made.Key) {
			continue
		}
		text, err := os.ReadFile(name)
		var r record
		if err == nil {
			r, err = readRecord(text)
		}
		if err == nil && r.Component.Name == made.Name && r.Component.Arch == made.Arch {
			same = append(same, result{dir, info.ModTime()})
		}
	}
	slices.SortFunc(same, func(a, b result) int { return b.used.Compare(a.used) })
	for _, old := range same[min(kept-1, len(same)):] {
		_ = os.RemoveAll(old.dir)
	}
}

// readRecord reads a record, checked by its sum. Those of before there were sums are taken as they are: making all components anew would
// take long.
func readRecord(text []byte) (r record, err error) {
	if bytes.HasPrefix(text, []byte("{\n")) {
		return r, json.Unmarshal(text, &r)
	}
	return r, sums.Decode(text, &r)
}

func writeRecord(dir string, r record) error {
	text, err := sums.Encode(r)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(dir, recordName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return syncFolder(dir)
}

func syncFolder(name string) error {
	folder, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// lock waits until no other process builds the component of this name. Its file stays: there are as many as there are
// components.
func (c cache) lock(ctx context.Context, name string) (unlock func(), err error) {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot prepare the cache: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(c.dir, ".lock-"+name), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the cache: %w", err)
	}
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			file.Close()
			return nil, fmt.Errorf("cannot lock %s: %w", file.Name(), err)
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
