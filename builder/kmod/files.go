package kmod

import (
	"bytes"
	"fmt"
	"strings"
)

// TextFiles are the text indexes by file name: modules.dep, modules.alias, modules.softdep, modules.devname.
func (x *Index) TextFiles() map[string][]byte {
	return map[string][]byte{
		"modules.dep":     x.dep(),
		"modules.alias":   x.alias(),
		"modules.softdep": x.softdep(),
		"modules.devname": x.devname(),
	}
}

// Files are all indexes that libkmod reads, by file name: TextFiles and the binary ones. modules.symbols.bin is empty:
// nothing in an image looks modules up by the symbols they export.
func (x *Index) Files() map[string][]byte {
	files := x.TextFiles()
	var dep, aliases, builtin, builtinAliases trie
	for i, m := range x.modules {
		dep.add(m.Name, x.depLine(m), i)
		for _, a := range m.Aliases {
			aliases.add(normalize(a), m.Name, i)
		}
	}
	for _, name := range x.builtins {
		builtin.add(name, "", 0)
	}
	for _, a := range x.aliases {
		builtinAliases.add(normalize(a.pattern), a.module, 0)
	}
	files["modules.dep.bin"] = dep.encode()
	files["modules.alias.bin"] = aliases.encode()
	files["modules.builtin.bin"] = builtin.encode()
	files["modules.builtin.alias.bin"] = builtinAliases.encode()
	files["modules.symbols.bin"] = new(trie).encode()
	return files
}

func (x *Index) depLine(m Module) string {
	var b strings.Builder
	b.WriteString(m.Path + ":")
	for _, d := range x.needs(m) {
		b.WriteString(" " + d.Path)
	}
	return b.String()
}

func (x *Index) dep() []byte {
	var b bytes.Buffer
	for _, m := range x.modules {
		b.WriteString(x.depLine(m) + "\n")
	}
	return b.Bytes()
}

func (x *Index) alias() []byte {
	var b bytes.Buffer
	b.WriteString("# Aliases extracted from modules themselves.\n")
	for _, m := range x.modules {
		for _, a := range m.Aliases {
			fmt.Fprintf(&b, "alias %s %s\n", a, m.Name)
		}
	}
	return b.Bytes()
}

func (x *Index) softdep() []byte {
	var b bytes.Buffer
	b.WriteString("# Soft dependencies extracted from modules themselves.\n")
	for _, m := range x.modules {
		for _, s := range m.Softdeps {
			fmt.Fprintf(&b, "softdep %s %s\n", m.Name, s)
		}
	}
	return b.Bytes()
}

// devname lists device nodes that load a module when they are opened: name, node, type with numbers (aliases
// "devname:net/tun" and "char-major-10-200" of one module).
func (x *Index) devname() []byte {
	var b bytes.Buffer
	b.WriteString("# Device nodes to trigger on-demand module loading.\n")
	for _, m := range x.modules {
		var node, device string
		for _, a := range m.Aliases {
			var major, minor uint32
			if n, ok := strings.CutPrefix(a, "devname:"); ok {
				node = n
			} else if n, _ := fmt.Sscanf(a, "char-major-%d-%d", &major, &minor); n == 2 {
				device = fmt.Sprintf("c%d:%d", major, minor)
			} else if n, _ := fmt.Sscanf(a, "block-major-%d-%d", &major, &minor); n == 2 {
				device = fmt.Sprintf("b%d:%d", major, minor)
			}
		}
		if node != "" && device != "" {
			fmt.Fprintf(&b, "%s %s %s\n", m.Name, node, device)
		}
	}
	return b.Bytes()
}
