// Package inventory is the list of all that lies in an image's root file system and in its initrd: path, mode, owner,
// size, digest, and who brought it. It is written at bake and read wherever two images are compared or bytes are counted,
// so that nobody has to read a file system of unknown origin for that.
//
// It is not the manifest (images/manifest), whose digest of it makes it trustworthy, and not the bill of materials
// (builder/sbom).
package inventory

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// Version is an inventory's apiVersion; Kind its kind.
const (
	Version = "slipway.dev/v1alpha1"
	Kind    = "Inventory"
)

// MaxSize bounds an inventory in bytes.
const MaxSize = 128 << 20

// Inventory is the list. Entries are in the order of their paths.
type Inventory struct {
	APIVersion string  `json:"apiVersion"`
	Kind       string  `json:"kind"`
	Root       []Entry `json:"root"`
	Initrd     []Entry `json:"initrd"`
}

// Entry is one path.
type Entry struct {
	Path   string            `json:"path"` // relative and clean: usr/bin/kube
	Type   string            `json:"type"` // file, directory, symbolic link, character device, block device
	Mode   string            `json:"mode"` // octal, four digits
	UID    int               `json:"uid"`
	GID    int               `json:"gid"`
	Size   int64             `json:"size,omitempty"`   // bytes, of a file
	SHA256 string            `json:"sha256,omitempty"` // of a file
	Packed int64             `json:"packed,omitempty"` // bytes in the root image, compressed; what files share counts for the first; not known in an initrd
	Link   string            `json:"link,omitempty"`   // a symbolic link's target
	Xattrs map[string]string `json:"xattrs,omitempty"` // hexadecimal, by full name
	Origin string            `json:"origin,omitempty"` // package systemd, component kube-worker, role worker
}

// File is an entry's type when it is a regular file.
const File = "file"

// Link is an entry's type when it is a symbolic link.
const Link = "symbolic link"

// List is a tree's entries. packed may be nil.
func List(t *rootfs.Tree, packed map[string]int64) []Entry {
	list := []Entry{}
	for _, e := range t.All() {
		out := Entry{Path: e.Path, Type: e.Type.String(), Mode: fmt.Sprintf("%04o", e.Mode), UID: e.UID, GID: e.GID, Link: e.Link, Origin: e.Origin}
		if e.Type == rootfs.Regular {
			out.Size, out.SHA256, out.Packed = e.Content.Size, hex.EncodeToString(e.Content.SHA256[:]), packed[e.Path]
		}
		for k, v := range e.Xattrs {
			if out.Xattrs == nil {
				out.Xattrs = map[string]string{}
			}
			out.Xattrs[k] = hex.EncodeToString([]byte(v))
		}
		list = append(list, out)
	}
	return list
}

// New is an inventory of two lists.
func New(root, initrd []Entry) *Inventory {
	return &Inventory{APIVersion: Version, Kind: Kind, Root: root, Initrd: initrd}
}

// Encode is the canonical form.
func (i *Inventory) Encode() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(i); err != nil {
		panic("inventory: " + err.Error()) // plain structs always encode
	}
	return b.Bytes()
}

// Decode reads an inventory strictly: unknown fields, anything after it, paths that lead elsewhere or are not in order are errors.
func Decode(data []byte) (*Inventory, error) {
	i, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("cannot read inventory: %w", err)
	}
	return i, nil
}

func decode(data []byte) (*Inventory, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%d bytes are over the limit of %d", len(data), MaxSize)
	}
	i := &Inventory{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(i); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something comes after it")
	}
	if i.APIVersion != Version || i.Kind != Kind {
		return nil, fmt.Errorf("apiVersion %q and kind %q are not %q and %q", i.APIVersion, i.Kind, Version, Kind)
	}
	return i, errors.Join(check(i.Root), check(i.Initrd))
}

func check(list []Entry) error {
	last := ""
	for _, e := range list {
		switch {
		case e.Path == "" || strings.HasPrefix(e.Path, "/") || path.Clean("/"+e.Path) != "/"+e.Path:
			return fmt.Errorf("path %q is not a clean relative one", e.Path)
		case e.Path <= last:
			return fmt.Errorf("path %q is not in order", e.Path)
		case e.Size < 0 || e.Packed < 0:
			return fmt.Errorf("%s has a size below zero", e.Path)
		}
		last = e.Path
	}
	return nil
}
