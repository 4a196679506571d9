package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// patched is an image file with some bytes changed, in place: most of it stays holes.
func patched(t *testing.T, l Layout, change func(image []byte)) string {
	t.Helper()
	path := written(t, l)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	image, err := syscall.Mmap(int(f.Fd()), 0, int(info.Size()), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	change(image)
	if err := syscall.Munmap(image); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestInspectTakesTheBackupTable(t *testing.T) {
	each(t, func(t *testing.T, l Layout) {
		want, err := Inspect(written(t, l))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Inspect(patched(t, l, func(image []byte) { clear(image[:64<<10]) }))
		if err != nil {
			t.Fatal(err)
		}
		if !got.Recovered {
			t.Error("nobody tells that the first table is gone")
		}
		if got.Recovered = false; describe(got) != describe(want) {
			t.Errorf("got %swant %s", describe(got), describe(want))
		}
	})
}

// TestInspectOnALargerDevice: a stick is larger than the image that was written to it.
func TestInspectOnALargerDevice(t *testing.T) {
	path := written(t, small(t, 512))
	if err := os.Truncate(path, 300*mib); err != nil {
		t.Fatal(err)
	}
	d, err := Inspect(path)
	if err != nil || d.Size != 300*mib || len(d.Partitions) != 7 || len(d.Files) != 4 {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestInspectRefusesDamage(t *testing.T) {
	both := func(change func(header, entries []byte)) func([]byte) {
		return func(image []byte) {
			n := len(image)
			for _, at := range []struct{ header, entries int }{{512, 1024}, {n - 512, n - 33*512}} {
				header, entries := image[at.header:][:512], image[at.entries:][:128*128]
				change(header, entries)
				binary.LittleEndian.PutUint32(header[88:], crc32.ChecksumIEEE(entries))
				clear(header[16:20])
				binary.LittleEndian.PutUint32(header[16:], crc32.ChecksumIEEE(header[:92]))
			}
		}
	}
	for want, change := range map[string]func([]byte){
		"no signature":                      func(image []byte) { clear(image[:mib]); clear(image[len(image)-mib:]) },
		"checksum of the header":            func(image []byte) { image[512+40] ^= 1; image[len(image)-512+40] ^= 1 },
		"checksum of the entries":           func(image []byte) { image[1024] ^= 1; image[len(image)-33*512] ^= 1 },
		"4294967295 entries of 128 bytes":   both(func(h, _ []byte) { binary.LittleEndian.PutUint32(h[80:], 1<<32-1) }),
		"128 entries of 0 bytes":            both(func(h, _ []byte) { binary.LittleEndian.PutUint32(h[84:], 0) }),
		"the header says it is at sector 7": both(func(h, _ []byte) { h[24] = 7 }),
		"do not fit into":                   both(func(h, _ []byte) { binary.LittleEndian.PutUint64(h[72:], 1<<63) }),
		"is outside of":                     both(func(_, e []byte) { binary.LittleEndian.PutUint64(e[40:], 1<<63) }),
		"partitions 1 and 2 overlap":        both(func(_, e []byte) { copy(e[128+32:128+40], e[32:40]) }),
	} {
		_, err := Inspect(patched(t, small(t, 512), change))
		if !errors.Is(err, errTable) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	if _, err := Inspect(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Inspect(empty); !errors.Is(err, errTable) {
		t.Errorf("an empty file: %v", err)
	}
}

func TestInspectTellsOfADamagedESP(t *testing.T) {
	const esp = 1 * mib
	for want, change := range map[string]func([]byte){
		"no signature":         func(image []byte) { image[esp+510] = 0 },
		"sectors of 513 bytes": func(image []byte) { image[esp+11]++ },
		"clusters of 0":        func(image []byte) { image[esp+13] = 0 },
		"one of another kind":  func(image []byte) { image[esp+17] = 1 },
		"in a partition of":    func(image []byte) { image[esp+35] = 0xff },
		"no cluster":           func(image []byte) { binary.LittleEndian.PutUint32(image[esp+44:], 1<<27) },
	} {
		d, err := Inspect(patched(t, small(t, 512), change))
		if err != nil || len(d.Partitions) != 7 || !strings.Contains(d.Unreadable, want) {
			t.Errorf("want %q, got %+v, %v", want, d, err)
		}
	}
}

// overlay is zeros of a size with pieces laid over them.
type overlay struct {
	size   int64
	pieces map[int64][]byte
}

func (o overlay) ReadAt(p []byte, at int64) (int, error) {
	if at < 0 || at >= o.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), o.size-at))
	clear(p[:n])
	for start, piece := range o.pieces {
		if from, to := max(start, at), min(start+int64(len(piece)), at+int64(n)); from < to {
			copy(p[from-at:to-at], piece[from-start:])
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// FuzzInspectTable lays any header and entries on a disk, with checksums that are right, so that they are looked at.
func FuzzInspectTable(f *testing.F) {
	const size = 1 << 30
	image := make([]byte, 64<<10)
	l := small(f, 512)
	p, err := l.resolve()
	if err != nil {
		f.Fatal(err)
	}
	if err := writeTables(medium{memory{image}, false}, l, p); err != nil {
		f.Fatal(err)
	}
	f.Add(image[512:604], image[1024:1024+128*4], false)
	f.Add(image[512:604], image[1024:1024+128*4], true)
	f.Fuzz(func(t *testing.T, header, entries []byte, large bool) {
		if len(header) > 512 || len(entries) > 1<<20 {
			return
		}
		sector := int64(512)
		if large {
			sector = 4096
		}
		h := make([]byte, sector)
		copy(h, header)
		if at := binary.LittleEndian.Uint64(h[72:]); at < size/512 {
			if n := uint64(binary.LittleEndian.Uint32(h[80:])) * uint64(binary.LittleEndian.Uint32(h[84:])); n <= maxEntryData {
				whole := make([]byte, n)
				copy(whole, entries)
				binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(whole))
			}
		}
		clear(h[16:20])
		if n := binary.LittleEndian.Uint32(h[12:]); int64(n) <= sector {
			binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:n]))
		}
		at := int64(min(binary.LittleEndian.Uint64(h[72:]), size/512)) * sector
		d, err := Read(overlay{size, map[int64][]byte{at: entries, sector: h}}, size)
		if err != nil {
			return
		}
		for _, p := range d.Partitions {
			if p.Start < 0 || p.Size <= 0 || p.Start+p.Size > size || strings.ContainsAny(p.Label, "\n\x00") {
				t.Errorf("partition %+v", p)
			}
		}
	})
}

// memory is a File that keeps its first bytes.
type memory struct{ data []byte }

func (m memory) ReadAt(p []byte, at int64) (int, error) { return bytes.NewReader(m.data).ReadAt(p, at) }
func (m memory) Truncate(int64) error                   { return nil }
func (m memory) WriteAt(p []byte, at int64) (int, error) {
	if at < int64(len(m.data)) {
		copy(m.data[at:], p)
	}
	return len(p), nil
}

// FuzzInspectESP lays any boot sector, allocation table and directories on a partition.
func FuzzInspectESP(f *testing.F) {
	l := small(f, 512)
	dir := f.TempDir()
	path := filepath.Join(dir, "x.raw")
	if err := Write(path, l); err != nil {
		f.Fatal(err)
	}
	image, err := os.Open(path)
	if err != nil {
		f.Fatal(err)
	}
	defer image.Close()
	size := l.Sizes.ESP
	esp := io.NewSectionReader(image, mib, size)
	v, err := openFAT(esp, size)
	if err != nil {
		f.Fatal(err)
	}
	boot, table, directory := make([]byte, 512), make([]byte, 64), make([]byte, 4*v.cluster)
	for at, p := range map[int64][]byte{0: boot, v.tables: table, v.data: directory} {
		if _, err := esp.ReadAt(p, at); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(boot, table, directory)
	f.Fuzz(func(t *testing.T, boot, table, directory []byte) {
		o := overlay{size, map[int64][]byte{}}
		if len(boot) < 512 || len(table) > 1<<16 || len(directory) > 1<<16 {
			return
		}
		o.pieces[0] = boot[:510:510]
		o.pieces[510] = []byte{0x55, 0xaa}
		v, err := openFAT(o, size)
		if err != nil {
			return
		}
		if v.tables >= 512 {
			o.pieces[v.tables], o.pieces[v.data] = table, directory
		}
		files, _ := bootFiles(o, Partition{Size: size})
		for _, file := range files {
			if strings.ContainsAny(file.Path, "\n\x00\\") || strings.Count(file.Path, "/") > maxDepth {
				t.Errorf("file %+v", file)
			}
			content, size, err := OpenBootFile(o, Partition{Size: o.size}, file.Path)
			if err != nil {
				continue
			}
			if n, err := io.Copy(io.Discard, content); err != nil || n != size {
				t.Errorf("file %+v: %d bytes of %d, %v", file, n, size, err)
			}
		}
	})
}

// TestWalkEndsOnLoops: a chain that leads back to its start, and a directory full of itself.
func TestWalkEndsOnLoops(t *testing.T) {
	const esp = 1 * mib
	for name, change := range map[string]func(image []byte, v *fat){
		"more than 65536 directory records": func(image []byte, v *fat) {
			dir := image[esp+v.data:][:v.cluster]
			for i := 0; i < len(dir); i += recordSize {
				copy(dir[i:], "LABEL      \x08")
			}
			binary.LittleEndian.PutUint32(image[esp+v.tables+8:], 2)
		},
		"directories more than 16 deep": func(image []byte, v *fat) {
			dir := image[esp+v.data:][:v.cluster]
			for i := 0; i < len(dir); i += recordSize {
				copy(dir[i:], append(append([]byte("LOOP       \x10"), make([]byte, 14)...), 2, 0))
			}
		},
	} {
		l := small(t, 512)
		path := patched(t, l, func(image []byte) {
			v, err := openFAT(bytes.NewReader(image[esp:][:l.Sizes.ESP]), l.Sizes.ESP)
			if err != nil {
				t.Fatal(err)
			}
			change(image, v)
		})
		if d, err := Inspect(path); err != nil || !strings.Contains(d.Unreadable, name) {
			t.Errorf("want %q, got %+v, %v", name, d, err)
		}
	}
}
