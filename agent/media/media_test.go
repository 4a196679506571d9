package media

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/slipway-os/slipway/agent/drives"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
)

const mib = 1 << 20

const rootHash = "0123456789abcdef0123456789abcdef00112233445566778899aabbccddeeff"

// drive is an image file in place of a drive. The seed makes it another disk with the same image.
func drive(t *testing.T, name, seed, hash string, sector int, more int64) drives.Drive {
	t.Helper()
	content := func(size int) disk.Content {
		return disk.Content{Size: int64(size), CopyTo: func(w io.Writer) error {
			_, err := w.Write(bytes.Repeat([]byte(hash[:8]), size/8))
			return err
		}}
	}
	l := disk.Layout{
		Arch: "amd64", SectorSize: sector, Sizes: disk.Sizes{ESP: 40 * mib, Root: 2 * mib, Verity: mib, State: 2 * mib}, Loader: []byte("loader"), Seed: seed,
		Slots: []disk.Slot{{Image: "slipway-worker-0.1.0-amd64", RootHash: hash, UKI: content(800), Root: content(8 * 4096), Data: 4 * 4096}},
	}
	if sector == 4096 {
		l.Sizes.ESP = 264 * mib
	}
	path := filepath.Join(t.TempDir(), name)
	if err := disk.Write(path, l); err != nil {
		t.Fatal(err)
	}
	d, err := disk.Inspect(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, d.Size+more); err != nil {
		t.Fatal(err)
	}
	return drives.Drive{Name: name, Path: path, Size: d.Size + more, SectorSize: sector}
}

