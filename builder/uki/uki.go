// Package uki makes unified kernel images: systemd's EFI stub with kernel, initrd, command line and os-release as PE
// sections (UAPI specification "Unified Kernel Image"; systemd-stub(7)).
//
// It knows only as much of PE/COFF (Microsoft, "PE Format") as appending and reading back sections needs: PE32+ images
// without a signature. It reads files from packages, so every length is checked before it is used. It does not sign.
package uki

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// Section is one named section of an image.
type Section struct {
	Name string // at most 8 bytes: .linux
	Data []byte
}

// Image is what goes into a unified kernel image.
type Image struct {
	OSRelease []byte // os-release(5)
	Cmdline   string // kernel command line
	Uname     string // kernel release
	Kernel    []byte // EFI program: bzImage, or arm64's Image
	Initrd    []byte
}

func (i Image) sections() []Section {
	return []Section{
		{".osrel", i.OSRelease},
		{".cmdline", []byte(i.Cmdline)},
		{".uname", []byte(i.Uname)},
		{".initrd", i.Initrd},
		{".linux", i.Kernel}, // last: what a kernel unpacks in place may not reach into another section
	}
}

// Sizes and offsets of PE32+ (Microsoft, "PE Format", sections "COFF File Header", "Optional Header", "Section Table").
const (
	coffSize          = 20
	optionalPE32Plus  = 0x20b
	optionalMin       = 112 // up to the data directories
	sectionHeaderSize = 40
	certificateEntry  = 4 // index of the certificate table among the data directories
	maxSections       = 96

	sectionData = 0x40000040 // initialized data, readable
	sectionCode = 0x40000020 // code, readable
)

// headers is where things are in a PE image, checked to lie inside of it.
type headers struct {
	coff, optional, table int // offsets
	sections              int // number
	fileAlign, memAlign   uint32
	headerSize            uint32
}

// ErrFormat is what errors about an image that cannot be read wrap.
var ErrFormat = errors.New("not a PE32+ image")

func readHeaders(pe []byte) (headers, error) {
	var h headers
	if len(pe) < 64 || pe[0] != 'M' || pe[1] != 'Z' {
		return h, fmt.Errorf("%w: no MZ header", ErrFormat)
	}
	at := int64(binary.LittleEndian.Uint32(pe[60:]))
	if at+4+coffSize+optionalMin > int64(len(pe)) || string(pe[at:at+4]) != "PE\x00\x00" {
		return h, fmt.Errorf("%w: no PE header at byte %d", ErrFormat, at)
	}
	h.coff = int(at) + 4
	h.optional = h.coff + coffSize
	h.sections = int(binary.LittleEndian.Uint16(pe[h.coff+2:]))
	size := int(binary.LittleEndian.Uint16(pe[h.coff+16:]))
	h.table = h.optional + size
	if binary.LittleEndian.Uint16(pe[h.optional:]) != optionalPE32Plus || size < optionalMin {
		return h, fmt.Errorf("%w: its optional header is of another kind", ErrFormat)
	}
	if h.sections > maxSections || h.table+h.sections*sectionHeaderSize > len(pe) {
		return h, fmt.Errorf("%w: a table of %d sections does not fit", ErrFormat, h.sections)
	}
	h.memAlign = binary.LittleEndian.Uint32(pe[h.optional+32:])
	h.fileAlign = binary.LittleEndian.Uint32(pe[h.optional+36:])
	h.headerSize = binary.LittleEndian.Uint32(pe[h.optional+60:])
	if !alignment(h.memAlign) || !alignment(h.fileAlign) || int64(h.headerSize) > int64(len(pe)) {
		return h, fmt.Errorf("%w: alignment %d and %d, header size %d", ErrFormat, h.memAlign, h.fileAlign, h.headerSize)
	}
	return h, nil
}

// alignment says whether n is a power of two up to 64 KiB, as PE demands.
func alignment(n uint32) bool { return n > 0 && n <= 64<<10 && n&(n-1) == 0 }

func align(n uint64, to uint32) uint64 { return (n + uint64(to) - 1) &^ (uint64(to) - 1) }

// Build appends an image's parts to systemd's EFI stub (linuxx64.efi.stub, linuxaa64.efi.stub). Equal arguments give equal bytes.
func Build(stub []byte, image Image) ([]byte, error) {
	out, err := Append(stub, image.sections())
	if err != nil {
		return nil, fmt.Errorf("cannot make unified kernel image: %w", err)
	}
	return out, nil
}

// Append is a PE image with more sections. The header must have room for them, and none may be there already.
func Append(pe []byte, add []Section) ([]byte, error) {
	h, err := readHeaders(pe)
	if err != nil {
		return nil, err
	}
	if err := h.check(pe, add); err != nil {
		return nil, err
	}
	size := uint64(len(pe))
	for _, s := range add {
		size = align(size, h.fileAlign) + uint64(len(s.Data))
	}
	if size = align(size, h.fileAlign); size > math.MaxInt32 {
		return nil, fmt.Errorf("an image of %d bytes is over the limit of %d", size, math.MaxInt32)
	}
	out := make([]byte, size)
	copy(out, pe)
	at, memory, data := uint64(len(pe)), h.end(pe), uint64(binary.LittleEndian.Uint32(pe[h.optional+8:]))
	for i, s := range add {
		at, memory = align(at, h.fileAlign), align(memory, h.memAlign)
		raw := align(uint64(len(s.Data)), h.fileAlign)
		writeSection(out[h.table+(h.sections+i)*sectionHeaderSize:], s, uint32(memory), uint32(at), uint32(raw))
		copy(out[at:], s.Data)
		at, memory, data = at+raw, memory+uint64(len(s.Data)), data+raw
	}
	if align(memory, h.memAlign) > math.MaxUint32 {
		return nil, fmt.Errorf("%w: sections reach over 4 GiB of addresses", ErrFormat)
	}
	binary.LittleEndian.PutUint16(out[h.coff+2:], uint16(h.sections+len(add)))
	binary.LittleEndian.PutUint32(out[h.optional+8:], uint32(data))
	binary.LittleEndian.PutUint32(out[h.optional+56:], uint32(align(memory, h.memAlign))) // SizeOfImage
	binary.LittleEndian.PutUint32(out[h.optional+64:], 0)                                 // CheckSum: firmware ignores it
	return out, nil
}

