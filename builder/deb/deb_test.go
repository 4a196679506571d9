package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

var demo = []entry{
	{name: "./", kind: tar.TypeDir, mode: 0o755},
	{name: "./usr/", kind: tar.TypeDir, mode: 0o755},
	{name: "./usr/bin/", kind: tar.TypeDir, mode: 0o755},
	{name: "./usr/bin/demo", content: "the program", mode: 0o4755},
	{name: "./usr/bin/hard", kind: tar.TypeLink, link: "./usr/bin/demo", mode: 0o4755},
	{name: "./usr/bin/soft", kind: tar.TypeSymlink, link: "../bin/demo", mode: 0o777},
	{name: "./etc/mask", kind: tar.TypeSymlink, link: "/dev/null", mode: 0o777},
	{name: "./usr/share/" + strings.Repeat("long/", 40) + "name", content: "by PAX or GNU header", mode: 0o644},
}

func TestUnpackAllCompressions(t *testing.T) {
	want := []string{
		"5 0755 usr",
		"5 0755 usr/bin",
		`0 4755 usr/bin/demo "the program"`,
		"1 4755 usr/bin/hard -> usr/bin/demo",
		"2 0777 usr/bin/soft -> ../bin/demo",
		"2 0777 etc/mask -> /dev/null",
		"0 0644 usr/share/" + strings.Repeat("long/", 40) + `name "by PAX or GNU header"`,
	}
	for _, ext := range []string{"", ".gz", ".xz", ".zst"} {
		got, err := listing(debOf(t, ext, demo...), Limits{})
		if err != nil {
			t.Fatalf("data.tar%s: %v", ext, err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("data.tar%s:\n%s\nwant\n%s", ext, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

func TestControlFile(t *testing.T) {
	for _, ext := range []string{"", ".gz", ".xz", ".zst"} {
		data := debOf(t, ext)
		p, err := Control(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		if p.Get("package") != "demo" || p.Get("Version") != "1.2-3" || p.Get("Description") != "a demo\n with two lines" {
			t.Errorf("control of %s: %+v", ext, p)
		}
	}
}

func TestUnpackRefusesWhatClimbsOut(t *testing.T) {
	for name, e := range map[string]entry{
		"file above the root":        {name: "../evil", content: "x"},
		"file above, in the middle":  {name: "./usr/../../evil", content: "x"},
		"file that only passes by":   {name: "./usr/../evil", content: "x"},
		"link above the root":        {name: "./a", kind: tar.TypeSymlink, link: "../evil"},
		"link above, deep":           {name: "./a/b/c", kind: tar.TypeSymlink, link: "../../../evil"},
		"link above, then down":      {name: "./a/b", kind: tar.TypeSymlink, link: "x/../../../etc/passwd"},
		"absolute link that climbs":  {name: "./a", kind: tar.TypeSymlink, link: "/../evil"},
		"link without a target":      {name: "./a", kind: tar.TypeSymlink, link: ""},
		"hard link above the root":   {name: "./a", kind: tar.TypeLink, link: "../../etc/passwd"},
		"device":                     {name: "./dev/sda", kind: tar.TypeBlock},
		"character device":           {name: "./dev/mem", kind: tar.TypeChar},
		"pipe":                       {name: "./fifo", kind: tar.TypeFifo},
		"the root as a link":         {name: "./", kind: tar.TypeSymlink, link: "usr"},
		"path longer than the limit": {name: strings.Repeat("a/", 3000), kind: tar.TypeDir},
	} {
		lines, err := listing(debOf(t, ".gz", e), Limits{})
		if !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: error %v, visited %q", name, err, lines)
		}
	}
}

func TestUnpackAbsolutePathsLandInTheRoot(t *testing.T) {
	got, err := listing(debOf(t, ".gz", entry{name: "/etc/demo", content: "x", mode: 0o644}), Limits{})
	if err != nil || !slices.Equal(got, []string{`0 0644 etc/demo "x"`}) {
		t.Errorf("%q, %v", got, err)
	}
}

// A .deb that is cut anywhere is an error, wherever the last entry ends and whatever the compression.
func TestUnpackTruncated(t *testing.T) {
	for _, ext := range []string{"", ".gz", ".xz", ".zst"} {
		whole := debOf(t, ext, demo...)
		end := len(whole)
		if whole[end-1] == '\n' {
			end-- // ar's padding to an even size, which holds nothing
		}
		for n := range end {
			lines, err := listing(whole[:n], Limits{})
			if err == nil {
				t.Fatalf("data.tar%s cut to %d of %d bytes: no error, visited %q", ext, n, len(whole), lines)
			}
		}
	}
}

// Cut inside the compressed stream, although ar's header says that this is all of it.
func TestUnpackTruncatedStream(t *testing.T) {
	for _, ext := range []string{".gz", ".xz", ".zst"} {
		data := packed(t, ext, tarOf(t, demo...))
		for n := range data {
			deb := arOf(member{"debian-binary", []byte("2.0\n")}, member{"data.tar" + ext, data[:n]})
			if _, err := listing(deb, Limits{}); err == nil {
				t.Fatalf("data.tar%s cut to %d of %d bytes: no error", ext, n, len(data))
			}
		}
	}
}

func TestUnpackNoticesFlippedBytes(t *testing.T) {
	for _, ext := range []string{".gz", ".xz"} {
		data := packed(t, ext, tarOf(t, demo...))
		data[len(data)/2] ^= 1
		deb := arOf(member{"debian-binary", []byte("2.0\n")}, member{"data.tar" + ext, data})
		if lines, err := listing(deb, Limits{}); err == nil {
			t.Errorf("data.tar%s with a flipped bit: no error, visited %q", ext, lines)
		}
	}
}

func TestUnpackBounds(t *testing.T) {
	big := entry{name: "big", content: strings.Repeat("0", 1<<20), mode: 0o644}
	many := make([]entry, 50)
	for i := range many {
		many[i] = entry{name: "f" + strings.Repeat("x", i), mode: 0o644}
	}
	for name, c := range map[string]struct {
		entries []entry
		limits  Limits
	}{
		"bytes":   {[]entry{big}, Limits{Bytes: 1<<20 - 1}},
		"entries": {many, Limits{Entries: 49}},
		"path":    {[]entry{{name: "0123456789"}}, Limits{Path: 9}},
		"link":    {[]entry{{name: "a", kind: tar.TypeSymlink, link: "0123456789"}}, Limits{Path: 9}},
	} {
		if _, err := listing(debOf(t, ".gz", c.entries...), c.limits); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := listing(debOf(t, ".gz", many...), Limits{Entries: 50, Bytes: 1, Path: 60}); err != nil {
		t.Errorf("exactly at the limits: %v", err)
	}
}

// A member that unpacks to far more than its entries say is stopped: the tar holds one small file and then padding.
func TestUnpackBomb(t *testing.T) {
	bomb := append(tarOf(t, entry{name: "small", content: "x"}), make([]byte, 8<<20)...)
	deb := arOf(member{"debian-binary", []byte("2.0\n")}, member{"data.tar.gz", packed(t, ".gz", bomb)})
	if _, err := listing(deb, Limits{Bytes: 100, Entries: 10}); err == nil {
		t.Error("8 MB of padding after a file of one byte: no error")
	}
}

func TestUnpackNotADeb(t *testing.T) {
	for name, data := range map[string][]byte{
		"empty":               {},
		"text":                []byte("hello, this is not an archive at all, sorry"),
		"no members":          []byte(arMagic),
		"other first member":  arOf(member{"control.tar", nil}),
		"format 3":            arOf(member{"debian-binary", []byte("3.0\n")}, member{"data.tar", nil}),
		"no data":             arOf(member{"debian-binary", []byte("2.0\n")}),
		"unknown compression": arOf(member{"debian-binary", []byte("2.0\n")}, member{"data.tar.lz4", []byte("x")}),
	} {
		if _, err := listing(data, Limits{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestVisitorsErrorComesBack(t *testing.T) {
	data := debOf(t, ".xz", demo...)
	mine := errors.New("mine")
	err := Unpack(bytes.NewReader(data), int64(len(data)), func(*tar.Header, io.Reader) error { return mine })
	if err != mine {
		t.Errorf("got %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	for _, ext := range []string{"", ".gz", ".xz", ".zst"} {
		f.Add(debOf(f, ext, demo...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		limits := Limits{Bytes: 1 << 20, Entries: 1000, Path: 200, Control: 1 << 20}
		var total int64
		seen := 0
		_ = UnpackWithin(bytes.NewReader(data), int64(len(data)), limits, func(hdr *tar.Header, r io.Reader) error {
			n, err := io.Copy(io.Discard, r)
			total, seen = total+n, seen+1
			if strings.HasPrefix(hdr.Name, "/") || slices.Contains(strings.Split(hdr.Name, "/"), "..") {
				t.Fatalf("path %q", hdr.Name)
			}
			return err
		})
		if total > limits.Bytes || seen > limits.Entries {
			t.Fatalf("%d bytes in %d entries", total, seen)
		}
		_, _ = Control(bytes.NewReader(data), int64(len(data)))
	})
}
