package tftp

import (
	"io/fs"
	"strings"
	"testing"
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
