package complete

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// checker is a proof at work.
type checker struct {
	Image
	proof  *Proof
	faults Faults
	used   map[allowance]bool // those that some reference needed or would need
	seen   map[Reference]bool // so that each is counted and told once

	users  map[string]bool
	groups map[string]bool
	system *unitSet
	user   *unitSet
	made   map[string]string          // what tmpfiles.d and units make at boot: path to who
	folder map[string][]*rootfs.Entry // of the root tree: what lies directly in each folder
}

// place is one of the image's trees.
type place struct {
	name string // empty for the root image
	tree *rootfs.Tree
}

func (c *checker) places() []place {
	list := []place{{"", c.Root}}
	if c.Initrd != nil {
		list = append(list, place{"initrd", c.Initrd})
	}
	for _, i := range c.Containers {
		list = append(list, place{"container image " + i.Name, i.Files})
	}
	return list
}

// verdict is what became of a reference.
type verdict struct {
	why  string // empty: its thing is there
	hint string
}

func (v verdict) ok() bool { return v.why == "" }

// missing is the verdict on what is simply not there.
func missing(hint string) verdict { return verdict{"is not in the image", hint} }

// refer notes a reference of the root tree and its verdict.
func (c *checker) refer(kind Kind, from *rootfs.Entry, how, to string, v verdict) {
	c.note(Reference{Kind: kind, From: from.Path, Origin: from.Origin, How: how, To: to}, v)
}

func (c *checker) note(r Reference, v verdict) {
	if c.seen[r] {
		return
	}
	c.seen[r] = true
	absence, allowed := c.allows(r)
	switch {
	case v.ok():
		c.proof.Proven[r.Kind]++
	case allowed:
		r.Reason = absence.Reason
		c.proof.Absent = append(c.proof.Absent, r)
	default:
		c.faults = append(c.faults, Fault{r, v.why, v.hint})
	}
}

// allowance is one thing of one absence, by their places.
type allowance struct{ absence, to int }

// allows finds the absence for a reference, and marks it as used.
func (c *checker) allows(r Reference) (Absence, bool) {
	for i, a := range c.Absent {
		if !matches(a.From, r.From) {
			continue
		}
		for k, to := range a.To {
			if matches(to, r.To) {
				c.used[allowance{i, k}] = true
				return a, true
			}
		}
	}
	return Absence{}, false
}

func matches(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return pattern == s || ok && err == nil
}

// deadAbsences are faults too: an absence that allows nothing would allow something nobody thought of one day.
func (c *checker) deadAbsences() {
	for i, a := range c.Absent {
		for k, to := range a.To {
			if !c.used[allowance{i, k}] {
				c.faults = append(c.faults, Fault{
					Reference: Reference{Kind: File, From: a.From, How: "is allowed (" + a.By + ") to lack", To: to},
					Why:       "it doesn't refer to", Hint: "take that out of " + a.By,
				})
			}
		}
	}
}

// advice is what can be done about most things that are missing.
const advice = "add what brings it (packages, components, files of the role), take away what refers to it (exclude, mask), " +
	"or list the two under `absent` in definition.yaml or role.yaml with the reason"

// searchPath is where programs are looked for by name: systemd's own default, and that of what it starts.
var searchPath = []string{"usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin"}

// program is the verdict on a program: an absolute path, or a name that is looked for in folders.
func program(t *rootfs.Tree, name string, folders []string) verdict {
	if !strings.Contains(name, "/") {
		for _, f := range folders {
			if e, ok := t.Resolve(path.Join(f, name)); ok && e.Type == rootfs.Regular && e.Mode&0o111 != 0 {
				return verdict{}
			}
		}
		return verdict{"is not in the image (looked in /" + strings.Join(folders, ", /") + ")", advice}
	}
	e, ok := t.Resolve(strings.TrimPrefix(name, "/"))
	switch {
	case !ok:
		return missing(advice)
	case e.Type != rootfs.Regular:
		return verdict{"is a " + e.Type.String() + " in the image", advice}
	case e.Mode&0o111 == 0:
		return verdict{"is in the image without permission to execute it", "list it under `executable` if it is a role's file, or replace what brings it"}
	}
	return verdict{}
}

// head is the beginning of a file. It is not compared with the file's digest: who packs the file does that.
func head(e *rootfs.Entry, n int64) ([]byte, error) {
	r, err := e.Content.Open()
	if err != nil {
		return nil, fmt.Errorf("cannot read %s of %s: %w", e.Path, e.Origin, err)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, n))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s of %s: %w", e.Path, e.Origin, err)
	}
	return data, nil
}

// readerAt opens a file to be read here and there. Close it.
func readerAt(e *rootfs.Entry) (io.ReaderAt, io.Closer, error) {
	r, err := e.Content.Open()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read %s of %s: %w", e.Path, e.Origin, err)
	}
	if at, ok := r.(io.ReaderAt); ok {
		return at, r, nil
	}
	data, err := io.ReadAll(io.LimitReader(r, e.Content.Size))
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("cannot read %s of %s: %w", e.Path, e.Origin, err), r.Close())
	}
	return bytes.NewReader(data), r, nil
}

// files are the regular files of the root tree directly in a folder, links followed, by the extensions of their names; a file
// in an earlier folder hides one of the same name in a later one (as for udev, tmpfiles.d and the like).
func (c *checker) files(extensions []string, folders ...string) []*rootfs.Entry {
	var found []*rootfs.Entry
	hidden := map[string]bool{}
	for _, folder := range folders {
		for _, e := range c.in(folder) {
			name := path.Base(e.Path)
			if hidden[name] || !hasExtension(name, extensions) {
				continue
			}
			hidden[name] = true
			if file, ok := c.Root.Resolve(e.Path); ok && file.Type == rootfs.Regular {
				found = append(found, file)
			}
		}
	}
	return found
}

// in is what lies directly in a folder of the root tree, by name.
func (c *checker) in(folder string) []*rootfs.Entry {
	if c.folder == nil {
		c.folder = map[string][]*rootfs.Entry{}
		for _, e := range c.Root.All() {
			c.folder[path.Dir(e.Path)] = append(c.folder[path.Dir(e.Path)], e)
		}
	}
	return c.folder[folder]
}

func hasExtension(name string, extensions []string) bool {
	for _, x := range extensions {
		if strings.HasSuffix(name, x) {
			return true
		}
	}
	return false
}

func (c *checker) text(e *rootfs.Entry) (string, error) {
	data, err := e.Content.Bytes()
	if err != nil {
		return "", fmt.Errorf("cannot read %s of %s: %w", e.Path, e.Origin, err)
	}
	return string(data), nil
}
