// Package modules loads kernel modules the way kmod does, from the text indexes depmod writes: modules.dep,
// modules.alias and modules.softdep. It serves the initramfs, where neither udev nor modprobe exist.
//
// Words: an index is what those files say; a modalias is a device's own description of itself in sysfs; a coldplug loads
// a driver for every device that is already there.
//
// It does not choose modules by policy (no blacklists, no options) and does not watch for devices that come later.
package modules

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// maxIndexFile bounds each index file in bytes; Debian's largest has about 1 MiB.
const maxIndexFile = 32 << 20

// Index is what depmod knows about one kernel's modules. Names have underscores for hyphens, as in the kernel.
type Index struct {
	files   map[string]string   // name -> file, relative to the modules folder
	deps    map[string][]string // name -> names, in the order to load
	aliases map[string][]alias  // text before the first ':' -> aliases
	soft    map[string]soft
	builtin map[string]bool
}

type alias struct{ pattern, module string }

type soft struct{ pre, post []string }

// ReadIndex reads the index of one kernel's modules folder (/lib/modules/RELEASE). modules.dep must be there; the other
// files may be missing.
func ReadIndex(fsys fs.FS) (*Index, error) {
	x := &Index{files: map[string]string{}, deps: map[string][]string{}, aliases: map[string][]alias{}, soft: map[string]soft{}, builtin: map[string]bool{}}
	for _, f := range []struct {
		name string
		line func(string)
	}{
		{"modules.dep", x.addDep},
		{"modules.alias", x.addAlias},
		{"modules.softdep", x.addSoft},
		{"modules.builtin", x.addBuiltin},
	} {
		err := eachLine(fsys, f.name, f.line)
		if errors.Is(err, fs.ErrNotExist) && f.name != "modules.dep" {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read module index: %w", err)
		}
	}
	return x, nil
}

func eachLine(fsys fs.FS, name string, line func(string)) error {
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxIndexFile+1))
	if err != nil {
		return err
	}
	if len(data) > maxIndexFile {
		return fmt.Errorf("%s: over %d bytes", name, maxIndexFile)
	}
	s := bufio.NewScanner(bytes.NewReader(data))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if t := strings.TrimSpace(s.Text()); t != "" && t[0] != '#' {
			line(t)
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// addDep takes "kernel/drivers/net/virtio_net.ko.xz: kernel/net/core/failover.ko.xz ...", where the dependency that must
// be loaded first is the last one.
func (x *Index) addDep(line string) {
	file, rest, ok := strings.Cut(line, ":")
	if !ok {
		return
	}
	name := nameOf(file)
	x.files[name] = file
	for _, d := range slices.Backward(strings.Fields(rest)) {
		x.deps[name] = append(x.deps[name], nameOf(d))
	}
}

// addAlias takes "alias PATTERN MODULE".
func (x *Index) addAlias(line string) {
	f := strings.Fields(line)
	if len(f) != 3 || f[0] != "alias" {
		return
	}
	bus, _, _ := strings.Cut(f[1], ":")
	x.aliases[bus] = append(x.aliases[bus], alias{f[1], canonical(f[2])})
}

// addSoft takes "softdep MODULE pre: A B post: C".
func (x *Index) addSoft(line string) {
	f := strings.Fields(line)
	if len(f) < 2 || f[0] != "softdep" {
		return
	}
	s := x.soft[canonical(f[1])]
	list := (*[]string)(nil)
	for _, w := range f[2:] {
		switch {
		case w == "pre:":
			list = &s.pre
		case w == "post:":
			list = &s.post
		case list != nil:
			*list = append(*list, w) // a module or an alias
		}
	}
	x.soft[canonical(f[1])] = s
}

func (x *Index) addBuiltin(line string) { x.builtin[nameOf(line)] = true }

// Lookup is the modules for a modalias, in the order of the index, each once.
func (x *Index) Lookup(modalias string) []string {
	bus, _, _ := strings.Cut(modalias, ":")
	var names []string
	for _, a := range x.aliases[bus] {
		if !slices.Contains(names, a.module) && match(a.pattern, modalias) {
			names = append(names, a.module)
		}
	}
	return names
}

// nameOf is the module's name for its file: kernel/drivers/net/virtio-net.ko.xz -> virtio_net.
func nameOf(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return canonical(base)
}

func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }
