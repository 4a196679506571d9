// Package restore changes the data of a control plane's etcd for a cluster that begins anew from a snapshot: it builds the new
// data, decides, and moves the old data aside. It deletes nothing but set-aside data beyond the newest two.
//
// A restore has a generation (Generation): when it was and on which node. Each node of the restored cluster keeps the newest it
// has heard of. A node whose data is of an earlier one belongs to a cluster that is no more (package guard asks the others).
//
// A change goes in three steps, each of which may be cut by a loss of power: Stage builds it beside, Decide makes it count with
// one rename, and Settle carries it out, again after a cut, while etcd doesn't run. It neither stops nor starts etcd.
//
// In etcd's data folder: member (etcd's own), and slipway with restored.json (the generation), next (being built), pending
// (decided), set-aside-20260301T120000Z (what was there before that generation).
package restore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	own         = "slipway" // folder in etcd's data folder
	markFile    = "restored.json"
	changeFile  = "change.json"
	next        = "next"
	pending     = "pending"
	member      = "member"
	asidePrefix = "set-aside-"
	stamp       = "20060102T150405Z"
	keepAside   = 2
	maxMark     = 4096 // bytes of a mark or change
)

// Generation is a restore: the later one counts. The zero value is a cluster that was never restored.
type Generation struct {
	At time.Time `json:"at"` // UTC, whole seconds
	On string    `json:"on"` // node that got the snapshot
}

// Newer says whether g is of a later restore than other.
func (g Generation) Newer(other Generation) bool { return g.At.After(other.At) }

// IsZero says that the cluster was never restored.
func (g Generation) IsZero() bool { return g.At.IsZero() }

// String is for people: "restored from a snapshot on cp-1 at 2026-03-01 12:00:00 UTC".
func (g Generation) String() string {
	return fmt.Sprintf("restored from a snapshot on %s at %s", g.On, g.At.UTC().Format("2006-01-02 15:04:05 UTC"))
}

func (g Generation) aside() string { return asidePrefix + g.At.UTC().Format(stamp) }

// change is what a restore does to this node.
type change struct {
	Generation
	Data bool `json:"data"` // there is new data; else the old is set aside and the node joins
}

// Read is the generation of the data in etcd's folder, also when there is no data any more.
func Read(dir string) (Generation, error) {
	var g Generation
	err := readJSON(filepath.Join(dir, own, markFile), &g)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return g, fmt.Errorf("cannot read which restore etcd's data is of: %w", err)
	}
	return g, nil
}

// Adopt writes the generation of the cluster that a node without data joins.
func Adopt(dir string, g Generation) error {
	fail := func(err error) error { return fmt.Errorf("cannot keep which restore the cluster is of: %w", err) }
	if err := os.MkdirAll(filepath.Join(dir, own), 0o700); err != nil {
		return fail(err)
	}
	if err := writeJSON(filepath.Join(dir, own, markFile), g); err != nil {
		return fail(err)
	}
	return syncFolder(filepath.Join(dir, own))
}

// Stage builds a change beside: build makes the new data in the folder it gets (member will be in it); nil sets aside only.
// What an earlier Stage left is replaced. Nothing counts before Decide.
func Stage(dir string, g Generation, build func(dir string) error) error {
	fail := func(err error) error { return fmt.Errorf("cannot prepare a restore of etcd: %w", err) }
	if g.On == "" || g.IsZero() || !g.At.Equal(g.At.Truncate(time.Second)) {
		return fail(errors.New("a restore has a time in whole seconds and a node"))
	}
	if err := newest(dir, g); err != nil {
		return fail(err)
	}
	beside := filepath.Join(dir, own, next)
	if err := errors.Join(os.RemoveAll(beside), os.MkdirAll(beside, 0o700)); err != nil {
		return fail(err)
	}
	if build != nil {
		if err := build(beside); err != nil {
			return fail(err)
		}
		if st, err := os.Stat(filepath.Join(beside, member)); err != nil || !st.IsDir() {
			return fail(errors.New("no data came out"))
		}
	}
	if err := writeJSON(filepath.Join(beside, changeFile), change{g, build != nil}); err != nil {
		return fail(err)
	}
	if err := syncTree(filepath.Join(dir, own)); err != nil {
		return fail(err)
	}
	return nil
}

// newest refuses a generation that is not later than all this node knows of: two of one time could not be told apart.
func newest(dir string, g Generation) error {
	have, err := Read(dir)
	if err != nil {
		return err
	}
	if !g.Newer(have) {
		return fmt.Errorf("the cluster was already %s: the clock of the machine that restores is behind", have)
	}
	return nil
}