func (h headers) check(pe []byte, add []Section) error {
	end := h.table + (h.sections+len(add))*sectionHeaderSize
	if end > int(h.headerSize) || h.sections+len(add) > maxSections {
		return fmt.Errorf("no room for %d more sections in the PE header", len(add))
	}
	if h.signed(pe) {
		return errors.New("the stub is signed; more sections would break the signature")
	}
	have, err := Read(pe)
	if err != nil {
		return err
	}
	names := map[string]bool{}
	for _, s := range have {
		names[s.Name] = true
	}
	for _, s := range add {
		switch {
		case s.Name == "" || len(s.Name) > 8:
			return fmt.Errorf("section name %q has not 1 to 8 bytes", s.Name)
		case names[s.Name]:
			return fmt.Errorf("section %s is there already", s.Name)
		case len(s.Data) == 0:
			return fmt.Errorf("section %s is empty", s.Name)
		}
		names[s.Name] = true
	}
	return nil
}

func (h headers) signed(pe []byte) bool {
	entries := binary.LittleEndian.Uint32(pe[h.optional+108:])
	at := h.optional + optionalMin + certificateEntry*8
	return entries > certificateEntry && at+8 <= h.table && binary.LittleEndian.Uint64(pe[at:]) != 0
}

// end is the first address after all sections.
func (h headers) end(pe []byte) uint64 {
	end := uint64(h.headerSize)
	for i := range h.sections {
		s := pe[h.table+i*sectionHeaderSize:]
		size := max(binary.LittleEndian.Uint32(s[8:]), binary.LittleEndian.Uint32(s[16:]))
		end = max(end, uint64(binary.LittleEndian.Uint32(s[12:]))+uint64(size))
	}
	return end
}

func writeSection(header []byte, s Section, memory, file, raw uint32) {
	copy(header[:8], s.Name)
	binary.LittleEndian.PutUint32(header[8:], uint32(len(s.Data)))
	binary.LittleEndian.PutUint32(header[12:], memory)
	binary.LittleEndian.PutUint32(header[16:], raw)
	binary.LittleEndian.PutUint32(header[20:], file)
	kind := uint32(sectionData)
	if s.Name == ".linux" {
		kind = sectionCode
	}
	binary.LittleEndian.PutUint32(header[36:], kind)
}

// Machine is the architecture, by Go's name, that a PE image is for ("PE Format", section "Machine Types").
func Machine(pe []byte) (string, error) {
	h, err := readHeaders(pe)
	if err != nil {
		return "", err
	}
	switch m := binary.LittleEndian.Uint16(pe[h.coff:]); m {
	case 0x8664:
		return "amd64", nil
	case 0xaa64:
		return "arm64", nil
	default:
		return "", fmt.Errorf("%w of a known machine: its type is %#x", ErrFormat, m)
	}
}

// Read is the sections of a PE image, without their padding. Their data are parts of pe.
func Read(pe []byte) ([]Section, error) {
	parts, err := locate(pe, int64(len(pe)))
	if err != nil {
		return nil, err
	}
	var found []Section
	for _, p := range parts {
		found = append(found, Section{Name: p.Name, Data: pe[p.At : p.At+p.Size : p.At+p.Size]})
	}
	return found, nil
}

// Part is where a section's bytes lie in a file.
type Part struct {
	Name     string
	At, Size int64 // bytes
}

// maxHeaders bounds what is read of a file to find its sections, in bytes.
const maxHeaders = 64 << 10

// Locate finds the sections of an image file of size bytes, without their padding.
func Locate(r io.ReaderAt, size int64) ([]Part, error) {
	head := make([]byte, min(size, maxHeaders))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return nil, fmt.Errorf("cannot read image: %w", err)
	}
	return locate(head, size)
}

// locate finds the sections of an image by its beginning.
func locate(pe []byte, total int64) ([]Part, error) {
	h, err := readHeaders(pe)
	if err != nil {
		return nil, err
	}
	var found []Part
	for i := range h.sections {
		s := pe[h.table+i*sectionHeaderSize:]
		name := strings.TrimRight(string(s[:8]), "\x00")
		size := int64(min(binary.LittleEndian.Uint32(s[8:]), binary.LittleEndian.Uint32(s[16:])))
		at := int64(binary.LittleEndian.Uint32(s[20:]))
		if at+size > total {
			return nil, fmt.Errorf("%w: section %q of %d bytes at %d is cut off at %d", ErrFormat, name, size, at, total)
		}
		found = append(found, Part{Name: name, At: at, Size: size})
	}
	return found, nil
}
