package complete

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// machines are the ELF machines of architectures, by Go's names.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// object is an ELF file: a program or a shared library.
type object struct {
	entry       *rootfs.Entry
	interpreter string // empty: none
	soname      string
	needed      []string // DT_NEEDED, in order
	rpath       []string // DT_RPATH; nil where there is a DT_RUNPATH too
	runpath     []string
	versions    map[string]bool // that it defines
	wants       []elf.DynamicVersionNeed
	dlopens     []string // sonames that it can't do without, by its .note.dlopen
}

// ours says whether an ELF file is for the image's processor, and notes that. BPF programs are for the kernel.
func (l *linker) ours(e *rootfs.Entry, start []byte) bool {
	if len(start) < 20 {
		return false
	}
	machine := elf.Machine(uint16(start[18]) | uint16(start[19])<<8)
	if start[elf.EI_DATA] == byte(elf.ELFDATA2MSB) {
		machine = elf.Machine(uint16(start[19]) | uint16(start[18])<<8)
	}
	if machine == elf.EM_BPF {
		return false
	}
	v := verdict{}
	if machine != machines[l.check.Arch] || start[elf.EI_CLASS] != byte(elf.ELFCLASS64) {
		v = verdict{"the image's processors (" + l.check.Arch + ") don't run", "it came with a package or component of another architecture: replace that, or exclude the file"}
	}
	l.note(Processor, e, "is a program or library for", fmt.Sprint(machine), v)
	return v.ok()
}

// read reads what an ELF file needs.
func (l *linker) read(e *rootfs.Entry) error {
	r, closer, err := readerAt(e)
	if err != nil {
		return err
	}
	defer closer.Close()
	f, err := elf.NewFile(r)
	if err != nil {
		return fmt.Errorf("cannot read %s of %s: %w", e.Path, e.Origin, err)
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return nil
	}
	o := &object{entry: e, versions: map[string]bool{}}
	if err := o.fill(f); err != nil {
		return fmt.Errorf("cannot read %s of %s: %w", e.Path, e.Origin, err)
	}
	l.objects[e.Path] = o
	l.order = append(l.order, o)
	return nil
}

func (o *object) fill(f *elf.File) (err error) {
	if o.interpreter, err = interpreter(f); err != nil {
		return err
	}
	if o.needed, err = f.DynString(elf.DT_NEEDED); err != nil {
		return err
	}
	if o.rpath, err = searched(f, elf.DT_RPATH); err != nil {
		return err
	}
	if o.runpath, err = searched(f, elf.DT_RUNPATH); err != nil {
		return err
	}
	if len(o.runpath) > 0 {
		o.rpath = nil // as ld.so(8) says
	}
	names, err := f.DynString(elf.DT_SONAME)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		o.soname = names[0]
	}
	// A file without versions is none to complain about: debug/elf's error says only that.
	defined, _ := f.DynamicVersions()
	for _, v := range defined {
		o.versions[v.Name] = true
	}
	o.wants, _ = f.DynamicVersionNeeds()
	o.dlopens, err = dlopens(f)
	return err
}

func interpreter(f *elf.File) (string, error) {
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		if p.Filesz > 4096 {
			return "", fmt.Errorf("its interpreter's name has %d bytes", p.Filesz)
		}
		name := make([]byte, p.Filesz)
		if _, err := p.ReadAt(name, 0); err != nil && err != io.EOF {
			return "", fmt.Errorf("its interpreter's name: %w", err)
		}
		return string(bytes.TrimRight(name, "\x00")), nil
	}
	return "", nil
}

// searched is a list of folders, separated by colons or semicolons (ld.so(8)).
func searched(f *elf.File, tag elf.DynTag) ([]string, error) {
	values, err := f.DynString(tag)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, v := range values {
		list = append(list, strings.FieldsFunc(v, func(r rune) bool { return r == ':' || r == ';' })...)
	}
	return list, nil
}

// noteDlopen is the type of the notes in which systemd and others say what they load when it is there
// (https://systemd.io/ELF_DLOPEN_METADATA/): JSON, an array of features.
const noteDlopen = 0x407c0c0a

// dlopens are the libraries that a file loads by itself and requires. What it only recommends or suggests it can do without.
func dlopens(f *elf.File) ([]string, error) {
	s := f.Section(".note.dlopen")
	if s == nil || s.Type != elf.SHT_NOTE || s.Size > 1<<20 {
		return nil, nil
	}
	data, err := s.Data()
	if err != nil {
		return nil, err
	}
	var required []string
	pad := func(n uint32) int { return int(n+3) &^ 3 }
	for len(data) >= 12 {
		name, size, kind := f.ByteOrder.Uint32(data), f.ByteOrder.Uint32(data[4:]), f.ByteOrder.Uint32(data[8:])
		data = data[12:]
		if name > 256 || size > 1<<20 || pad(name)+int(size) > len(data) {
			return nil, fmt.Errorf("its notes (.note.dlopen) are longer than their section")
		}
		text := data[pad(name) : pad(name)+int(size)]
		data = data[min(pad(name)+pad(size), len(data)):]
		if kind != noteDlopen {
			continue
		}
		var features []struct {
			Priority string
			Soname   []string
		}
		if err := json.Unmarshal(bytes.TrimRight(text, "\x00"), &features); err != nil {
			return nil, fmt.Errorf("its notes (.note.dlopen): %w", err)
		}
		for _, x := range features {
			if x.Priority == "required" && len(x.Soname) > 0 {
				required = append(required, x.Soname[0])
			}
		}
	}
	return required, nil
}

// folder is where an object lies once links are followed, which is what $ORIGIN stands for.
func (o *object) folder() string { return path.Dir("/" + o.entry.Path) }
