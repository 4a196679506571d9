package install

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
)

// TestInstall installs onto an empty disk and looks at it with everyone else's tools.
func TestInstall(t *testing.T) {
	device := blank(t)
	if _, word := look(t, device, "", false); word != "write" {
		t.Fatal(word)
	}
	var told int64
	j := job(device, "0.1.0", "first")
	j.Progress = func(done int64) { told = done }
	d, err := j.Run(context.Background())
	must(t, err)
	must(t, Verify(device, d, j.Image, j.Config))
	if told != j.Image.Root.Size {
		t.Errorf("progress ends at %d of %d", told, j.Image.Root.Size)
	}
	if program, err := exec.LookPath("sgdisk"); err == nil {
		out, err := exec.Command(program, "-v", device.Name()).CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("No problems found")) {
			t.Errorf("sgdisk -v: %v\n%s", err, out)
		}
	}
	state, _ := d.Partition(bootspec.LabelState)
	if end := state.Start + state.Size; end < diskSize-2<<20 {
		t.Errorf("the state ends at %d of %d", end, int64(diskSize))
	}
	f, word := look(t, device, "", false)
	if word != "done" || !f.Own || f.Begun {
		t.Fatalf("after it: %s %+v", word, f)
	}

	// Again only when someone says so, and then the id has changed with it, and the GUIDs too.
	if _, word := look(t, device, "", true); word != "write" {
		t.Error("told again:", word)
	}
	if _, word := look(t, device, f.ID, false); word != "write" {
		t.Error("confirmed:", word)
	}
	second, err := job(device, "0.1.0", "second").Run(context.Background())
	must(t, err)
	esp, _ := d.Partition(bootspec.LabelESP)
	newESP, _ := second.Partition(bootspec.LabelESP)
	if second.GUID == d.GUID || newESP.GUID == esp.GUID {
		t.Error("the second installation has the first one's GUIDs")
	}
	if _, word := look(t, device, f.ID, false); word != "done" {
		t.Error("the confirmation still counts after the second installation:", word)
	}

	// Another node of the cluster, or another cluster, has no right to it.
	for _, who := range [][2]string{{"lab", "worker-2"}, {"prod", "worker-1"}} {
		f, err := Look(device, diskSize, who[0], who[1])
		must(t, err)
		if _, err := Decide(f, "", true); !errors.Is(err, ErrForeign) {
			t.Errorf("%v: %v", who, err)
		}
	}
}

// TestForeign: file systems made by their own programs are found, and only their own id gives them up.
func TestForeign(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		make       [][]string // DISK stands for the disk
	}{
		{"ext4 on the whole disk", "disk: ext2/3/4", [][]string{{"mkfs.ext4", "-q", "-F", "DISK"}}},
		{"FAT", "disk: FAT", [][]string{{"mkfs.vfat", "-F", "32", "DISK"}}},
		{"LUKS", "disk: LUKS", [][]string{{"cryptsetup", "luksFormat", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "/etc/hostname", "DISK"}}},
		{"swap", "disk: swap", [][]string{{"mkswap", "DISK"}}},
		{"GPT", "disk: partition table GPT", [][]string{{"sgdisk", "-n", "1:2048:+100M", "-c", "1:data", "DISK"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			device := blank(t)
			for _, args := range tt.make {
				if _, err := exec.LookPath(args[0]); err != nil {
					t.Skip("no " + args[0])
				}
				for i := range args {
					args[i] = strings.Replace(args[i], "DISK", device.Name(), 1)
				}
				if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
					t.Fatalf("%v: %v\n%s", args, err, out)
				}
			}
			f, word := look(t, device, "", true)
			if !strings.HasPrefix(word, "refuse: it holds data that this node has not installed: ") || !strings.Contains(word, tt.want) || !strings.Contains(word, f.ID) {
				t.Fatal(word)
			}
			if _, word := look(t, device, "0123456789ab", false); !strings.Contains(word, `"0123456789ab" there is of other data`) {
				t.Error(word)
			}
			if _, word := look(t, device, f.ID, false); word != "write" {
				t.Error(word)
			}
			_, err := job(device, "0.1.0", "x").Run(context.Background())
			must(t, err)
			if _, word := look(t, device, f.ID, false); word != "done" {
				t.Error(word)
			}
		})
	}
}

