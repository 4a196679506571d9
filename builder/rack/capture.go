package rack

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// capture counts the frames of pods that go from node to node, by the network they take: on every tap, from before the
// checks on.
type capture struct {
	pods   netip.Prefix
	counts map[string]*atomic.Int64 // by bridge
	stop   chan struct{}
}

// vxlanPort is where flanneld's VXLAN goes: Linux's own default, not RFC 7348's.
const vxlanPort = 8472

// newCapture begins to count.
func (r *rack) newCapture() (*capture, error) {
	c := &capture{pods: r.Cluster.Kubernetes.PodCIDR, counts: map[string]*atomic.Int64{}, stop: make(chan struct{})}
	err := r.space.do(func() error {
		for _, t := range taps(r.Cluster) {
			if t.Bridge == "" {
				continue
			}
			if c.counts[t.Bridge] == nil {
				c.counts[t.Bridge] = &atomic.Int64{}
			}
			socket, err := tapSocket(t.Name)
			if err != nil {
				return fmt.Errorf("cannot capture on %s: %w", t.Name, err)
			}
			go c.count(socket, c.counts[t.Bridge])
		}
		return nil
	})
	if err != nil {
		close(c.stop)
		return nil, err
	}
	return c, nil
}

// tapSocket is a packet socket on a link (packet(7)), whose reads end after half a second.
func tapSocket(name string) (int, error) {
	const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network byte order
	link, err := netlink.LinkByName(name)
	if err != nil {
		return 0, err
	}
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	err = unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 500_000})
	if err == nil {
		err = unix.Bind(s, &unix.SockaddrLinklayer{Protocol: all & 0xffff, Ifindex: link.Attrs().Index})
	}
	if err != nil {
		unix.Close(s)
		return 0, err
	}
	return s, nil
}

// count reads the beginnings of frames until the capture ends.
func (c *capture) count(socket int, seen *atomic.Int64) {
	defer unix.Close(socket)
	frame := make([]byte, 128)
	for {
		select {
		case <-c.stop:
			return
		default:
		}
		if n, _, err := unix.Recvfrom(socket, frame, 0); err == nil && ofPods(frame[:n], c.pods) {
			seen.Add(1)
		}
	}
}

// ofPods says whether an Ethernet frame is from or to a pod, as it is or within VXLAN.
func ofPods(frame []byte, pods netip.Prefix) bool {
	packet, ok := ipv4(frame)
	if !ok {
		return false
	}
	if ends(packet, pods) {
		return true
	}
	header := int(packet[0]&15) * 4
	if packet[9] != unix.IPPROTO_UDP || len(packet) < header+16 || binary.BigEndian.Uint16(packet[header+2:]) != vxlanPort {
		return false
	}
	inner, ok := ipv4(packet[header+16:]) // UDP's header and VXLAN's, 8 bytes each (RFC 7348, 5)
	return ok && ends(inner, pods)
}

// ipv4 is the IPv4 packet in an Ethernet frame, with or without a VLAN tag.
func ipv4(frame []byte) ([]byte, bool) {
	at := 12
	if len(frame) > at+4 && binary.BigEndian.Uint16(frame[at:]) == unix.ETH_P_8021Q {
		at += 4
	}
	if len(frame) < at+2+20 || binary.BigEndian.Uint16(frame[at:]) != unix.ETH_P_IP || frame[at+2]>>4 != 4 {
		return nil, false
	}
	return frame[at+2:], true
}

// ends says whether a packet's source or destination is in a prefix.
func ends(packet []byte, p netip.Prefix) bool {
	return p.Contains(netip.AddrFrom4([4]byte(packet[12:16]))) || p.Contains(netip.AddrFrom4([4]byte(packet[16:20])))
}

// apart wants pods' frames between nodes on the container network, and on no other.
func (r *rack) apart(ctx context.Context, all pods) error {
	if err := succeeded("visitor")(ctx, all); err != nil {
		return err
	}
	time.Sleep(time.Second) // what is underway arrives
	container := r.Cluster.Container()
	for _, b := range bridges(r.Cluster) {
		seen := int64(0)
		if n := r.capture.counts[b.Name]; n != nil {
			seen = n.Load()
		}
		switch {
		case b.Network == container && seen == 0:
			return fmt.Errorf("no frame of a pod was seen on network %s", b.Network)
		case b.Network != container && seen > 0:
			return fmt.Errorf("%d frames of pods were seen on network %s", seen, b.Network)
		}
	}
	return nil
}
