package deb

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// entry is one thing in a test package's data.tar.
type entry struct {
	name, content, link string
	kind                byte // tar.TypeReg if zero
	mode                int64
}

// tarOf is a tar of entries, as dpkg-deb writes it.
func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		hdr := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: e.mode, Size: int64(len(e.content))}
		if e.kind == 0 {
			hdr.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// packed compresses by the extension a .deb gives its members.
func packed(t testing.TB, ext string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch ext {
	case "":
		return data
	case ".gz":
		w = gzip.NewWriter(&b)
	case ".xz":
		w, err = xz.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type member struct {
	name string
	data []byte
}

// arOf is an ar archive as dpkg-deb writes it.
func arOf(members ...member) []byte {
	b := []byte(arMagic)
	for _, m := range members {
		b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.data))
		b = append(b, m.data...)
		if len(m.data)%2 == 1 {
			b = append(b, '\n')
		}
	}
	return b
}

const controlText = "Package: demo\nVersion: 1.2-3\nArchitecture: all\nDescription: a demo\n with two lines\n"

// debOf is a whole .deb with the entries in data.tar.
func debOf(t testing.TB, ext string, entries ...entry) []byte {
	t.Helper()
	control := tarOf(t, entry{name: "./", kind: tar.TypeDir, mode: 0o755}, entry{name: "./control", content: controlText, mode: 0o644})
	return arOf(
		member{"debian-binary", []byte("2.0\n")},
		member{"control.tar" + ext, packed(t, ext, control)},
		member{"data.tar" + ext, packed(t, ext, tarOf(t, entries...))},
	)
}

// listing is what Unpack visits, one line an entry.
func listing(data []byte, limits Limits) (lines []string, err error) {
	err = UnpackWithin(bytes.NewReader(data), int64(len(data)), limits, func(hdr *tar.Header, r io.Reader) error {
		content, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%c %04o %s", hdr.Typeflag, hdr.Mode, hdr.Name)
		if hdr.Linkname != "" {
			line += " -> " + hdr.Linkname
		}
		if len(content) > 0 {
			line += fmt.Sprintf(" %.20q", content)
		}
		lines = append(lines, line)
		return nil
	})
	return lines, err
}
