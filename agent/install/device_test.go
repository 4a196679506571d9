package install

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// failing is a device-mapper device over a loop device, whose reads and writes fail from sector to sector. Healed is the
// loop device itself.
func failing(t *testing.T, from, to int64) (device, healed string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("device mapper needs root")
	}
	for _, program := range []string{"losetup", "dmsetup"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("no " + program)
		}
	}
	run := func(in string, args ...string) string {
		t.Helper()
		c := exec.Command(args[0], args[1:]...)
		c.Stdin = strings.NewReader(in)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Skipf("%v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	healed = run("", "losetup", "--find", "--show", blank(t).Name())
	t.Cleanup(func() { exec.Command("losetup", "-d", healed).Run() })
	const sectors = diskSize / 512
	table := fmt.Sprintf("0 %d linear %s 0\n%d %d error\n%d %d linear %s %d\n", from, healed, from, to-from, to, sectors-to, healed, to)
	name := fmt.Sprintf("slipway-test-%d-%d", os.Getpid(), from)
	run(table, "dmsetup", "create", name)
	t.Cleanup(func() { exec.Command("dmsetup", "remove", "--retry", name).Run() })
	return "/dev/mapper/" + name, healed
}

// TestDiskFails: wherever a disk fails, the installation ends with an error, nothing boots from it, and once the disk is
// well again it starts anew.
func TestDiskFails(t *testing.T) {
	for _, tt := range []struct {
		name string
		from int64 // in sectors
	}{
		{"at the marker", markerAt / 512},
		{"in the root image", (513<<20 + 1<<20) / 512},
		{"at its end", diskSize/512 - 64},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path, healed := failing(t, tt.from, tt.from+8)
			device, err := os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			j := job(device, "0.1.0", "x")
			j.Flush = func() error { return FlushDevice(device) }
			_, err = j.Run(context.Background())
			device.Close()
			if err == nil || !strings.Contains(err.Error(), unix.EIO.Error()) {
				t.Fatalf("got %v", err)
			}
			after, err := os.OpenFile(healed, os.O_RDWR, 0)
			must(t, err)
			defer after.Close()
			must(t, FlushDevice(after))
			if _, word := look(t, after, "", false); word != "write" {
				t.Fatalf("on the healed disk: %s", word)
			}
			j = job(after, "0.1.0", "y")
			j.Flush = func() error { return FlushDevice(after) }
			_, err = j.Run(context.Background())
			must(t, err)
			if _, word := look(t, after, "", false); word != "done" {
				t.Error(word)
			}
		})
	}
}
