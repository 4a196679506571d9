package tftp

import (
	"bytes"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte("\x00\x01f\x00octet\x00"))
	f.Add([]byte("\x00\x01\\boot\\f\x00OCTET\x00tsize\x000\x00blksize\x001468\x00windowsize\x004\x00"))
	f.Add([]byte("\x00\x02f\x00netascii\x00timeout\x00300\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, packet []byte) {
		r, err := parseRequest(packet)
		if err != nil {
			return
		}
		o := r.options
		if o.blockSize != 0 && (o.blockSize < 8 || o.blockSize > 65464) || o.windowSize < 0 || o.windowSize > 65535 || o.timeout < 0 || o.timeout > 255 {
			t.Errorf("options out of range: %+v", o)
		}
		if len(o.order) > 4 || len(o.oack(1<<62)) > 256 {
			t.Errorf("option acknowledgement grows: %+v", o)
		}
		if name, err := cleanName(r.file); err == nil && (!fs.ValidPath(name) || strings.Contains(name, "..") && !strings.Contains(strings.ReplaceAll(name, "/", ""), "..")) {
			t.Errorf("%q became %q", r.file, name)
		}
	})
}

// FuzzTransfer gives a running transfer packets of chance: it neither crashes nor leaves its file, and what it sends stays in bounds.
func FuzzTransfer(f *testing.F) {
	f.Add(uint16(100), uint8(4), []byte("\x00\x04\x00\x00|\x00\x04\x00\x04|\x00\x04\x00\x02"))
	f.Add(uint16(8), uint8(1), []byte("\x00\x04\x00\x01|\x00\x04\x00\x01|\x00\x05\x00\x00stop\x00"))
	f.Add(uint16(512), uint8(16), []byte("\x00\x04\x00\x0f|\x00\x04\xff\xff|\x00\x03\x00\x01x||\x00"))
	f.Fuzz(func(t *testing.T, block uint16, window uint8, packets []byte) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[1])
		s := New(Config{})
		l, err := newLoop(s)
		if err != nil {
			t.Fatal(err)
		}
		defer l.close()
		s.loops = []*loop{l}
		size := int(block%9)*int(max(block, 8)) + int(window)
		data := random(size % 100_000)
		tr := &transfer{server: s, file: content{bytes.NewReader(data)}, size: int64(len(data)), place: -1}
		tr.grant(s.config, options{blockSize: max(8, int(block)), windowSize: max(1, int(window)), order: []string{"blksize"}})
		tr.port = port{fd: pair[0], own: true, control: segmentControl(headerSize + tr.block)}
		s.enter(tr)
		l.add(tr)
		for _, packet := range bytes.Split(packets, []byte("|")) {
			l.mu.Lock()
			tr.hear(packet)
			if len(packet) == 0 && !tr.ended {
				tr.silent()
			}
			if !tr.ended && (tr.first < 0 || tr.first > tr.blocks || tr.count < 1 || tr.count > tr.window || tr.place < 0) {
				t.Errorf("the transfer is at block %d of %d with %d of %d in a window", tr.first, tr.blocks, tr.count, tr.window)
			}
			l.mu.Unlock()
		}
		l.mu.Lock()
		tr.end(errStopped)
		l.mu.Unlock()
		s.done.Wait()
		if len(s.all)+len(s.client)+len(s.asking)+s.half.Len()+len(l.due)+len(l.transfers) > 0 {
			t.Error("something of the transfer is left")
		}
	})
}
