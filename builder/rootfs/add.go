package rootfs

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"strings"
)

// ConflictError is two origins that want different things at one path.
type ConflictError struct {
	Path   string
	First  *Entry // in the tree
	Second *Entry // came later
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s is a %s (%s) from %s and a %s (%s) from %s", e.Path,
		e.First.Type, e.First.detail(), e.First.from(), e.Second.Type, e.Second.detail(), e.Second.from())
}

func (e *Entry) from() string {
	if e.Origin == "" {
		return "an unnamed origin"
	}
	return e.Origin
}

func (e *Entry) detail() string { return fmt.Sprintf("%04o %d:%d %s", e.Mode, e.UID, e.GID, e.what()) }

// Add puts an entry into the tree. Its folders are followed through symbolic links (lib/x lands in usr/lib/x when lib
// is a link) and made, implicit, when they are missing. A directory may come many times: the first one's mode and owner
// stay, and a symbolic link to a directory stays a link. Anything else may come again only when it is the same;
// otherwise the error is a *ConflictError.
func (t *Tree) Add(e Entry) error { return t.put(e, false) }

// Replace puts an entry in whatever the path holds now, except a directory that holds something.
func (t *Tree) Replace(e Entry) error { return t.put(e, true) }

func (t *Tree) put(e Entry, replace bool) error {
	if err := e.check(); err != nil {
		return err
	}
	p, err := t.place(e.Path, e.Origin)
	if err != nil {
		return fmt.Errorf("cannot add %s of %s: %w", e.Path, e.from(), err)
	}
	e.Path = p
	if e.Type == HardLink {
		if e, err = t.linked(e); err != nil {
			return err
		}
	}
	e.Xattrs = maps.Clone(e.Xattrs)
	if e.Type == Symlink {
		e.Mode = 0o777
	}
	have, ok := t.entries[p]
	switch {
	case !ok:
	case replace && !(have.Type == Directory && e.Type != Directory):
	case replace && len(t.below(p)) == 0:
	case have.Type == Directory && e.Type == Directory:
		if !have.implicit {
			return nil
		}
	case have.Type == Symlink && e.Type == Directory && t.isDirectory(p):
		return nil
	case have.same(&e):
		return nil
	default:
		return &ConflictError{Path: p, First: have, Second: &e}
	}
	t.entries[p] = &e
	return nil
}

func (e *Entry) check() error {
	switch {
	case e.Path == "" || e.Path == "." || path.Clean("/"+e.Path) != "/"+e.Path || strings.ContainsRune(e.Path, 0):
		return fmt.Errorf("cannot add %q of %s: not a clean relative path", e.Path, e.from())
	case e.Mode > 0o7777:
		return fmt.Errorf("cannot add %s of %s: mode %o is over 07777", e.Path, e.from(), e.Mode)
	case e.Type < Regular || e.Type > BlockDevice:
		return fmt.Errorf("cannot add %s of %s: %s is not known", e.Path, e.from(), e.Type)
	case (e.Type == Symlink || e.Type == HardLink) && e.Link == "":
		return fmt.Errorf("cannot add %s of %s: a link without a target", e.Path, e.from())
	case e.Type == Regular && e.Content.Open == nil:
		return fmt.Errorf("cannot add %s of %s: a file without content", e.Path, e.from())
	}
	return nil
}

// same says whether two entries for a path would give the same bytes.
func (e *Entry) same(o *Entry) bool {
	return e.Type == o.Type && e.Mode == o.Mode && e.UID == o.UID && e.GID == o.GID && e.Link == o.Link &&
		e.Major == o.Major && e.Minor == o.Minor && e.Content.Size == o.Content.Size &&
		e.Content.SHA256 == o.Content.SHA256 && maps.Equal(e.Xattrs, o.Xattrs)
}