// Decide makes the staged change of the generation count: from now on Settle carries it out.
func Decide(dir string, g Generation) error {
	fail := func(err error) error { return fmt.Errorf("cannot restore etcd: %w", err) }
	staged, err := readChange(filepath.Join(dir, own, next))
	if err != nil {
		return fail(err)
	}
	if !staged.At.Equal(g.At) || staged.On != g.On {
		return fail(fmt.Errorf("what is prepared is another one: %s", staged.Generation))
	}
	if err := newest(dir, g); err != nil {
		return fail(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, own, pending)); err == nil {
		return fail(errors.New("another one is not finished: restart the node"))
	}
	if err := os.Rename(filepath.Join(dir, own, next), filepath.Join(dir, own, pending)); err != nil {
		return fail(err)
	}
	return syncFolder(filepath.Join(dir, own))
}

// Pending says whether a decided change waits for Settle.
func Pending(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, own, pending))
	return err == nil
}

// Settle carries a decided change out, or ends one that was cut; without one it does nothing. etcd must not run.
func Settle(dir string) error {
	if !Pending(dir) {
		return nil
	}
	if err := settle(dir); err != nil {
		return fmt.Errorf("cannot restore etcd: %w", err)
	}
	return nil
}

func settle(dir string) error {
	at := filepath.Join(dir, own, pending)
	c, err := readChange(at)
	if errors.Is(err, fs.ErrNotExist) { // it was carried out, and only removing it was cut
		return os.RemoveAll(at)
	}
	if err != nil {
		return err
	}
	swapped := c.Data && !exists(filepath.Join(at, member))
	if !swapped {
		if err := setAside(dir, c.Generation); err != nil {
			return err
		}
	}
	if err := writeJSON(filepath.Join(dir, own, markFile), c.Generation); err != nil {
		return err
	}
	if err := syncFolder(filepath.Join(dir, own)); err != nil {
		return err
	}
	if c.Data && !swapped {
		if err := os.Rename(filepath.Join(at, member), filepath.Join(dir, member)); err != nil {
			return err
		}
	}
	if err := errors.Join(syncFolder(dir), os.Remove(filepath.Join(at, changeFile)), syncFolder(at), os.RemoveAll(at)); err != nil {
		return err
	}
	return prune(filepath.Join(dir, own))
}

// setAside moves the data away, with its generation. Data that has been moved already is no fault.
func setAside(dir string, g Generation) error {
	if !exists(filepath.Join(dir, member)) {
		return nil
	}
	aside := filepath.Join(dir, own, g.aside())
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return err
	}
	mark := filepath.Join(dir, own, markFile)
	if have, err := Read(dir); err != nil {
		return err
	} else if !have.IsZero() && !have.At.Equal(g.At) {
		if err := os.Rename(mark, filepath.Join(aside, markFile)); err != nil {
			return err
		}
	}
	if err := os.Rename(filepath.Join(dir, member), filepath.Join(aside, member)); err != nil {
		return err
	}
	return errors.Join(syncFolder(aside), syncFolder(dir))
}

// Aside is the set-aside data in etcd's folder, the newest first.
func Aside(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, own))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var list []string
	for _, e := range entries {
		if at, ok := strings.CutPrefix(e.Name(), asidePrefix); ok && e.IsDir() {
			if _, err := time.Parse(stamp, at); err == nil {
				list = append(list, e.Name())
			}
		}
	}
	slices.Sort(list)
	slices.Reverse(list)
	return list, nil
}

func prune(dir string) error {
	list, err := Aside(filepath.Dir(dir))
	if err != nil {
		return err
	}
	for _, old := range list[min(keepAside, len(list)):] {
		if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
			return err
		}
	}
	return nil
}

func readChange(dir string) (change, error) {
	var c change
	err := readJSON(filepath.Join(dir, changeFile), &c)
	if err == nil && (c.IsZero() || c.On == "") {
		err = errors.New("what is prepared has no time or no node")
	}
	return c, err
}

func readJSON(file string, into any) error {
	st, err := os.Stat(file)
	if err != nil {
		return err
	}
	if st.Size() > maxMark {
		return fmt.Errorf("%s is too large", file)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// writeJSON writes beside, syncs and renames.
func writeJSON(file string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// syncTree syncs all files and folders below and with dir.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && strings.HasPrefix(e.Name(), asidePrefix) {
			return fs.SkipDir
		}
		return syncFolder(path)
	})
}

// syncFolder syncs a folder or file.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
