// Package footprint tells where the bytes of an image are: of what its machines load, the unified kernel image and the root
// image, as a tree and as a picture.
//
// Bytes are those in the artifacts, compressed. A node's bytes are the sum of its children's, and the whole is the size of both files:
// what file systems, archives and signatures take for themselves is there by name. The root image's part comes from the list of
// files (builder/inventory), which has been measured when the image was baked; the initrd is measured here, block by block. The root
// image itself is not read.
package footprint

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/inventory"
	"github.com/slipway-os/slipway/builder/uki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// Node is a part of an image.
type Node struct {
	Name     string  `json:"name"`
	Path     string  `json:"path,omitempty"` // of a file or folder, where its name isn't that
	Class    Class   `json:"class"`
	Bytes    int64   `json:"bytes"`              // in the artifact, compressed
	Unpacked int64   `json:"unpacked,omitempty"` // bytes of the files in it
	Files    int     `json:"files,omitempty"`    // how many
	Children []*Node `json:"children,omitempty"` // the largest first
}

// Class is what a part belongs to.
type Class string

// Classes. What is of several, such as the root image, is Mixed.
const (
	Mixed      Class = "mixed"
	Kernel     Class = "kernel"
	Components Class = "components"
	Containers Class = "container images"
	Packages   Class = "packages"
	Own        Class = "own"      // the role's files, and what a bake makes
	Overhead   Class = "overhead" // what formats take for themselves
)

// titles are classes in words.
var titles = map[Class]string{
	Kernel: "kernel and its modules", Components: "components", Containers: "container images",
	Packages: "Debian packages", Own: "role and the image's own", Overhead: "the formats' own",
}

// ErrNoList means that the image has no list of files.
var ErrNoList = errors.New("the image has no list of files: an older slipway baked it; bake it again")

// Order is how files are put together.
type Order string

// Orders.
const (
	ByOrigin Order = "origin" // by who brought them, then by folder
	ByFolder Order = "folder"
)

// Read measures an image by what lies beside its manifest: the list of files and the unified kernel image, which are compared
// with the manifest's digests.
func Read(root *os.Root, m *manifest.Manifest, order Order) (*Node, error) {
	n, err := read(root, m, order)
	if err != nil {
		return nil, fmt.Errorf("cannot measure image %s: %w", bootspec.ArtifactBase(m.Role, m.Version, m.Arch), err)
	}
	return n, nil
}

func read(root *os.Root, m *manifest.Manifest, order Order) (*Node, error) {
	list, ok := m.Artifact(manifest.KindInventory)
	if !ok {
		return nil, ErrNoList
	}
	text, err := artifact(root, list, inventory.MaxSize)
	if err != nil {
		return nil, err
	}
	files, err := inventory.Decode(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", list.Name, err)
	}
	kernel, ok := m.Artifact(manifest.KindUKI)
	if !ok {
		return nil, errors.New("its manifest names no unified kernel image")
	}
	image, err := artifact(root, kernel, maxUKI)
	if err != nil {
		return nil, err
	}
	return Measure(m, files, image, order)
}

// maxUKI bounds a unified kernel image in bytes.
const maxUKI = 1 << 30

func artifact(root *os.Root, a manifest.Artifact, limit int64) ([]byte, error) {
	if a.Size > limit {
		return nil, fmt.Errorf("%s: %d bytes are over the limit of %d", a.Name, a.Size, limit)
	}
	f, err := root.Open(a.Name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, a.Size+1))
	if err != nil {
		return nil, err
	}
	return data, a.Verify(bytes.NewReader(data))
}

// Measure is the tree of an image.
func Measure(m *manifest.Manifest, files *inventory.Inventory, image []byte, order Order) (*Node, error) {
	kernel, err := measureUKI(image, files.Initrd, order)
	if err != nil {
		return nil, fmt.Errorf("unified kernel image: %w", err)
	}
	root, err := measureRoot(m, files.Root, order)
	if err != nil {
		return nil, fmt.Errorf("root image: %w", err)
	}
	whole := &Node{Name: bootspec.ArtifactBase(m.Role, m.Version, m.Arch), Class: Mixed, Children: []*Node{kernel, root}}
	whole.sum()
	return whole, nil
}

// measureUKI: sections, and what lies between them.
func measureUKI(image []byte, list []inventory.Entry, order Order) (*Node, error) {
	parts, err := uki.Locate(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		return nil, err
	}
	n := &Node{Name: "unified kernel image", Class: Mixed}
	rest := int64(len(image))
	for _, p := range parts {
		var child *Node
		switch p.Name {
		case ".linux":
			child = &Node{Name: "kernel", Class: Kernel, Bytes: p.Size}
		case ".initrd":
			if child, err = measureInitrd(image[p.At:p.At+p.Size], list, order); err != nil {
				return nil, fmt.Errorf("initrd: %w", err)
			}
		case ".osrel", ".cmdline", ".uname":
			child = &Node{Name: strings.TrimPrefix(p.Name, "."), Class: Own, Bytes: p.Size}
		default:
			continue // systemd's EFI stub
		}
		rest -= p.Size
		n.Children = append(n.Children, child)
	}
	if rest < 0 {
		return nil, errors.New("its sections overlap")
	}
	n.Children = append(n.Children, &Node{Name: "systemd's EFI stub, padding", Class: Overhead, Bytes: rest})
	return n, nil
}

// measureRoot takes files' sizes from the list.
func measureRoot(m *manifest.Manifest, list []inventory.Entry, order Order) (*Node, error) {
	a, ok := m.Artifact(manifest.KindRoot)
	if !ok {
		return nil, errors.New("its manifest doesn't name it")
	}
	n := &Node{Name: "root image", Class: Mixed}
	packed := int64(0)
	for _, e := range list {
		packed += e.Packed
	}
	switch {
	case packed > m.Root.Data || m.Root.Data > a.Size:
		return nil, fmt.Errorf("%d bytes of files, %d of squashfs and %d of the root image don't fit each other: the list of files is of another image", packed, m.Root.Data, a.Size)
	case packed == 0:
		return nil, errors.New("the list of files has no compressed sizes")
	}
	n.Children = append(arrange(list, order),
		&Node{Name: "squashfs: inodes, folders, tables", Class: Overhead, Bytes: m.Root.Data - packed},
		&Node{Name: "dm-verity tree", Class: Overhead, Bytes: a.Size - m.Root.Data})
	return n, nil
}

// sum adds up, and sorts.
func (n *Node) sum() {
	if len(n.Children) == 0 {
		return
	}
	n.Bytes, n.Unpacked, n.Files = 0, 0, 0
	for _, c := range n.Children {
		c.sum()
		n.Bytes += c.Bytes
		n.Unpacked += c.Unpacked
		n.Files += c.Files
	}
	slices.SortStableFunc(n.Children, func(a, b *Node) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), strings.Compare(a.Name, b.Name))
	})
}

// Cut is the tree down to so many levels below this node; 0 or less: all of it.
func (n *Node) Cut(depth int) *Node {
	return n.cut(depth, 0)
}

func (n *Node) cut(depth, at int) *Node {
	out := *n
	out.Children = nil
	if depth > 0 && at == depth {
		return &out
	}
	for _, c := range n.Children {
		out.Children = append(out.Children, c.cut(depth, at+1))
	}
	return &out
}