// place is where p lies once the links among its folders are followed; missing folders are made.
func (t *Tree) place(p, origin string) (string, error) {
	dir, base := path.Split(p)
	dir, err := t.follow(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return "", err
	}
	for d := dir; d != ""; d = parent(d) {
		if have, ok := t.entries[d]; ok {
			if have.Type != Directory {
				return "", fmt.Errorf("%s is a %s from %s, not a directory", d, have.Type, have.from())
			}
			continue
		}
		t.entries[d] = &Entry{Path: d, Type: Directory, Mode: 0o755, Origin: origin, implicit: true}
	}
	return path.Join(dir, base), nil
}

func parent(p string) string {
	i := strings.LastIndexByte(p, '/')
	return p[:max(i, 0)]
}

// maxLinks bounds how many symbolic links one path may go through, as in the kernel.
const maxLinks = 40

// follow is p with every symbolic link in it followed, the last part's too. What does not exist stays as it is.
func (t *Tree) follow(p string) (string, error) {
	done, rest := "", p
	for links := 0; rest != ""; {
		part, more, _ := strings.Cut(rest, "/")
		rest = more
		switch part {
		case "", ".":
			continue
		case "..":
			done = parent(done)
			continue
		}
		next := path.Join(done, part)
		have, ok := t.entries[next]
		if !ok || have.Type != Symlink {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%s goes through more than %d symbolic links", p, maxLinks)
		}
		if strings.HasPrefix(have.Link, "/") {
			done = ""
		}
		rest = have.Link + "/" + rest
	}
	return done, nil
}

// linked is a hard link as the regular file it shares.
func (t *Tree) linked(e Entry) (Entry, error) {
	target, ok := t.Lookup(e.Link)
	if !ok || target.Type != Regular {
		return e, fmt.Errorf("cannot add %s of %s: its hard link target %s is not a file of the tree", e.Path, e.from(), e.Link)
	}
	if target.inode == "" {
		target.inode = target.Path
	}
	linked := *target
	linked.Path, linked.Origin = e.Path, e.Origin
	return linked, nil
}

// Lookup is the entry at p. Links among its folders are followed, one at its end is not. Changing what is returned
// changes the tree.
func (t *Tree) Lookup(p string) (*Entry, bool) {
	dir, base := path.Split(strings.TrimPrefix(path.Clean("/"+p), "/"))
	dir, err := t.follow(dir)
	if err != nil {
		return nil, false
	}
	e, ok := t.entries[path.Join(dir, base)]
	return e, ok
}

// Follow is where p leads once every link is followed, whether or not something is there. Links that go in a circle are an error.
func (t *Tree) Follow(p string) (string, error) { return t.follow(p) }

// Resolve is the entry that p leads to once every link is followed.
func (t *Tree) Resolve(p string) (*Entry, bool) {
	p, err := t.follow(p)
	if err != nil {
		return nil, false
	}
	e, ok := t.entries[p]
	return e, ok
}

func (t *Tree) isDirectory(p string) bool {
	e, ok := t.Resolve(p)
	return ok && e.Type == Directory
}

// ErrNotThere is what reading a missing file gives.
var ErrNotThere = errors.New("no such file in the tree")

// ReadFile is the content of the regular file that p leads to.
func (t *Tree) ReadFile(p string) ([]byte, error) {
	e, ok := t.Resolve(p)
	if !ok || e.Type != Regular {
		return nil, fmt.Errorf("cannot read %s: %w", p, ErrNotThere)
	}
	b, err := e.Content.Bytes()
	if err != nil {
		return nil, fmt.Errorf("cannot read %s of %s: %w", e.Path, e.from(), err)
	}
	return b, nil
}

// Remove takes p and what lies below it out of the tree; a missing path is no error.
func (t *Tree) Remove(p string) {
	e, ok := t.Lookup(p)
	if !ok {
		return
	}
	for _, b := range t.below(e.Path) {
		delete(t.entries, b)
	}
	delete(t.entries, e.Path)
}

func (t *Tree) below(p string) []string {
	var found []string
	for q := range t.entries {
		if strings.HasPrefix(q, p+"/") {
			found = append(found, q)
		}
	}
	return found
}
