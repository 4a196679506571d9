package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

// used is a file in place of a device that was full of something.
func used(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "device"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	piece := bytes.Repeat([]byte("old data"), mib/8)
	for at := int64(0); at < size; at += mib {
		if _, err := f.WriteAt(piece[:min(mib, size-at)], at); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// TestEncodeDeviceLeavesNothingOfBefore: what tools find on a device that was full is what they find in an image, and the
// state has the rest of it.
func TestEncodeDeviceLeavesNothingOfBefore(t *testing.T) {
	each(t, func(t *testing.T, l Layout) {
		need, err := Need(l)
		if err != nil {
			t.Fatal(err)
		}
		size := need + 9*mib + 512 // no device is a multiple of anything
		f := used(t, size)
		if err := EncodeDevice(f, size, l); err != nil {
			t.Fatal(err)
		}
		want, err := Inspect(written(t, l))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Inspect(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if state := got.Partitions[6]; state.Size != 11*mib {
			t.Errorf("the state has %d bytes", state.Size)
		}
		got.Partitions[6].Size, got.Size = want.Partitions[6].Size, want.Size
		if describe(got) != describe(want) {
			t.Errorf("got\n%swant\n%s", describe(got), describe(want))
		}
		device := loop(t, f.Name(), l.SectorSize)
		if out, err := tool(t, "sgdisk", "-v", device); err != nil || !strings.Contains(out, "No problems found.") {
			t.Errorf("%v: %s", err, out)
		}
		esp := cut(t, f.Name(), bootspec.LabelESP)
		if out, err := tool(t, "fsck.vfat", "-n", esp); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if out, err := tool(t, "veritysetup", "verify", cut(t, f.Name(), bootspec.LabelRootB), cut(t, f.Name(), bootspec.LabelVerityB), l.Slots[1].RootHash); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		for _, file := range l.bootFiles() {
			same(t, f, got.Partitions[0], file)
		}
		if _, err := bootspec.ReadConfig(got.Partitions[5].Of(f)); !errors.Is(err, bootspec.ErrNoConfig) {
			t.Errorf("the configuration's place: %v", err)
		}
	})
}

// same compares a file on the ESP with what was to be written.
func same(t *testing.T, f *os.File, esp Partition, file bootFile) {
	t.Helper()
	r, size, err := OpenBootFile(f, esp, strings.ToUpper(file.path))
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := file.content.CopyTo(&want); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || size != file.content.Size || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s is another: %d bytes, %v", file.path, len(got), err)
	}
}

func TestEncodeDeviceRefusesASmallOne(t *testing.T) {
	l := small(t, 512)
	need, err := Need(l)
	if err != nil {
		t.Fatal(err)
	}
	f := used(t, need-512)
	if err := EncodeDevice(f, need-512, l); !errors.Is(err, ErrSmall) {
		t.Errorf("got %v", err)
	}
	b := make([]byte, 8)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "old data" {
		t.Errorf("a device that was refused was written: %q, %v", b, err)
	}
}

// dying is a device that fails from a write on.
type dying struct {
	*os.File
	writes int
}

var errGone = errors.New("the device is gone")

func (d *dying) WriteAt(p []byte, at int64) (int, error) {
	if d.writes--; d.writes < 0 {
		return 0, errGone
	}
	return d.File.WriteAt(p, at)
}

// TestHalfWrittenIsNoDisk: wherever the writing of a device is cut off, firmware and agent find a whole disk or none.
func TestHalfWrittenIsNoDisk(t *testing.T) {
	l := small(t, 512)
	before := written(t, l)
	whole, err := os.ReadFile(before)
	if err != nil {
		t.Fatal(err)
	}
	l.Seed, l.Slots = "the next", l.Slots[1:]
	whichever := map[bool]int{}
	for writes := 0; ; writes += 11 {
		if err := os.WriteFile(before, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(before, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		written := EncodeDevice(&dying{f, writes}, int64(len(whole)), l)
		f.Close()
		d, err := Inspect(before)
		if writes > 0 && err == nil { // not one of before: its files are not there any more
			if slot, _ := d.ByGUID(guidOf(l.Slots[0])); slot.Label != bootspec.LabelRootA {
				t.Errorf("cut off after %d writes: %s", writes, describe(d))
			}
		}
		whichever[err == nil]++
		if written == nil {
			break
		}
		if !strings.Contains(written.Error(), errGone.Error()) { // go-diskfs does not wrap
			t.Fatalf("after %d writes: %v", writes, written)
		}
	}
	if whichever[false] < 5 || whichever[true] < 2 {
		t.Errorf("no disk %d times, a disk %d times", whichever[false], whichever[true])
	}
}

func guidOf(s Slot) string {
	guid, _ := bootspec.SlotGUID(s.RootHash)
	return guid
}

func TestGrowTakesTheRestOfTheDevice(t *testing.T) {
	each(t, func(t *testing.T, l Layout) {
		path := written(t, l)
		before, err := Inspect(path)
		if err != nil {
			t.Fatal(err)
		}
		size := before.Size + 30*mib + 4096
		f := grown(t, path, size)
		state, changed, err := Grow(f, size)
		if err != nil || !changed || state.Size != 32*mib {
			t.Errorf("%+v, %v, %v", state, changed, err)
		}
		if again, changed, err := Grow(f, size); err != nil || changed || again != state {
			t.Errorf("once more: %+v, %v, %v", again, changed, err)
		}
		if out, err := tool(t, "sgdisk", "-v", loop(t, path, l.SectorSize)); err != nil || !strings.Contains(out, "No problems found.") {
			t.Errorf("%v: %s", err, out)
		}
		before.Size, before.Partitions[6].Size = size, 32*mib
		for _, damage := range []int64{int64(l.SectorSize), size - int64(l.SectorSize)} { // either copy
			if _, err := f.WriteAt(make([]byte, 512), damage); err != nil {
				t.Fatal(err)
			}
			if after, err := Inspect(path); err != nil || strings.Replace(describe(after), "recovered true", "recovered false", 1) != describe(before) {
				t.Fatalf("%v\n%swant\n%s", err, describe(after), describe(before))
			}
			if _, changed, err := Grow(f, size); err != nil || !changed {
				t.Errorf("a damaged copy is not mended: %v, %v", changed, err)
			}
		}
		if after, err := Inspect(path); err != nil || describe(after) != describe(before) {
			t.Errorf("%v\n%swant\n%s", err, describe(after), describe(before))
		}
	})
}

// grown is an image on a larger device.
func grown(t *testing.T, path string, size int64) *os.File {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestGrowCutOffLosesNothing: wherever growing is cut off, the partitions are found, and another try ends it.
func TestGrowCutOffLosesNothing(t *testing.T) {
	for writes := range 12 {
		path := written(t, small(t, 512))
		size := int64(100 * mib)
		f := grown(t, path, size)
		_, _, err := Grow(&dying{f, writes}, size)
		if d, err := Inspect(path); err != nil || len(d.Partitions) != 7 {
			t.Fatalf("cut off after %d writes: %v", writes, err)
		}
		if err == nil {
			if writes < 6 {
				t.Errorf("%d writes were enough", writes)
			}
			return
		}
		if state, _, err := Grow(f, size); err != nil || state.Size != 40*mib {
			t.Errorf("cut off after %d writes, then: %d MiB, %v", writes, state.Size/mib, err)
		}
	}
	t.Error("it never ends")
}

func TestGrowRefusesWhatIsNoDiskOfOurs(t *testing.T) {
	path := written(t, small(t, 512))
	f := grown(t, path, 100*mib)
	rename(t, f, "another-state")
	if _, _, err := Grow(f, 100*mib); err == nil || !strings.Contains(err.Error(), "there is no partition slipway-state") {
		t.Errorf("got %v", err)
	}
	for _, at := range []int64{0, 99 * mib} {
		if _, err := f.WriteAt(make([]byte, mib), at); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := Grow(f, 100*mib); !errors.Is(err, errTable) {
		t.Errorf("got %v", err)
	}
}

// rename gives the state partition another label.
func rename(t *testing.T, f *os.File, label string) {
	t.Helper()
	if out, err := tool(t, "sgdisk", "-c", fmt.Sprintf("7:%s", label), f.Name()); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestARangeKeepsToItself(t *testing.T) {
	f := used(t, 3*mib)
	r := Partition{Start: mib, Size: mib}.Of(f)
	if _, err := r.WriteAt([]byte("xx"), mib-1); err == nil {
		t.Error("it writes beyond its end")
	}
	if _, err := r.WriteAt([]byte("x"), -1); err == nil {
		t.Error("it writes before its beginning")
	}
	if n, err := r.ReadAt(make([]byte, 8), mib-4); n != 4 || err != io.EOF {
		t.Errorf("it reads %d, %v", n, err)
	}
	if _, err := r.WriteAt([]byte("new"), 0); err != nil {
		t.Error(err)
	}
	b := make([]byte, 4)
	if _, err := f.ReadAt(b, mib); err != nil || string(b) != "new " {
		t.Errorf("%q, %v", b, err)
	}
}

// FuzzGrow lets a table say anything with checksums that are right. What Grow accepts it leaves as a table that can be read,
// with the same partitions.
func FuzzGrow(f *testing.F) {
	const size = 4 * mib
	image := make([]byte, 64<<10)
	l := small(f, 512)
	p, err := l.resolve()
	if err != nil {
		f.Fatal(err)
	}
	if err := writeTables(medium{memory{image}, false}, l, p); err != nil {
		f.Fatal(err)
	}
	f.Add(image[512:604], image[1024:1024+128*7])
	f.Fuzz(func(t *testing.T, header, entries []byte) {
		if len(header) > 512 || len(entries) > 64<<10 {
			return
		}
		d := &ram{bytes: make([]byte, size)}
		h := d.bytes[512:1024]
		copy(h, header)
		le := binary.LittleEndian
		at, n := le.Uint64(h[72:])*512, uint64(le.Uint32(h[80:]))*uint64(le.Uint32(h[84:]))
		if at < size && n <= maxEntryData && at+n <= size {
			if at != 512 {
				copy(d.bytes[at:at+n], entries)
			}
			le.PutUint32(h[88:], crc32.ChecksumIEEE(d.bytes[at:at+n]))
		}
		clear(h[16:20])
		if n := le.Uint32(h[12:]); n <= 512 {
			le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:n]))
		}
		before, err := Read(d, size)
		if err != nil {
			return
		}
		state, _, err := Grow(d, size)
		if err != nil {
			return
		}
		after, err := Read(d, size)
		if err != nil || len(after.Partitions) != len(before.Partitions) {
			t.Fatalf("%v: before %+v, after %+v", err, before, after)
		}
		if got, _ := after.Partition(state.Label); got != state {
			t.Errorf("the state is %+v, told was %+v", got, state)
		}
	})
}

// ram is a device in memory.
type ram struct{ bytes []byte }

func (r *ram) ReadAt(p []byte, at int64) (int, error) { return bytes.NewReader(r.bytes).ReadAt(p, at) }
func (r *ram) WriteAt(p []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(p)) > int64(len(r.bytes)) {
		return 0, io.ErrShortWrite
	}
	return copy(r.bytes[at:], p), nil
}
func (r *ram) Sync() error { return nil }
