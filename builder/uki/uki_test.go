package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/internal/fixture"
)

func sample() Image {
	return Image{OSRelease: []byte("ID=slipway\n"), Cmdline: "quiet", Uname: "6.12.1", Kernel: bytes.Repeat([]byte("K"), 5000), Initrd: bytes.Repeat([]byte("I"), 513)}
}

func TestBuildReadsBack(t *testing.T) {
	out, err := Build(fixture.Stub(2), sample())
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
	again, err := Build(fixture.Stub(2), sample())
	if err != nil || !bytes.Equal(again, out) {
		t.Errorf("a second build differs (%v)", err)
	}
}

// TestLayout checks with Go's own PE reader what a loader relies on: alignment, order, no overlap, size of image.
func TestLayout(t *testing.T) {
	out, err := Build(fixture.Stub(3), sample())
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
	signed := fixture.Stub(1)
	binary.LittleEndian.PutUint32(signed[64+4+coffSize+optionalMin+certificateEntry*8:], 4096)
	two, err := Build(fixture.Stub(1), sample())
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "text": []byte(strings.Repeat("hello", 100)), "cut header": fixture.Stub(1)[:100], "cut section": fixture.Stub(2)[:0x650],
		"signed": signed, "full header": fixture.Stub(30), "a UKI already": two,
	} {
		if _, err := Build(bad, sample()); err == nil {
			t.Errorf("%s was taken as a stub", name)
		}
	}
	for _, s := range [][]Section{{{"", []byte("x")}}, {{".muchtoolong", []byte("x")}}, {{".a", nil}}, {{".a", []byte("x")}, {".a", []byte("y")}}} {
		if _, err := Append(fixture.Stub(1), s); err == nil {
			t.Errorf("%v was appended", s)
		}
	}
	if _, err := Read([]byte("MZ")); !errors.Is(err, ErrFormat) {
		t.Errorf("got %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(fixture.Stub(0))
	f.Add(fixture.Stub(3))
	whole, err := Build(fixture.Stub(2), sample())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, data []byte) {
		have, err := Read(data)
		parts, also := Locate(bytes.NewReader(data), int64(len(data)))
		if (err == nil) != (also == nil) && len(data) <= maxHeaders {
			t.Fatalf("Read says %v, Locate %v", err, also)
		}
		if err != nil {
			return
		}
		for i, p := range parts {
			if !bytes.Equal(data[p.At:p.At+p.Size], have[i].Data) {
				t.Fatalf("section %s is located elsewhere", p.Name)
			}
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
