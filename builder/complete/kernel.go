package complete

import (
	"path"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/kmod"
	"github.com/slipway-os/slipway/builder/rootfs"
)

const firmwareFolder = "usr/lib/firmware"

// checkKernel notes the modules that files ask for by name, and the program with which the kernel asks for more.
func (c *checker) checkKernel() error {
	names := map[string]bool{}
	for _, m := range c.Modules {
		names[m.Name] = true
		for _, a := range m.Aliases {
			names[kmod.Name(a)] = true
		}
	}
	for _, e := range c.files([]string{".conf"}, "etc/modules-load.d", "usr/local/lib/modules-load.d", "usr/lib/modules-load.d") {
		text, err := c.text(e)
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			name := strings.TrimSpace(line)
			if name == "" || name[0] == '#' || name[0] == ';' {
				continue
			}
			v := verdict{}
			if !names[kmod.Name(name)] && !(c.Builtin != nil && c.Builtin(kmod.Name(name))) {
				v = verdict{"is neither in the image nor built into its kernel", "take it back from pruneModules in definition.yaml, or don't load it"}
			}
			c.refer(Module, e, "loads", name, v)
		}
	}
	c.modprobe()
	if err := c.modprobeFiles(); err != nil {
		return err
	}
	return c.kernelPrograms()
}

// kernelPrograms notes programs that the kernel is told to start: of core dumps (core(5), a pattern with |), and interpreters of
// binfmt.d(5).
func (c *checker) kernelPrograms() error {
	each := func(folder string, visit func(e *rootfs.Entry, line string)) error {
		for _, e := range c.files([]string{".conf"}, "etc/"+folder, "usr/local/lib/"+folder, "usr/lib/"+folder) {
			text, err := c.text(e)
			if err != nil {
				return err
			}
			for line := range strings.Lines(text) {
				visit(e, strings.TrimSpace(line))
			}
		}
		return nil
	}
	err := each("sysctl.d", func(e *rootfs.Entry, line string) {
		key, value, _ := strings.Cut(line, "=")
		key = strings.ReplaceAll(strings.TrimLeft(strings.TrimSpace(key), "-"), "/", ".")
		pipe, ok := strings.CutPrefix(strings.TrimSpace(value), "|")
		if words := strings.Fields(pipe); ok && key == "kernel.core_pattern" && len(words) > 0 {
			c.refer(Program, e, "has core dumps taken by", words[0], program(c.Root, words[0], nil))
		}
	})
	if err != nil {
		return err
	}
	return each("binfmt.d", func(e *rootfs.Entry, line string) {
		if line == "" || line[0] == '#' || line[0] == ';' {
			return
		}
		// :name:type:offset:magic:mask:interpreter:flags, the first character being what separates them
		if parts := strings.Split(line, line[:1]); len(parts) > 6 {
			c.refer(Program, e, "has programs run by", parts[6], program(c.Root, parts[6], nil))
		}
	})
}

// modprobe is what the kernel runs to load a module (CONFIG_MODPROBE_PATH).
func (c *checker) modprobe() {
	for line := range strings.Lines(string(c.KernelConfig)) {
		value, ok := strings.CutPrefix(strings.TrimSpace(line), "CONFIG_MODPROBE_PATH=")
		if name := strings.Trim(value, `"`); ok && name != "" {
			from := Reference{Kind: Program, From: "the kernel", How: "loads modules with", To: name}
			c.note(from, program(c.Root, name, nil))
		}
	}
}

// modprobeFiles notes install and remove commands of modprobe.d(5), which need a shell. One that does nothing (/bin/true) fails
// without one, and then does nothing as well.
func (c *checker) modprobeFiles() error {
	for _, e := range c.files([]string{".conf"}, "etc/modprobe.d", "usr/local/lib/modprobe.d", "usr/lib/modprobe.d") {
		text, err := c.text(e)
		if err != nil {
			return err
		}
		for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
			w := strings.Fields(line)
			if len(w) < 3 || w[0] != "install" && w[0] != "remove" || slices.Contains([]string{"true", "false", ":"}, path.Base(w[2])) {
				continue
			}
			c.refer(Program, e, w[0]+" "+w[1]+" needs", "/bin/sh", program(c.Root, "/bin/sh", nil))
		}
	}
	return nil
}

// checkFirmware compares the files that modules may ask for (.modinfo, firmware=) with those there are. What is allowed to be
// missing is allowed by module: a driver is what works or doesn't.
func (c *checker) checkFirmware() error {
	allowed := map[string]Firmware{}
	for _, f := range c.Firmware {
		for _, m := range f.Modules {
			allowed[kmod.Name(m)] = f
		}
	}
	for _, m := range c.Modules {
		r := Reference{Kind: FirmwareFile, From: path.Join(c.ModuleFolder, m.Path), Origin: "kernel module " + m.Name, How: "may ask for"}
		var lacks []string
		for _, r.To = range m.Firmware {
			if c.hasFirmware(r.To) {
				c.note(r, verdict{})
			} else if !slices.Contains(lacks, r.To) {
				lacks = append(lacks, r.To)
			}
		}
		entry, known := allowed[m.Name]
		r.To = strings.Join(lacks, ", ")
		switch r.Reason = entry.Reason; {
		case known && len(lacks) == 0:
			r.How, r.To = "is allowed ("+entry.By+") to lack", "firmware"
			c.faults = append(c.faults, Fault{r, "it has all of, or asks for none", "take " + m.Name + " out of " + entry.By})
		case known:
			c.proof.Absent = append(c.proof.Absent, r)
		case len(lacks) > 0:
			c.note(r, missing("add the package that has it (docs/pipelines.md, \"Cards that need firmware files\"), prune the module, "+
				"or list the module under `firmware` in definition.yaml with the reason"))
		}
	}
	return nil
}

// hasFirmware looks for a file as the kernel does, compressed ones too (CONFIG_FW_LOADER_COMPRESS). A name may have a wildcard for
// what the module fills in.
func (c *checker) hasFirmware(name string) bool {
	p := path.Join(firmwareFolder, name)
	for _, extension := range []string{"", ".xz", ".zst"} {
		if e, ok := c.Root.Resolve(p + extension); ok && e.Type == rootfs.Regular {
			return true
		}
	}
	if !strings.ContainsAny(name, "*?[") {
		return false
	}
	return slices.ContainsFunc(c.in(path.Dir(p)), func(e *rootfs.Entry) bool { return matches(p, e.Path) || matches(p+".*", e.Path) })
}
