package component

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

func readAll(r io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(r, 1<<20)) }

// program is an ELF file with one segment.
func program(t *testing.T, machine elf.Machine, kind elf.Type, segment elf.ProgType, content string) string {
	t.Helper()
	const headers = 64 + 56 // ELF-64 file header and one program header
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(kind), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	load := elf.Prog64{Type: uint32(segment), Off: headers, Filesz: uint64(len(content))}
	var file bytes.Buffer
	for _, part := range []any{header, load, []byte(content)} {
		if err := binary.Write(&file, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(name, file.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestCheckStaticRefuses(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ file, want string }{
		"script":     {text, "not an ELF binary"},
		"other arch": {program(t, elf.EM_AARCH64, elf.ET_EXEC, elf.PT_LOAD, "x"), "wrong architecture: it is for EM_AARCH64, not for amd64"},
		"object":     {program(t, elf.EM_X86_64, elf.ET_REL, elf.PT_LOAD, "x"), "not a program"},
		"loader":     {program(t, elf.EM_X86_64, elf.ET_DYN, elf.PT_INTERP, "/lib64/ld.so\x00"), "the dynamic loader /lib64/ld.so"},
		"not Go":     {program(t, elf.EM_X86_64, elf.ET_EXEC, elf.PT_LOAD, "x"), "not made by Go"},
	} {
		t.Run(name, func(t *testing.T) { wantFault(t, checkStatic(c.file, "amd64"), c.want) })
	}
}

const cgoSpec = `apiVersion: slipway.dev/v1alpha1
kind: Component
metadata: {name: mixed}
version: v1
builds:
  - package: .
    output: /usr/bin/mixed
    cgo: true
    ldflags: [FLAGS]
hostLibraries: {LIBRARY: some-dev}
`

// mixed is a component of Go and C.
func mixed(ldflags, library string) files {
	spec := bytes.ReplaceAll([]byte(cgoSpec), []byte("FLAGS"), []byte(ldflags))
	spec = bytes.ReplaceAll(spec, []byte("LIBRARY"), []byte(library))
	return files{
		"components/mixed/component.yaml": string(spec),
		"components/mixed/go.mod":         "module example.com/mixed\n\ngo 1.26.0\n",
		"components/mixed/main.go": "package main\n\n// int seven(void) { return 7; }\nimport \"C\"\n\n" +
			"func main() { println(int(C.seven())) }\n",
	}
}

func TestCGO(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("gcc is not installed")
	}
	t.Run("static, and the same bytes twice", func(t *testing.T) {
		first := newBench(t, mixed("", "libm.a")).build("mixed")
		said, err := exec.Command(first.Files[0].Source).CombinedOutput()
		if err != nil || string(said) != "7\n" {
			t.Errorf("program says %q (%v)", said, err)
		}
		t.Setenv("TMPDIR", t.TempDir())
		again := newBench(t, mixed("", "libm.a")).build("mixed")
		if again.Files[0].SHA256 != first.Files[0].SHA256 {
			t.Errorf("digests are %s and %s", first.Files[0].SHA256, again.Files[0].SHA256)
		}
	})
	t.Run("dynamic is refused", func(t *testing.T) {
		_, err := newBench(t, mixed("-extldflags=-rdynamic", "libm.a")).try(t.Context(), "mixed", runtime.GOARCH)
		wantFault(t, err, "not static: it asks for the dynamic loader", "component mixed")
	})
	t.Run("a missing library names its package", func(t *testing.T) {
		_, err := newBench(t, mixed("", "libnotthere.a")).try(t.Context(), "mixed", runtime.GOARCH)
		wantFault(t, err, "libnotthere.a is missing (Debian package some-dev)")
	})
	t.Run("a missing compiler names its package", func(t *testing.T) {
		tools := t.TempDir()
		tool, err := exec.LookPath("go")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(tool, filepath.Join(tools, "go")); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", tools)
		_, err = newBench(t, mixed("", "libm.a")).try(t.Context(), "mixed", runtime.GOARCH)
		wantFault(t, err, "gcc is missing (Debian package gcc)")
	})
}
