package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// stub is a PE32+ image as systemd's stub is one: alignment 512 and 4096, room for more section headers.
func stub(sections int) []byte {
	const headerSize, optional = 0x600, 64 + 4 + coffSize
	b := make([]byte, headerSize+sections*512)
	copy(b, "MZ")
	binary.LittleEndian.PutUint32(b[60:], 64)
	copy(b[64:], "PE\x00\x00")
	binary.LittleEndian.PutUint16(b[68:], 0x8664)
	binary.LittleEndian.PutUint16(b[70:], uint16(sections))
	binary.LittleEndian.PutUint16(b[84:], 240)
	binary.LittleEndian.PutUint16(b[optional:], optionalPE32Plus)
	binary.LittleEndian.PutUint32(b[optional+32:], 4096)
	binary.LittleEndian.PutUint32(b[optional+36:], 512)
	binary.LittleEndian.PutUint32(b[optional+56:], uint32(4096*(sections+1)))
	binary.LittleEndian.PutUint32(b[optional+60:], headerSize)
	binary.LittleEndian.PutUint32(b[optional+108:], 16)
	for i := range sections {
		h := b[optional+240+i*sectionHeaderSize:]
		copy(h, ".text"+string(rune('a'+i)))
		binary.LittleEndian.PutUint32(h[8:], 300)
		binary.LittleEndian.PutUint32(h[12:], uint32(4096*(i+1)))
		binary.LittleEndian.PutUint32(h[16:], 512)
		binary.LittleEndian.PutUint32(h[20:], uint32(headerSize+512*i))
		copy(b[headerSize+512*i:], "code")
	}
	return b
}

func sample() Image {
	return Image{OSRelease: []byte("ID=slipway\n"), Cmdline: "quiet", Uname: "6.12.1", Kernel: bytes.Repeat([]byte("K"), 5000), Initrd: bytes.Repeat([]byte("I"), 513)}
}

func TestBuildReadsBack(t *testing.T) {
	out, err := Build(stub(2), sample())
	if err != nil {
		t.Fatal(err)
	}
	sections, err := Read(out)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range sections {
		got[s.Name] = string(s.Data)
	}
	want := sample()
	if got[".osrel"] != string(want.OSRelease) || got[".cmdline"] != "quiet" || got[".uname"] != "6.12.1" ||
		got[".linux"] != string(want.Kernel) || got[".initrd"] != string(want.Initrd) || !strings.HasPrefix(got[".texta"], "code") {
		t.Errorf("sections %v", got)
	}
	again, err := Build(stub(2), sample())
	if err != nil || !bytes.Equal(again, out) {
		t.Errorf("a second build differs (%v)", err)
	}
}

// TestLayout checks with Go's own PE reader what a loader relies on: alignment, order, no overlap, size of image.
func TestLayout(t *testing.T) {
	out, err := Build(stub(3), sample())
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	memory, file := uint32(0x600), uint32(0x600)
	for _, s := range f.Sections {
		if s.VirtualAddress%4096 != 0 || s.Offset%512 != 0 || s.Size%512 != 0 {
			t.Errorf("%s is not aligned: %+v", s.Name, s.SectionHeader)
		}
		if s.VirtualAddress < memory || s.Offset < file || int(s.Offset+s.Size) > len(out) {
			t.Errorf("%s overlaps or is cut: %+v", s.Name, s.SectionHeader)
		}
		memory, file = s.VirtualAddress+s.VirtualSize, s.Offset+s.Size
	}
	if size := f.OptionalHeader.(*pe.OptionalHeader64).SizeOfImage; size < memory || size%4096 != 0 {
		t.Errorf("SizeOfImage %d, sections end at %d", size, memory)
	}
}

func TestRefusals(t *testing.T) {
	signed := stub(1)
	binary.LittleEndian.PutUint32(signed[64+4+coffSize+optionalMin+certificateEntry*8:], 4096)
	two, err := Build(stub(1), sample())
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "text": []byte(strings.Repeat("hello", 100)), "cut header": stub(1)[:100], "cut section": stub(2)[:0x650],
		"signed": signed, "full header": stub(30), "a UKI already": two,
	} {
		if _, err := Build(bad, sample()); err == nil {
			t.Errorf("%s was taken as a stub", name)
		}
	}
	for _, s := range [][]Section{{{"", []byte("x")}}, {{".muchtoolong", []byte("x")}}, {{".a", nil}}, {{".a", []byte("x")}, {".a", []byte("y")}}} {
		if _, err := Append(stub(1), s); err == nil {
			t.Errorf("%v was appended", s)
		}
	}
	if _, err := Read([]byte("MZ")); !errors.Is(err, ErrFormat) {
		t.Errorf("got %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(stub(0))
	f.Add(stub(3))
	whole, err := Build(stub(2), sample())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := Read(data); err != nil {
			return
		}
		out, err := Append(data, []Section{{".added", []byte("data")}})
		if err != nil {
			return
		}
		sections, err := Read(out)
		if err != nil {
			t.Fatalf("what Append wrote cannot be read: %v", err)
		}
		if last := sections[len(sections)-1]; last.Name != ".added" || string(last.Data) != "data" {
			t.Fatalf("the last section is %q with %q", last.Name, last.Data)
		}
	})
}
