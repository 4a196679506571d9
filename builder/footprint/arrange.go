package footprint

import (
	"path"
	"strings"

	"github.com/slipway-os/slipway/builder/inventory"
)

// arrange makes a tree of files, whose Packed is what they take.
func arrange(list []inventory.Entry, order Order) []*Node {
	if order == ByFolder {
		all := &Node{}
		for _, e := range list {
			all.place(e)
		}
		all.join()
		return all.Children
	}
	groups := map[Class]*Node{}
	origins := map[string]*Node{}
	var nodes []*Node
	for _, e := range list {
		if e.Type != inventory.File {
			continue
		}
		class, name := origin(e.Origin)
		if groups[class] == nil {
			groups[class] = &Node{Name: titles[class], Class: class}
			nodes = append(nodes, groups[class])
		}
		if origins[e.Origin] == nil {
			origins[e.Origin] = &Node{Name: name, Class: class}
			groups[class].Children = append(groups[class].Children, origins[e.Origin])
		}
		origins[e.Origin].place(e)
	}
	for _, n := range origins {
		n.join()
		n.hoist()
	}
	return nodes
}

// origin is the class of who brought a file, and its name in that class.
func origin(text string) (Class, string) {
	kind, name, _ := strings.Cut(text, " ")
	switch {
	case kind == "package" && strings.HasPrefix(name, "linux-image-"):
		return Kernel, name
	case kind == "package":
		return Packages, name
	case kind == "component":
		return Components, name
	case strings.HasPrefix(text, "container image "):
		return Containers, strings.TrimPrefix(text, "container image ")
	case text == "the kernel module index":
		return Kernel, "module index"
	case text == "":
		return Own, "of unknown origin"
	}
	return Own, text
}

// place puts a file below a node, in its folders.
func (n *Node) place(e inventory.Entry) {
	if e.Type != inventory.File {
		return
	}
	class, _ := origin(e.Origin)
	at, dir := n, ""
	parts := strings.Split(e.Path, "/")
	for _, part := range parts[:len(parts)-1] {
		dir = path.Join(dir, part)
		at = at.child(part, dir, class)
	}
	at.Children = append(at.Children, &Node{Name: parts[len(parts)-1], Path: e.Path, Class: class, Bytes: e.Packed, Unpacked: e.Size, Files: 1})
}

// child is the folder of that name: the last child, because paths come sorted, or a new one.
func (n *Node) child(name, full string, class Class) *Node {
	if i := len(n.Children) - 1; i >= 0 {
		if last := n.Children[i]; last.Path == full && last.Files == 0 {
			if last.Class != class {
				last.Class = Mixed
			}
			return last
		}
	}
	c := &Node{Name: name, Path: full, Class: class}
	n.Children = append(n.Children, c)
	return c
}

// join makes one node of a folder and the only folder in it: usr/lib/modules.
func (n *Node) join() {
	for _, c := range n.Children {
		for len(c.Children) == 1 && len(c.Children[0].Children) > 0 {
			only := c.Children[0]
			c.Name, c.Path, c.Class, c.Children = c.Name+"/"+only.Name, only.Path, only.Class, only.Children
		}
		c.join()
	}
}

// hoist drops the folder that has all there is: its name says nothing where the files have one origin.
func (n *Node) hoist() {
	for len(n.Children) == 1 && len(n.Children[0].Children) > 0 {
		n.Children = n.Children[0].Children
	}
}
