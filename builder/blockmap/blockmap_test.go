package blockmap

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// image is a file with data in some blocks, the rest are holes and zeros.
func image(t testing.TB, size int64, blocks ...int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		if _, err := f.WriteAt([]byte{byte(b) | 1}, b*BlockSize+b%BlockSize); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func made(t testing.TB, f *os.File) *Map {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	m, err := Make(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func ranges(m *Map) string {
	var list []string
	for _, r := range m.Ranges {
		list = append(list, fmt.Sprintf("%d-%d", r.First, r.Last))
	}
	return strings.Join(list, " ")
}

func TestMakeMapsWhatHoldsData(t *testing.T) {
	f := image(t, 1000*BlockSize+5, 0, 1, 17, 100, 500, 999)
	if _, err := f.WriteAt(make([]byte, 9*BlockSize), 300*BlockSize); err != nil { // zeros that the file system keeps
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{7}, 1000*BlockSize+4); err != nil {
		t.Fatal(err)
	}
	m := made(t, f)
	if got, want := ranges(m), "0-17 100-100 500-500 999-1000"; got != want {
		t.Errorf("ranges %s, want %s", got, want)
	}
	if got, want := m.Mapped(), int64(18+1+1+1)*BlockSize+5; got != want {
		t.Errorf("%d bytes are mapped, want %d", got, want)
	}
	data, _ := os.ReadFile(f.Name())
	for _, r := range m.Ranges {
		start, end := m.Bytes(r)
		if got := fmt.Sprintf("%x", sha256.Sum256(data[start:end])); got != r.SHA256 {
			t.Errorf("range %d-%d: digest %s", r.First, r.Last, r.SHA256)
		}
	}
	for at, want := range map[int64]bool{0: true, 18 * BlockSize: false, 99*BlockSize + 1: false, 101 * BlockSize: false, 1000*BlockSize + 4: true} {
		if got := m.Holds(at, 1); got != want {
			t.Errorf("byte %d is mapped: %v", at, got)
		}
	}
	if !m.Holds(18*BlockSize, 83*BlockSize) || m.Holds(18*BlockSize, 82*BlockSize) {
		t.Error("a run that ends in a range is not told from one that ends before it")
	}
}

func TestEncodeDecode(t *testing.T) {
	for _, f := range []*os.File{image(t, 1000*BlockSize+5, 0, 1, 500, 999), image(t, 7)} {
		m := made(t, f)
		again, err := Decode(m.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(again) != fmt.Sprint(m) {
			t.Errorf("read %v, wrote %v", again, m)
		}
	}
}

// TestBmaptoolTakesTheMap: Debian's bmaptool checks the map's digest and each range's while it copies.
func TestBmaptoolTakesTheMap(t *testing.T) {
	if _, err := exec.LookPath("bmaptool"); err != nil {
		t.Fatalf("bmaptool is wanted (make deps): %v", err)
	}
	f := image(t, 1000*BlockSize, 0, 1, 17, 100, 999)
	m := made(t, f)
	dir := t.TempDir()
	file, copied := filepath.Join(dir, "map"), filepath.Join(dir, "copy")
	if err := os.WriteFile(file, m.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	copyImage := func() ([]byte, error) {
		return exec.Command("bmaptool", "copy", "--bmap", file, f.Name(), copied).CombinedOutput()
	}
	if out, err := copyImage(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want, _ := os.ReadFile(f.Name())
	if got, err := os.ReadFile(copied); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy is another: %v", err)
	}
	if _, err := f.WriteAt([]byte{99}, 100*BlockSize); err != nil {
		t.Fatal(err)
	}
	if out, err := copyImage(); err == nil || !strings.Contains(string(out), "checksum mismatch") {
		t.Errorf("a changed range: %v: %s", err, out)
	}
}

// resum makes a map's own digest right again.
func resum(text string) string {
	start := strings.Index(text, "<BmapFileChecksum> ") + len("<BmapFileChecksum> ")
	zeroed := text[:start] + noSum + text[start+64:]
	return text[:start] + fmt.Sprintf("%x", sha256.Sum256([]byte(zeroed))) + text[start+64:]
}

func TestDecodeIsStrict(t *testing.T) {
	good := string(made(t, image(t, 1000*BlockSize, 0, 500, 501)).Encode())
	for name, c := range map[string]struct{ old, new, want string }{
		"changed":             {"> 0 <", "> 1 <", "damaged"},
		"no digest":           {good[strings.Index(good, "<BmapFileChecksum> ")+19:][:64], "x", "is none"},
		"other version":       {`version="2.0"`, `version="1.3"`, "is not 2.0"},
		"other digests":       {" sha256 ", " sha1 ", "not sha256"},
		"beyond the image":    {"500-501", "500-1000", "from 0 to 999"},
		"backwards":           {"500-501", "501-500", "range 2"},
		"out of order":        {"> 0 <", "> 700 <", "range 2"},
		"twice":               {"> 0 <", "> 500 <", "range 2"},
		"too large":           {" 4096000 ", " 99999999999999999 ", "ImageSize"},
		"negative":            {" 4096000 ", " -1 ", "ImageSize"},
		"odd blocks":          {" 4096 ", " 4095 ", "no image"},
		"another block count": {" 1000 ", " 1001 ", "no image"},
		"mapped too many":     {" 3 ", " 4 ", "not in its ranges"},
		"range's digest":      {`chksum="`, `chksum="z`, "digest"},
		"cut off":             {"</bmap>", "", "EOF"},
	} {
		bad := strings.Replace(good, c.old, c.new, 1)
		if name != "changed" && name != "no digest" && name != "cut off" {
			bad = resum(bad)
		}
		if _, err := Decode([]byte(bad)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want %q, got %v", name, c.want, err)
		}
	}
	if _, err := Decode(make([]byte, MaxSize+1)); err == nil {
		t.Error("a map over the limit was taken")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(string(made(f, image(f, 1000*BlockSize+5, 0, 1, 500, 999)).Encode()))
	f.Add(`<bmap version="2.0"><BmapFileChecksum> ` + noSum + ` </BmapFileChecksum></bmap>`)
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "<BmapFileChecksum> ") && len(text) > strings.Index(text, "<BmapFileChecksum> ")+len("<BmapFileChecksum> ")+64 {
			text = resum(text) // else nothing but the digest is tried
		}
		m, err := Decode([]byte(text))
		if err != nil {
			return
		}
		for i, r := range m.Ranges {
			if start, end := m.Bytes(r); start < 0 || end <= start || end > m.ImageSize || i > 0 && r.First <= m.Ranges[i-1].Last {
				t.Fatalf("range %d: %v of %d bytes", i, r, m.ImageSize)
			}
		}
		again, err := Decode(m.Encode())
		if err != nil || fmt.Sprint(again) != fmt.Sprint(m) {
			t.Fatalf("what Encode wrote is not read back: %v", err)
		}
	})
}
