package complete

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
)

// binaryFile is a small ELF file: what ld.so and debug/elf look at, and no code.
type binaryFile struct {
	machine     elf.Machine // 0: amd64's
	interpreter string
	needed      []string
	soname      string
	rpath       string
	runpath     string
	defines     []string    // versions
	wants       [][2]string // library, version
	dlopen      string      // JSON of a .note.dlopen
}

const loader = "/lib64/ld-linux-x86-64.so.2"

// section is one to be written.
type section struct {
	name    string
	kind    elf.SectionType
	link    uint32
	entsize uint64
	data    []byte
}

func (b binaryFile) String() string {
	var strings bytes.Buffer
	strings.WriteByte(0)
	str := func(s string) uint64 {
		defer func() { strings.WriteString(s + "\x00") }()
		return uint64(strings.Len())
	}
	le := binary.LittleEndian
	var dynamic []byte
	tag := func(t elf.DynTag, s string) {
		if s != "" {
			dynamic = le.AppendUint64(le.AppendUint64(dynamic, uint64(t)), str(s))
		}
	}
	for _, n := range b.needed {
		tag(elf.DT_NEEDED, n)
	}
	tag(elf.DT_SONAME, b.soname)
	tag(elf.DT_RPATH, b.rpath)
	tag(elf.DT_RUNPATH, b.runpath)
	dynamic = append(dynamic, make([]byte, 16)...)

	var verdef, verneed []byte
	for i, v := range b.defines {
		next := uint32(28)
		if i+1 == len(b.defines) {
			next = 0
		}
		for _, n := range []uint16{1, 0, uint16(i + 1), 1} {
			verdef = le.AppendUint16(verdef, n)
		}
		for _, n := range []uint32{0, 20, next, uint32(str(v)), 0} {
			verdef = le.AppendUint32(verdef, n)
		}
	}
	for i, w := range b.wants {
		next := uint32(32)
		if i+1 == len(b.wants) {
			next = 0
		}
		verneed = le.AppendUint16(le.AppendUint16(verneed, 1), 1)
		for _, n := range []uint32{uint32(str(w[0])), 16, next, 0} {
			verneed = le.AppendUint32(verneed, n)
		}
		verneed = le.AppendUint16(le.AppendUint16(verneed, 0), uint16(i+2))
		verneed = le.AppendUint32(le.AppendUint32(verneed, uint32(str(w[1]))), 0)
	}
	var note []byte
	if b.dlopen != "" {
		for _, n := range []uint32{4, uint32(len(b.dlopen) + 1), noteDlopen} {
			note = le.AppendUint32(note, n)
		}
		note = append(note, "FDO\x00"+b.dlopen+"\x00\x00\x00\x00"[:1+(4-(len(b.dlopen)+1)%4)%4]...)
	}
	sections := []section{
		{}, // the null section
		{name: ".dynstr", kind: elf.SHT_STRTAB, data: strings.Bytes()},
		{name: ".dynsym", kind: elf.SHT_DYNSYM, link: 1, entsize: 24, data: make([]byte, 48)},
		{name: ".dynamic", kind: elf.SHT_DYNAMIC, link: 1, entsize: 16, data: dynamic},
		{name: ".gnu.version", kind: elf.SHT_GNU_VERSYM, link: 2, entsize: 2, data: make([]byte, 4)},
		{name: ".interp", kind: elf.SHT_PROGBITS, data: []byte(b.interpreter + "\x00")},
	}
	if verdef != nil {
		sections = append(sections, section{name: ".gnu.version_d", kind: elf.SHT_GNU_VERDEF, link: 1, data: verdef})
	}
	if verneed != nil {
		sections = append(sections, section{name: ".gnu.version_r", kind: elf.SHT_GNU_VERNEED, link: 1, data: verneed})
	}
	if note != nil {
		sections = append(sections, section{name: ".note.dlopen", kind: elf.SHT_NOTE, data: note})
	}
	return b.encode(sections)
}

// encode lays out header, one program header, sections and their headers.
func (b binaryFile) encode(sections []section) string {
	le := binary.LittleEndian
	names := []byte{0}
	var body, headers []byte
	const start = 64 + 56
	var interpreter [2]uint64 // where it is, and its size
	sections = append(sections, section{name: ".shstrtab", kind: elf.SHT_STRTAB})
	for i := range sections {
		s := &sections[i]
		name := uint32(len(names))
		names = append(names, s.name+"\x00"...)
		if i == len(sections)-1 {
			s.data = names
		}
		for len(body)%8 != 0 {
			body = append(body, 0)
		}
		at := uint64(start + len(body))
		if s.name == ".interp" {
			interpreter = [2]uint64{at, uint64(len(s.data))}
		}
		body = append(body, s.data...)
		headers = le.AppendUint32(le.AppendUint32(headers, name), uint32(s.kind))
		for _, n := range []uint64{0, 0, at, uint64(len(s.data))} {
			headers = le.AppendUint64(headers, n)
		}
		headers = le.AppendUint32(le.AppendUint32(headers, s.link), 0)
		headers = le.AppendUint64(le.AppendUint64(headers, 8), s.entsize)
	}
	machine := b.machine
	if machine == 0 {
		machine = elf.EM_X86_64
	}
	h := []byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	h = le.AppendUint16(le.AppendUint16(h, uint16(elf.ET_DYN)), uint16(machine))
	h = le.AppendUint32(h, 1)
	for _, n := range []uint64{0, 64, uint64(start + len(body))} {
		h = le.AppendUint64(h, n)
	}
	h = le.AppendUint32(h, 0)
	count := uint16(1)
	if b.interpreter == "" {
		count = 0
	}
	for _, n := range []uint16{64, 56, count, 64, uint16(len(sections)), uint16(len(sections) - 1)} {
		h = le.AppendUint16(h, n)
	}
	p := le.AppendUint32(le.AppendUint32(nil, uint32(elf.PT_INTERP)), 4)
	for _, n := range []uint64{interpreter[0], 0, 0, interpreter[1], interpreter[1], 1} {
		p = le.AppendUint64(p, n)
	}
	if len(h) != 64 || len(p) != 56 {
		panic(fmt.Sprint("headers of ", len(h), " and ", len(p), " bytes"))
	}
	return string(h) + string(p) + string(body) + string(headers)
}
