package install

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"testing"

	"github.com/slipway-os/slipway/images/disk"
)

// recorder is a device that remembers what was written, and when it was made durable.
type recorder struct {
	*pages
	log []op
}

// op is a write, or a sync where data is nil.
type op struct {
	at   int64
	data []byte
}

func (r *recorder) WriteAt(p []byte, at int64) (int, error) {
	r.log = append(r.log, op{at, append([]byte{}, p...)})
	return r.pages.WriteAt(p, at)
}

func (r *recorder) Sync() error { r.log = append(r.log, op{}); return nil }

// pages is what was written over a disk that stays as it is.
type pages struct {
	base    io.ReaderAt
	written map[int64][]byte // by number of the page
}

const pageSize = 4096

func over(base io.ReaderAt) *pages { return &pages{base, map[int64][]byte{}} }

func (p *pages) ReadAt(b []byte, at int64) (int, error) {
	n := 0
	for n < len(b) {
		number, from := (at+int64(n))/pageSize, (at+int64(n))%pageSize
		part := b[n : n+min(len(b)-n, int(pageSize-from))]
		if page, ok := p.written[number]; ok {
			copy(part, page[from:])
		} else if got, err := p.base.ReadAt(part, at+int64(n)); err != nil {
			return n + got, err
		}
		n += len(part)
	}
	return n, nil
}

func (p *pages) WriteAt(b []byte, at int64) (int, error) {
	for n := 0; n < len(b); {
		number, from := (at+int64(n))/pageSize, (at+int64(n))%pageSize
		page, ok := p.written[number]
		if !ok {
			page = make([]byte, pageSize)
			if got, err := p.base.ReadAt(page, number*pageSize); err != nil && (err != io.EOF || got == 0) {
				return n, err
			}
			p.written[number] = page
		}
		n += copy(page[from:], b[n:])
	}
	return len(b), nil
}

func (p *pages) Sync() error { return nil }

// cut is the device after the power went at step n: all that was made durable before is there; of the rest, any sectors.
func cut(base io.ReaderAt, log []op, n int, chance *rand.Rand) *pages {
	durable := n
	for durable > 0 && log[durable-1].data != nil {
		durable--
	}
	after := over(base)
	for _, o := range log[:durable] {
		_, _ = after.WriteAt(o.data, o.at)
	}
	for _, o := range log[durable:n] {
		for at := 0; at < len(o.data); at += pageSize {
			if chance.IntN(2) == 0 {
				_, _ = after.WriteAt(o.data[at:min(len(o.data), at+pageSize)], o.at+int64(at))
			}
		}
	}
	return after
}

// TestPowerCut cuts the power at many moments of an installation: onto an empty disk, over a stranger's, over this node's
// own earlier one. Then firmware finds the old system whole, or the new one whole, or nothing; and the agent installs
// again whenever it isn't the new one.
func TestPowerCut(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(*testing.T, string)
	}{
		{"empty", func(*testing.T, string) {}},
		{"foreign", foreign},
		{"own", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := blank(t)
			var old *disk.Disk
			if tt.prepare != nil {
				tt.prepare(t, base.Name())
			} else {
				var err error
				old, err = job(base, "0.0.9", "old").Run(context.Background())
				must(t, err)
			}
			before, _ := look(t, base, "", false)
			r := &recorder{pages: over(base)}
			j := job(base, "0.1.0", "new")
			j.Device = r
			fresh, err := j.Run(context.Background())
			must(t, err)
			chance := rand.New(rand.NewPCG(1, 2))
			outcomes := map[string]int{}
			for _, n := range moments(r.log) {
				outcomes[judge(t, cut(base, r.log, n, chance), n, before.ID, old, fresh)]++
			}
			t.Log(len(r.log), "steps;", outcomes)
			if outcomes["nothing"] == 0 || outcomes["new"] == 0 || (outcomes["old"] == 0) != (old == nil) {
				t.Errorf("not all that can happen happened: %v", outcomes)
			}
		})
	}
}

// moments are the steps to cut at: all around the beginning, the end and each sync, and some of the many between.
func moments(log []op) []int {
	var list []int
	near := func(i int) bool {
		for k := max(0, i-3); k < min(len(log), i+3); k++ {
			if log[k].data == nil {
				return true
			}
		}
		return i < 8 || i > len(log)-8
	}
	for i := range len(log) + 1 {
		if near(i) || i%(len(log)/20+1) == 0 {
			list = append(list, i)
		}
	}
	return list
}

// judge says what firmware finds, and fails when it is half of something.
func judge(t *testing.T, after *pages, n int, confirmed string, old, fresh *disk.Disk) string {
	t.Helper()
	found := "nothing"
	d, err := disk.Read(after, diskSize)
	switch {
	case err != nil:
	case d.GUID == fresh.GUID:
		found = "new"
		if err := Verify(after, d, testImage("0.1.0"), testConfig()); err != nil {
			t.Fatalf("cut at %d: firmware finds the new partition table, but %v", n, err)
		}
	case old != nil && d.GUID == old.GUID:
		found = "old"
		if err := Verify(after, d, testImage("0.0.9"), testConfig()); err != nil {
			t.Fatalf("cut at %d: firmware finds the old partition table, but %v", n, err)
		}
	default:
		found = "foreign"
	}
	if _, word := look(t, after, confirmed, true); word != "write" && found != "new" {
		t.Fatalf("cut at %d: firmware finds %s, and the installation doesn't start again: %s", n, found, word)
	}
	// Without the order to install again, an installation is left alone only when it is whole.
	if _, word := look(t, after, "", false); word == "done" && found != "new" && found != "old" {
		t.Fatalf("cut at %d: firmware finds %s, and the agent takes it for an installation", n, found)
	}
	return found
}

// foreign makes a stranger's disk, with a partition that begins where old tools had it begin.
func foreign(t *testing.T, path string) {
	for _, args := range [][]string{{"sgdisk", "-a", "8", "-n", "1:64:+300M", "-n", "2:0:+300M", path}, {"mkfs.ext4", "-q", "-F", "-E", "offset=700000000", path, "10000"}} {
		if _, err := exec.LookPath(args[0]); err != nil {
			t.Skip("no " + args[0])
		}
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatal(fmt.Errorf("%v: %w: %s", args, err, out))
		}
	}
}
