// Package kmod knows kernel modules: what a module file says of itself (.modinfo), which modules another one needs, and
// the indexes that depmod(8) would write for them (modules.dep(5)), text and binary.
//
// Words: a module's name has underscores where its file's name may have dashes; an alias is a pattern that names a
// module by what it drives; a soft dependency (softdep) is loaded before or after a module, if it is there.
//
// It works on bytes and paths of an image that is being made. Loading modules is the agent's (agent/modules).
package kmod

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/slipway-os/slipway/builder/unxz"
)

// Module is a module file's own words.
type Module struct {
	Path     string // below the modules folder: kernel/fs/ext4/ext4.ko
	Name     string // ext4
	Depends  []string
	Aliases  []string
	Softdeps []string // as written: pre: crc32c post: x
	Firmware []string // files below /lib/firmware that it may ask for: bnx2x/bnx2x-e2-7.13.15.0.fw
}

// Bounds: the largest module of Debian 13 has 10 MiB, the longest .modinfo 60 KiB.
const (
	maxModule  = 256 << 20
	maxModinfo = 4 << 20
)

// Name is the module name of a file or module name: snd_hda_intel for kernel/sound/snd-hda-intel.ko.xz.
func Name(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// PlainName is the name that Plain's result should have: without .xz, .zst or .gz.
func PlainName(file string) string {
	if i := strings.LastIndex(file, ".ko."); i >= 0 {
		return file[:i+len(".ko")]
	}
	return file
}

// IsModule says whether a path is one of a module file.
func IsModule(file string) bool { return strings.HasSuffix(PlainName(file), ".ko") }

// Plain is a module file without compression, by the extension of its name. A signature at its end stays.
func Plain(file string, content io.Reader) ([]byte, error) {
	var r io.Reader
	var err error
	switch path.Ext(file) {
	case ".xz":
		var end func()
		if r, end, err = unxz.NewReader(content); err == nil {
			defer end()
		}
	case ".gz":
		r, err = gzip.NewReader(content)
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(content, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(128<<20)); err == nil {
			defer z.Close()
		}
		r = z
	default:
		r = content
	}
	if err != nil {
		return nil, fmt.Errorf("cannot unpack kernel module %s: %w", file, err)
	}
	data, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("cannot unpack kernel module %s: %w", file, err)
	}
	if len(data) > maxModule {
		return nil, fmt.Errorf("cannot unpack kernel module %s: more than %d bytes", file, maxModule)
	}
	return data, nil
}

// Packed is a module file as a package has it.
type Packed struct {
	File string // its name says how it is compressed
	Data []byte
}

// PlainAll is Plain for many files, which takes far less than one by one.
func PlainAll(files []Packed) ([][]byte, error) {
	streams := make([][]byte, len(files))
	together := true
	for i, f := range files {
		streams[i], together = f.Data, together && path.Ext(f.File) == ".xz"
	}
	if together {
		if plain, err := unxz.Together(streams, maxModule); err == nil {
			return plain, nil
		}
	}
	plain := make([][]byte, len(files)) // one by one, which names the file that is at fault
	for i, f := range files {
		var err error
		if plain[i], err = Plain(f.File, bytes.NewReader(f.Data)); err != nil {
			return nil, err
		}
	}
	return plain, nil
}

// Read reads the .modinfo of an uncompressed module. The file is its path below the modules folder.
func Read(file string, content io.ReaderAt) (Module, error) {
	info, err := modinfo(content)
	if err != nil {
		return Module{}, fmt.Errorf("cannot read kernel module %s: %w", file, err)
	}
	m := Module{Path: file, Name: Name(file)}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		key, value, ok := strings.Cut(string(entry), "=")
		if !ok || value == "" || !plainText(value) {
			continue
		}
		switch key {
		case "depends":
			for d := range strings.SplitSeq(value, ",") {
				m.Depends = append(m.Depends, Name(d))
			}
		case "alias":
			m.Aliases = append(m.Aliases, value)
		case "softdep":
			m.Softdeps = append(m.Softdeps, value)
		case "firmware":
			m.Firmware = append(m.Firmware, value)
		}
	}
	return m, nil
}

// plainText says whether a value can stand on a line of an index.
func plainText(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

func modinfo(content io.ReaderAt) ([]byte, error) {
	f, err := elf.NewFile(content)
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil || s.Type == elf.SHT_NOBITS {
		return nil, errors.New("it has no .modinfo")
	}
	if s.Size > maxModinfo {
		return nil, fmt.Errorf("its .modinfo of %d bytes is over the limit of %d", s.Size, maxModinfo)
	}
	return s.Data()
}