func esp(t *testing.T, d drives.Drive) string {
	t.Helper()
	found, err := disk.Inspect(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	return found.Partitions[0].GUID
}

// search finds at once, or not.
func search(t *testing.T, s Search, list ...drives.Drive) (*Medium, error) {
	t.Helper()
	s.List = func() ([]drives.Drive, error) { return list, nil }
	s.Log = slog.New(slog.DiscardHandler)
	if s.RootHash == "" {
		s.RootHash = rootHash
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return s.Find(ctx)
}

func TestFindTakesWhatTheLoaderCameFrom(t *testing.T) {
	a, b := drive(t, "a", "1", rootHash, 512, 0), drive(t, "b", "2", rootHash, 512, 0)
	other := drive(t, "other", "3", strings.Repeat("ff", 32), 512, 0)
	cd := drive(t, "cd", "4", rootHash, 512, 0)
	cd.Optical, cd.SectorSize = true, 2048
	twin := drive(t, "twin", "1", rootHash, 512, 0)
	empty := drives.Drive{Name: "reader", Path: "/nonexistent"}
	for name, c := range map[string]struct {
		search Search
		list   []drives.Drive
		want   string // a name, or a part of the error
	}{
		"by ESP":                      {Search{ESP: esp(t, b)}, []drives.Drive{a, b, other, empty}, "b"},
		"only one":                    {Search{}, []drives.Drive{other, a}, "a"},
		"two, and nothing tells":      {Search{}, []drives.Drive{a, b}, "a and "},
		"the same twice":              {Search{ESP: esp(t, a)}, []drives.Drive{a, twin}, "remove all but one"},
		"CD-ROM":                      {Search{Optical: true}, []drives.Drive{a, cd}, "cd"},
		"odd firmware":                {Search{Optical: true}, []drives.Drive{other, a}, "a"},
		"another image":               {Search{}, []drives.Drive{other}, "no partition with this image"},
		"another's loader":            {Search{ESP: esp(t, other)}, []drives.Drive{other, a}, "it holds the image, but is not what the boot loader came from"},
		"no drives":                   {Search{}, []drives.Drive{empty}, "there are no drives"},
		"a drive that cannot be read": {Search{}, []drives.Drive{{Name: "x", Path: "/nonexistent", Size: 1}}, "cannot read its partition table"},
	} {
		m, err := search(t, c.search, c.list...)
		if err != nil && !strings.Contains(err.Error(), c.want) || err == nil && m.Drive.Name != c.want {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

// TestFindWaits: the stick appears after a while, and a driver has to be loaded for it.
func TestFindWaits(t *testing.T) {
	late := drive(t, "late", "1", rootHash, 512, 0)
	var list []drives.Drive
	looks := 0
	s := Search{
		RootHash: rootHash, Log: slog.New(slog.DiscardHandler), Pause: time.Millisecond,
		List: func() ([]drives.Drive, error) { return list, nil },
		Again: func() {
			if looks++; looks == 3 {
				list = append(list, late)
			}
		},
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if m, err := s.Find(ctx); err != nil || m.Drive.Name != "late" || m.Root.Label != bootspec.LabelRootA {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestASlotWithoutItsVerityPartitionIsNone(t *testing.T) {
	d := drive(t, "d", "1", rootHash, 512, 0)
	if out, err := exec.Command("sgdisk", "-u", "3:R", d.Path).CombinedOutput(); err != nil {
		t.Skipf("no sgdisk: %v: %s", err, out)
	}
	if _, err := search(t, Search{}, d); err == nil || !strings.Contains(err.Error(), "there is none with its verity tree") {
		t.Errorf("got %v", err)
	}
}

func TestConfigOfAMedium(t *testing.T) {
	d := drive(t, "d", "1", rootHash, 512, 0)
	m, err := search(t, Search{}, d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Config(); !errors.Is(err, bootspec.ErrNoConfig) {
		t.Errorf("an empty place: %v", err)
	}
	f, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, _ := m.Disk.Partition(bootspec.LabelConfig)
	if err := bootspec.WriteConfig(p.Of(f), bootspec.Config{Cluster: "lab", Node: "n", Document: []byte("{}")}, f.Sync); err != nil {
		t.Fatal(err)
	}
	if c, err := m.Config(); err != nil || c.Node != "n" || string(c.Document) != "{}" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := f.WriteAt([]byte("damage"), p.Start+100); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Config(); err == nil || !strings.Contains(err.Error(), "slipway-config") || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged place: %v", err)
	}
}

// loopDrive is an image as a drive of the kernel, with partitions.
func loopDrive(t *testing.T, d drives.Drive) drives.Drive {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("loop devices need root")
	}
	out, err := exec.Command("losetup", "--find", "--show", "--partscan", "--sector-size", itoa(d.SectorSize), d.Path).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device can be had here: %v: %s", err, out)
	}
	d.Path = strings.TrimSpace(string(out))
	t.Cleanup(func() { detach(t, d.Path) })
	// Where the kernel reads no GPT by itself it is told of the partitions.
	_ = exec.Command("partx", "--add", d.Path).Run()
	t.Cleanup(func() { _ = exec.Command("partx", "--delete", d.Path).Run() })
	return withPartitions(t, d)
}

func itoa(n int) string { return map[int]string{512: "512", 4096: "4096"}[n] }

func detach(t *testing.T, device string) {
	if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
		t.Errorf("cannot detach %s: %v: %s", device, err, out)
	}
}

// withPartitions reads the drive's partitions again.
func withPartitions(t *testing.T, d drives.Drive) drives.Drive {
	t.Helper()
	sys := t.TempDir()
	name := filepath.Base(d.Path)
	// A loop device is no drive; here it is one, with the kernel's own words about it.
	folder := filepath.Join(sys, "block", name)
	if err := os.MkdirAll(filepath.Join(folder, "device"), 0o755); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/sys/block/" + name)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.Symlink(filepath.Join("/sys/block", name, e.Name()), filepath.Join(folder, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	list, err := drives.List(sys)
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	return list[0]
}

func TestGrowOfADriveInUse(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		d := loopDrive(t, drive(t, "d", "1", rootHash, sector, 50*mib))
		if len(d.Partitions) != 7 {
			t.Skipf("the kernel shows %d partitions of a loop device", len(d.Partitions))
		}
		m, err := search(t, Search{}, d)
		if err != nil {
			t.Fatal(err)
		}
		held, err := os.Open(d.Partitions[1].Path) // as dm-verity does
		if err != nil {
			t.Fatal(err)
		}
		state, changed, err := m.Grow()
		if err != nil || !changed || state.Size != 52*mib {
			t.Errorf("%+v, %v, %v", state, changed, err)
		}
		held.Close()
		if got := withPartitions(t, d).Partitions[6]; got.Size != 52*mib {
			t.Errorf("the kernel says %d MiB", got.Size/mib)
		}
		path, err := m.Device(state, true)
		if err != nil || path != d.Partitions[6].Path {
			t.Errorf("the state is %s, %v", path, err)
		}
		if _, changed, err := m.Grow(); changed || err != nil {
			t.Errorf("once more: %v, %v", changed, err)
		}
	}
}

func TestPlaceMakesPartitionsOnDrivesOfOurs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drive")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 100*mib); err != nil {
		t.Fatal(err)
	}
	d := loopDrive(t, drives.Drive{Name: "d", Path: path, Size: 100 * mib, SectorSize: 512})
	for _, c := range []struct {
		label string
		size  int64
		want  string
	}{
		{"slipway-data-a", 20 * mib, d.Path + "p1"},
		{"slipway-data-b", 0, d.Path + "p2"},
		{"slipway-data-a", 20 * mib, d.Path + "p1"}, // it is there
	} {
		if got, err := Place(d, c.label, c.size, ""); err != nil || got != c.want {
			t.Errorf("%s: %s, %v", c.label, got, err)
		}
	}
	if _, err := Place(d, "slipway-data-c", 0, ""); !errors.Is(err, disk.ErrNoRoom) {
		t.Errorf("a full drive: %v", err)
	}
	if got := withPartitions(t, d).Partitions; len(got) != 2 || got[0].Size != 20*mib || got[1].Start != 21*mib {
		t.Errorf("the kernel sees %+v", got)
	}
}

func TestPlaceRefusesWhatIsNotOurs(t *testing.T) {
	var path string
	for name, fill := range map[string]func() error{
		"a file system": func() error {
			return os.WriteFile(path, append(make([]byte, 2000), append([]byte("ext"), make([]byte, 50*mib-2003)...)...), 0o600)
		},
		"another's table": func() error {
			if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 50*mib)); err != nil {
				return err
			}
			return exec.Command("sgdisk", "-n", "1:0:0", "-c", "1:photos", path).Run()
		},
	} {
		path = filepath.Join(t.TempDir(), "drive")
		if err := fill(); err != nil {
			t.Skip(err)
		}
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Place(drives.Drive{Path: path, Size: int64(len(before)), SectorSize: 512}, "slipway-data-a", 0, "another id")
		if !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v", name, err)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s was changed: %v", name, err)
		}
		_, id, _ := strings.Cut(err.Error(), "its id is ")
		confirmed := loopDrive(t, drives.Drive{Path: path, Size: int64(len(before)), SectorSize: 512})
		if got, err := Place(confirmed, "slipway-data-a", 0, strings.TrimSuffix(id, ")")); err != nil || got != confirmed.Path+"p1" {
			t.Errorf("%s, given up by its id: %s, %v", name, got, err)
		}
	}
}

