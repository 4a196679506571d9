package complete

import (
	"bytes"
	"debug/elf"
	"path"
	"strings"

	"github.com/slipway-os/slipway/builder/kmod"
	"github.com/slipway-os/slipway/builder/rootfs"
)

// checkPrograms looks into every file of every tree: ELF files and scripts.
func (c *checker) checkPrograms() error {
	for _, p := range c.places() {
		l := newLinker(c, p)
		for _, e := range p.tree.All() {
			if e.Type != rootfs.Regular || e.Content.Size < 4 || strings.HasPrefix(e.Path, firmwareFolder+"/") {
				continue // firmware is for other processors
			}
			start, err := head(e, maxShebang)
			if err != nil {
				return err
			}
			switch {
			case bytes.HasPrefix(start, []byte(elf.ELFMAG)):
				if !l.ours(e, start) || kmod.IsModule(e.Path) {
					continue
				}
				if err := l.read(e); err != nil {
					return err
				}
			case bytes.HasPrefix(start, []byte("#!")) && e.Mode&0o111 != 0: // the kernel asks for permission first
				c.script(p, e, start)
			}
		}
		l.link()
	}
	return nil
}

// maxShebang is how much of a script's first line the kernel reads (BINPRM_BUF_SIZE, include/uapi/linux/binfmts.h).
const maxShebang = 256

// script notes a script's interpreter: #!INTERPRETER [ARGUMENT], the argument being the rest of the line. env's argument is a
// program too.
func (c *checker) script(p place, e *rootfs.Entry, start []byte) {
	line, _, _ := strings.Cut(string(start[2:]), "\n")
	line = strings.Trim(line, " \t\r\x00")
	interpreter, argument, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
	note := func(to string, v verdict) {
		c.note(Reference{Kind: Interpreter, Where: p.name, From: e.Path, Origin: e.Origin, How: "is a script for", To: to}, v)
	}
	if !strings.HasPrefix(interpreter, "/") {
		note(interpreter, verdict{"is no absolute path", advice})
		return
	}
	note(interpreter, program(p.tree, interpreter, nil))
	if name := envArgument(argument); path.Base(interpreter) == "env" && name != "" {
		note(name, program(p.tree, name, searchPath))
	}
}

// envArgument is the program that env(1) is told to run. Without -S it gets the rest of the line as one word.
func envArgument(argument string) string {
	argument = strings.TrimSpace(argument)
	rest, split := strings.CutPrefix(argument, "-S")
	if !split {
		rest, split = strings.CutPrefix(argument, "--split-string=")
	}
	if !split {
		return argument
	}
	for _, word := range strings.Fields(rest) {
		if !strings.HasPrefix(word, "-") && !strings.Contains(word, "=") {
			return strings.Trim(word, `"'`)
		}
	}
	return ""
}
