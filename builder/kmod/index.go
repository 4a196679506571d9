package kmod

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Index is all modules of one kernel, with those that are built into it.
type Index struct {
	modules  []Module       // in the kernel's order (modules.order), those it does not name last
	byName   map[string]int // index in modules
	builtin  map[string]bool
	builtins []string // names, as listed
	aliases  []alias  // of the built-in ones
}

type alias struct{ pattern, module string }

// NewIndex makes an index of modules and the kernel's own lists: modules.order and modules.builtin (paths, one a line),
// modules.builtin.modinfo (module.key=value, each ended by a zero byte). A dependency that is not there is an error that
// names both modules.
func NewIndex(modules []Module, order, builtin, builtinModinfo []byte) (*Index, error) {
	x := &Index{modules: slices.Clone(modules), byName: map[string]int{}, builtin: map[string]bool{}}
	rank := map[string]int{}
	for i, line := range strings.Fields(string(order)) {
		rank[line] = i + 1
	}
	slices.SortFunc(x.modules, func(a, b Module) int {
		ra, rb := rank[PlainName(a.Path)], rank[PlainName(b.Path)]
		if (ra == 0) != (rb == 0) {
			return cmp.Compare(rb, ra) // known ones first
		}
		return cmp.Or(cmp.Compare(ra, rb), cmp.Compare(a.Path, b.Path))
	})
	for i, m := range x.modules {
		if j, dup := x.byName[m.Name]; dup {
			return nil, fmt.Errorf("kernel module %s comes twice: %s and %s", m.Name, x.modules[j].Path, m.Path)
		}
		x.byName[m.Name] = i
	}
	for _, line := range strings.Fields(string(builtin)) {
		x.builtin[Name(line)] = true
		x.builtins = append(x.builtins, Name(line))
	}
	for entry := range bytes.SplitSeq(builtinModinfo, []byte{0}) {
		key, value, _ := strings.Cut(string(entry), "=")
		if name, what, _ := strings.Cut(key, "."); what == "alias" && plainText(value) && value != "" {
			x.aliases = append(x.aliases, alias{value, name})
		}
	}
	return x, x.complete()
}

// complete tells every dependency that is not there.
func (x *Index) complete() error {
	var lacks []error
	for _, m := range x.modules {
		for _, d := range m.Depends {
			if _, ok := x.byName[d]; !ok && !x.builtin[d] {
				lacks = append(lacks, fmt.Errorf("kernel module %s needs %s, which is not there", m.Name, d))
			}
		}
	}
	return errors.Join(lacks...)
}

// IsBuiltin says whether a module is built into the kernel.
func (x *Index) IsBuiltin(name string) bool { return x.builtin[Name(name)] }

// Modules are all modules in the kernel's order.
func (x *Index) Modules() []Module { return slices.Clone(x.modules) }

// needs is what m needs, all the way down, so that a module comes before those it needs itself (modules.dep's order).
func (x *Index) needs(m Module) []Module {
	var order []Module
	seen := map[string]bool{m.Name: true}
	var visit func(Module)
	visit = func(m Module) {
		for _, d := range m.Depends {
			i, ok := x.byName[d]
			if !ok || seen[d] {
				continue
			}
			seen[d] = true
			visit(x.modules[i])
			order = append(order, x.modules[i])
		}
	}
	visit(m)
	slices.Reverse(order)
	return order
}

// Closure is the named modules with all they need: dependencies, and soft dependencies that are there. What is needed
// comes before what needs it. A name may have dashes; a built-in module needs nothing; an unknown one is an error.
func (x *Index) Closure(names []string) ([]Module, error) {
	c := closure{index: x, seen: map[string]bool{}}
	for _, name := range names {
		name = Name(name)
		i, ok := x.byName[name]
		if !ok {
			if x.builtin[name] {
				continue
			}
			return nil, fmt.Errorf("kernel module %s is neither there nor built in", name)
		}
		c.add(x.modules[i])
	}
	return c.modules, nil
}

type closure struct {
	index   *Index
	seen    map[string]bool
	modules []Module
}

func (c *closure) add(m Module) {
	if c.seen[m.Name] {
		return
	}
	c.seen[m.Name] = true
	for _, d := range m.Depends {
		if i, ok := c.index.byName[d]; ok {
			c.add(c.index.modules[i])
		}
	}
	for _, s := range m.Softdeps {
		for _, name := range strings.Fields(s) {
			c.soft(name)
		}
	}
	c.modules = append(c.modules, m)
}

// soft adds what a soft dependency names: a module, else all modules with that alias. "pre:" and "post:" name nothing.
func (c *closure) soft(name string) {
	if i, ok := c.index.byName[Name(name)]; ok {
		c.add(c.index.modules[i])
		return
	}
	if c.index.builtin[Name(name)] {
		return
	}
	for _, m := range c.index.modules {
		if slices.ContainsFunc(m.Aliases, func(a string) bool { return aliasMatches(a, name) }) {
			c.add(m)
		}
	}
}

func aliasMatches(pattern, name string) bool {
	ok, err := path.Match(normalize(pattern), normalize(name))
	return ok && err == nil
}

// normalize is an alias with underscores for dashes outside of brackets, as libkmod compares them.
func normalize(alias string) string {
	depth := 0
	return strings.Map(func(r rune) rune {
		switch {
		case r == '[':
			depth++
		case r == ']':
			depth--
		case r == '-' && depth == 0:
			return '_'
		}
		return r
	}, alias)
}
