package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-os/slipway/images/document"
	"github.com/slipway-os/slipway/profiles/role"
)

// FileSource is a file, link or folder of the image as a definition says it: one of content, source, link and directory.
type FileSource struct {
	Path      string  `yaml:"path"`    // clean and absolute: /etc/motd
	Mode      Mode    `yaml:"mode"`    // octal; without: 0644, or 0755 for a folder
	Owner     string  `yaml:"owner"`   // UID:GID, numbers; without: 0:0
	Content   *string `yaml:"content"` // the file's text
	Source    string  `yaml:"source"`  // the file's bytes: a path relative to the definition's file
	Link      string  `yaml:"link"`    // target of a symbolic link
	Directory bool    `yaml:"directory"`
}

// File is a file, link or folder that an image has besides those of packages, components and roles.
type File struct {
	Path      string `json:"path"`
	Mode      Mode   `json:"mode"`
	UID       int    `json:"uid"`
	GID       int    `json:"gid"`
	Link      string `json:"link,omitempty"`
	Directory bool   `json:"directory,omitempty"`
	Size      int64  `json:"size,omitempty"`   // bytes
	SHA256    string `json:"sha256,omitempty"` // of a regular file
	Content   []byte `json:"-"`
}

// Mode is permissions with set-user-ID, set-group-ID and sticky bits, 0 to 07777. In documents it is octal, with or without quotes.
type Mode uint32

var octal = regexp.MustCompile(`^(0o)?[0-7]{3,5}$`)

// UnmarshalText reads 0644, 644 and 0o644.
func (m *Mode) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(strings.TrimPrefix(string(text), "0o"), 8, 32)
	if err != nil || !octal.Match(text) || n > 0o7777 {
		return fmt.Errorf("%q is not a mode in octal, such as 0644", text)
	}
	*m = Mode(n)
	return nil
}

// MarshalText is four octal digits.
func (m Mode) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%04o", uint32(m)), nil }

var filePath = regexp.MustCompile(`^(/[^/\x00-\x1f\x7f]+)+$`)

func (c *checker) files(list []FileSource) {
	for i, f := range list {
		at := index("files", i)
		if !filePath.MatchString(f.Path) || path.Clean(f.Path) != f.Path {
			c.fault(at+".path", "such as /etc/motd", "%q is not a clean absolute path", f.Path)
		} else if problem := role.Misplaced(f.Path); problem != "" {
			c.fault(at+".path", "", "%s", problem)
		}
		if slices.ContainsFunc(list[:i], func(o FileSource) bool { return o.Path == f.Path }) {
			c.fault(at+".path", "remove one", "%s is in the list twice", f.Path)
		}
		if f.Owner != "" && !numbers.MatchString(f.Owner) {
			c.fault(at+".owner", "UID:GID, such as 0:42", "%q is not a numeric user and group", f.Owner)
		}
		if n := count(f.Content != nil, f.Source != "", f.Link != "", f.Directory); n != 1 {
			c.fault(at, "say one of content, source, link and directory", "it says %d of what the file is", n)
		}
		if f.Link != "" && (f.Mode != 0 || f.Owner != "") {
			c.fault(at+".link", "remove mode and owner", "a symbolic link has no mode and no owner of its own")
		}
	}
}

func count(given ...bool) (n int) {
	for _, g := range given {
		if g {
			n++
		}
	}
	return n
}

// readFiles reads what the files are of, and checks that none is also a folder of another.
func (m *merger) readFiles(l *loader) {
	parts := map[*document.Source]*part{}
	for _, p := range l.parts {
		parts[p.source] = p
	}
	for i := range m.def.Files {
		f := &m.def.Files[i]
		at := m.at(document.Key("files", f.Path))
		file, err := f.read(l, parts[at.source])
		if err != nil {
			at.path += ".source"
			m.fault(at, "paths are relative to the definition's file, and stay in the images folder", "%v", err)
			continue
		}
		m.def.files = append(m.def.files, file)
	}
	slices.SortFunc(m.def.files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	m.checkTree()
	for i := range m.def.ContainerImages {
		m.placeArchive(&m.def.ContainerImages[i], parts)
	}
}

// placeArchive makes the path of an image's archive one in the images folder.
func (m *merger) placeArchive(image *ContainerImage, parts map[*document.Source]*part) {
	if image.Archive == "" {
		return
	}
	at := m.at(document.Key("containerImages", image.Name))
	at.path += ".archive"
	name, err := parts[at.source].beside(image.Archive)
	if err != nil {
		m.fault(at, "keep it in the images folder", "%v", err)
		return
	}
	image.Archive = name
}

func (f FileSource) read(l *loader, p *part) (File, error) {
	file := File{Path: f.Path, Mode: f.Mode, Link: f.Link, Directory: f.Directory}
	if uid, gid, ok := strings.Cut(f.Owner, ":"); ok {
		file.UID, _ = strconv.Atoi(uid) // checker has seen that they are numbers
		file.GID, _ = strconv.Atoi(gid)
	}
	switch {
	case f.Link != "":
		file.Mode = 0o777
		return file, nil
	case f.Directory:
		if f.Mode == 0 {
			file.Mode = 0o755
		}
		return file, nil
	case f.Content != nil:
		file.Content = []byte(*f.Content)
	default:
		name, err := p.beside(f.Source)
		if err != nil {
			return file, err
		}
		if file.Content, err = readSmall(l.images, name, role.MaxFileSize+1); err != nil {
			return file, fmt.Errorf("cannot read %s: %w", l.shown(name), reason(err))
		}
		if len(file.Content) > role.MaxFileSize {
			return file, fmt.Errorf("%s is over %d MiB: make a component or a package of it", l.shown(name), role.MaxFileSize>>20)
		}
	}
	if f.Mode == 0 {
		file.Mode = 0o644
	}
	sum := sha256.Sum256(file.Content)
	file.Size, file.SHA256 = int64(len(file.Content)), hex.EncodeToString(sum[:])
	return file, nil
}

// checkTree checks that no file or link is also a folder of another.
func (m *merger) checkTree() {
	byPath := map[string]File{}
	for _, f := range m.def.files {
		byPath[f.Path] = f
	}
	for _, at := range slices.Sorted(maps.Keys(byPath)) {
		for dir := path.Dir(at); len(dir) > 1; dir = path.Dir(dir) {
			if f, ok := byPath[dir]; ok && !f.Directory {
				m.fault(m.at(document.Key("files", at)), "", "%s is a file or link, and %s is below it", dir, at)
			}
		}
	}
}

// checkFiles checks that a role doesn't have the definition's files too: neither could be said to win.
func (d *Definition) checkFiles(r *role.Role) error {
	for _, f := range d.files {
		if slices.ContainsFunc(r.Files, func(o role.File) bool { return o.Path == f.Path }) {
			return d.fault(document.Key("files", f.Path), fmt.Sprintf("role %s has %s too", r.Name, f.Path),
				"to replace a role's file, write a role that includes it and names the path under override")
		}
	}
	return nil
}