// TestDeviceWhereTheKernelSeesNoPartition: of a CD-ROM it shows none.
func TestDeviceWhereTheKernelSeesNoPartition(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("loop devices need root")
	}
	d := drive(t, "d", "1", rootHash, 512, 0)
	d.Optical = true
	m, err := search(t, Search{Optical: true}, d)
	if err != nil {
		t.Fatal(err)
	}
	path, err := m.Device(m.Root, false)
	if err != nil {
		t.Skipf("no loop device can be had here: %v", err)
	}
	defer detach(t, path)
	got, err := os.ReadFile(path)
	if err != nil || int64(len(got)) != m.Root.Size || !bytes.HasPrefix(got, bytes.Repeat([]byte(rootHash[:8]), 4*4096/8)) || bytes.Contains(got[4*4096:], []byte(rootHash[:8])) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.Write([]byte("x"))
		f.Close()
	}
	if err == nil {
		t.Error("what is read-only can be written")
	}
}

// setVariable makes a variable as efivarfs shows it.
func setVariable(t testing.TB, folder, name, value string) {
	t.Helper()
	data := []byte{6, 0, 0, 0}
	for _, u := range utf16.Encode([]rune(value + "\x00")) {
		data = binary.LittleEndian.AppendUint16(data, u)
	}
	if err := os.WriteFile(filepath.Join(folder, name+"-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReadLoader(t *testing.T) {
	dir := t.TempDir()
	if l, ok, err := ReadLoader(dir); ok || err != nil {
		t.Errorf("without a loader: %+v, %v, %v", l, ok, err)
	}
	if _, ok, err := ReadLoader(filepath.Join(dir, "none")); ok || err != nil {
		t.Errorf("without UEFI: %v, %v", ok, err)
	}
	setVariable(t, dir, "LoaderInfo", "systemd-boot 257.7-1")
	if l, ok, err := ReadLoader(dir); !ok || err != nil || l != (Loader{Name: "systemd-boot 257.7-1"}) {
		t.Errorf("from a CD-ROM: %+v, %v, %v", l, ok, err)
	}
	setVariable(t, dir, "LoaderDevicePartUUID", "0A1B2C3D-0001-0002-0003-ABCDEFABCDEF")
	if l, ok, err := ReadLoader(dir); !ok || err != nil || l.ESP != "0a1b2c3d-0001-0002-0003-abcdefabcdef" {
		t.Errorf("from a disk: %+v, %v, %v", l, ok, err)
	}
	for _, wrong := range [][]byte{nil, {1, 0, 0, 0, 1}, slices.Repeat([]byte{0}, maxVariable+2)} {
		if err := os.WriteFile(filepath.Join(dir, "LoaderInfo-"+loaderVendor), wrong, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ReadLoader(dir); err == nil {
			t.Errorf("a variable of %d bytes passes", len(wrong))
		}
	}
}

func FuzzReadLoader(f *testing.F) {
	f.Add([]byte{6, 0, 0, 0, 'a', 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "LoaderInfo-"+loaderVendor), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if l, _, err := ReadLoader(dir); err == nil && strings.ContainsAny(l.Name, "\n\x00\x1b") {
			t.Errorf("%q gets through", l.Name)
		}
	})
}