// TestNodesOwnVolume: a disk of ours with a data volume on it is not given up by an installation that is told to go again.
func TestNodesOwnVolume(t *testing.T) {
	if _, err := exec.LookPath("sgdisk"); err != nil {
		t.Skip("no sgdisk")
	}
	device := blank(t)
	_, err := job(device, "0.1.0", "x").Run(context.Background())
	must(t, err)
	// The last partition is made smaller for one more.
	for _, args := range [][]string{{"-d", "7"}, {"-n", "7:0:+64M", "-c", "7:" + bootspec.LabelState}, {"-n", "8:0:0", "-c", "8:slipway-data-logs"}} {
		if out, err := exec.Command("sgdisk", append(args, device.Name())...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	if _, word := look(t, device, "", true); !strings.Contains(word, "slipway-data-logs") || !strings.HasPrefix(word, "refuse") {
		t.Error(word)
	}
}

// TestNothingIsWrittenThatDoesNotFit.
func TestNothingIsWrittenThatDoesNotFit(t *testing.T) {
	device := blank(t)
	small := job(device, "0.1.0", "x")
	small.Size = 500 << 20
	noLoader := job(device, "0.1.0", "x")
	noLoader.Image.Loader = nil
	full := job(device, "0.1.0", "x")
	full.Image.Loader = make([]byte, 600<<20)
	for _, c := range []struct {
		job  Job
		want string
	}{
		{small, "the device is too small: it has 500 MiB"},
		{noLoader, "there is no boot loader"},
		{full, "too little room to grow: slipway-esp with 2 kernel images"},
	} {
		if _, err := c.job.Run(context.Background()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	if f, err := Look(device, diskSize, "lab", "worker-1"); err != nil || f.ID != "" || f.Begun {
		t.Errorf("something was written: %+v %v", f, err)
	}
}

// TestSourceFails: a root image that ends early, or has other bytes, or whose reading is broken off, leaves no disk that boots.
func TestSourceFails(t *testing.T) {
	whole := new(bytes.Buffer)
	must(t, testImage("0.1.0").CopyRoot(whole))
	changed := bytes.Clone(whole.Bytes())
	changed[100_000] ^= 1
	gone := errors.New("the stick is gone")
	cancel := func() {}
	for name, c := range map[string]struct {
		source func(io.Writer) error
		want   string
	}{
		"short":       {func(w io.Writer) error { _, err := w.Write(whole.Bytes()[:1<<20]); return err }, "root image"},
		"other bytes": {func(w io.Writer) error { _, err := w.Write(changed); return err }, "what was written reads differently"},
		"gone":        {func(w io.Writer) error { w.Write(whole.Bytes()[:4096]); return gone }, gone.Error()},
		"cancelled":   {func(w io.Writer) error { cancel(); _, err := w.Write(whole.Bytes()); return err }, "context canceled"},
	} {
		ctx, end := context.WithCancel(context.Background())
		defer end()
		cancel = end
		device := blank(t)
		j := job(device, "0.1.0", "x")
		j.Image.CopyRoot = c.source
		if _, err := j.Run(ctx); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
		if _, err := disk.Read(device, diskSize); err == nil {
			t.Errorf("%s: there is a partition table", name)
		}
		if f, word := look(t, device, "", false); word != "write" || !f.Begun {
			t.Errorf("%s: the installation doesn't start again: %s", name, word)
		}
	}
}

func TestCheckUKI(t *testing.T) {
	image := testImage("0.1.0")
	booted := digestOf(t, image.UKI)
	must(t, CheckUKI(image.UKI, image.Root, booted))
	kernel, words := bytes.Clone(image.UKI), bytes.Replace(image.UKI, []byte("quiet"), []byte("debug"), 1)
	kernel[bytes.Index(kernel, noise("kernel "+image.Root.Image, 32))+100_000] ^= 1
	for name, c := range map[string]struct {
		uki  []byte
		want string
	}{
		"another image":   {testImage("0.2.0").UKI, "it boots image slipway-worker-0.2.0-amd64"},
		"another kernel":  {kernel, "it is not the one that this machine booted: its SHA-256"},
		"other arguments": {words, "it is not the one that this machine booted"},
		"longer":          {append(bytes.Clone(image.UKI), 0), "it is not the one that this machine booted"},
		"older":           {bytes.Replace(image.UKI, []byte(bootspec.ArgUKI), []byte("slipway.old.sha256"), 1), "it was baked by an older slipway"},
		"nothing":         {nil, "it is no unified kernel image"},
		"no command line": {peFile(map[string][]byte{".linux": {1}}), "it has no kernel command line"},
		"empty":           {peFile(map[string][]byte{".cmdline": {0}}), "kernel argument slipway.image"},
		"long":            {peFile(map[string][]byte{".cmdline": make([]byte, maxCmdline+1)}), "its kernel command line is over 65536 bytes"},
	} {
		if err := CheckUKI(c.uki, image.Root, booted); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

// FuzzLook looks at disks that anybody may have written.
func FuzzLook(f *testing.F) {
	f.Add([]byte{}, int64(0))
	f.Add([]byte("EFI PART"), int64(512))
	mark := newMarker("lab", "worker-1", "x")
	f.Add(mark[:], int64(markerAt))
	f.Fuzz(func(t *testing.T, data []byte, at int64) {
		const size = 2 << 20
		image := make([]byte, size)
		if at >= 0 && at < size {
			copy(image[at:], data)
		}
		found, err := Look(bytes.NewReader(image), size, "lab", "worker-1")
		if err != nil {
			t.Fatal(err)
		}
		if write, err := Decide(found, "", false); err == nil && !write {
			t.Fatal("it is taken for an installation")
		}
	})
}

// FuzzCheckUKI reads files that are no unified kernel images.
func FuzzCheckUKI(f *testing.F) {
	image := testImage("0.1.0")
	booted := digestOf(f, image.UKI)
	f.Add(image.UKI)
	f.Add(peFile(map[string][]byte{".cmdline": []byte("slipway.image=x")}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if CheckUKI(data, image.Root, booted) == nil && !bytes.Equal(data, image.UKI) {
			t.Fatal("another file passes")
		}
	})
}
