package rack

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

// TestOfPods has frames as a wire carries them.
func TestOfPods(t *testing.T) {
	const ethernet, tag = "525400000001525400000002", "81000065"
	ip := func(protocol, from, to string) string {
		return "0800" + "4500003c0000000040" + protocol + "0000" + from + to
	}
	const pod1, pod2, node1, node2 = "0af40105", "0af40206", "ac10010b", "ac100115"
	vxlan := func(port, inner string) string {
		return ethernet + ip("11", node1, node2) + "c000" + port + "00000000" + "0800000000000100" + inner
	}
	for name, tt := range map[string]struct {
		frame string
		want  bool
	}{
		"pod to pod":               {ethernet + ip("06", pod1, pod2), true},
		"pod to node":              {ethernet + ip("06", pod1, node2), true},
		"tagged":                   {ethernet + tag + ip("06", node1, pod2), true},
		"in VXLAN":                 {vxlan("2118", ethernet+ip("06", pod1, pod2)), true},
		"nodes in VXLAN":           {vxlan("2118", ethernet+ip("06", node1, node2)), false},
		"another port":             {vxlan("2119", ethernet+ip("06", pod1, pod2)), false},
		"cut in VXLAN":             {vxlan("2118", ethernet+"0800"), false},
		"node to node":             {ethernet + ip("06", node1, node2), false},
		"ARP":                      {ethernet + "0806" + strings.Repeat("00", 28), false},
		"not long enough to be IP": {ethernet + "080045", false},
		"nothing":                  {"", false},
	} {
		frame, err := hex.DecodeString(tt.frame)
		if err != nil {
			t.Fatal(err)
		}
		if got := ofPods(frame, netip.MustParsePrefix("10.244.0.0/16")); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzOfPods(f *testing.F) {
	f.Add([]byte("RT\x00\x00\x00\x01RT\x00\x00\x00\x02\x08\x00E\x00\x00<\x00\x00\x00\x00@\x11\x00\x00\x0a\xf4\x01\x05\x0a\xf4\x01\x06"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if ofPods(frame, netip.MustParsePrefix("10.244.0.0/16")) && len(frame) < 34 {
			t.Errorf("a frame of %d bytes has no IPv4 in it", len(frame))
		}
	})
}
