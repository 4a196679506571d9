package media

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
	"github.com/slipway-os/slipway/test/tap"
)

// trunk is a switch's port where frames of one VLAN have their tag, and no others pass: QEMU's end is a socket, the network's a tap. (Not
// every kernel that tests run on has VLANs.)
type trunk struct {
	tag       uint16
	near, far string // sockets, ours and QEMU's
}

// newTrunk makes a port on the bench's bridge.
func (b *bench) newTrunk(tag uint16) *trunk {
	t := b.t
	t.Helper()
	p := &trunk{tag: tag, near: filepath.Join(b.dir, "near"), far: filepath.Join(b.dir, "far")}
	const name = "slipwaytrunk"
	card, err := tap.Open(name)
	must(t, err)
	t.Cleanup(func() { card.Close() })
	run(t, "ip", "link", "set", name, "netns", b.space)
	run(t, "ip", "-n", b.space, "link", "set", name, "master", "br0", "up")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: p.near, Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { socket.Close() })
	go p.untag(socket, card)
	go p.insert(card, socket)
	return p
}

// Where a frame's tag is (IEEE 802.1Q): after both addresses, its type and 16 bits of priority and VLAN.
const addresses, tagSize = 12, 4

var tagType = []byte{0x81, 0x00}

// untag carries what the machine sends with the tag.
func (p *trunk) untag(from *net.UnixConn, to *os.File) {
	frame := make([]byte, 1<<16)
	for {
		n, err := from.Read(frame)
		if err != nil {
			return
		}
		f := frame[:n]
		if n < addresses+tagSize || !bytes.Equal(f[addresses:addresses+2], tagType) || binary.BigEndian.Uint16(f[addresses+2:])&0xfff != p.tag {
			continue
		}
		_, _ = to.Write(append(append([]byte(nil), f[:addresses]...), f[addresses+tagSize:]...))
	}
}

// insert carries what the network sends, with the tag.
func (p *trunk) insert(from *os.File, to *net.UnixConn) {
	frame := make([]byte, 1<<16)
	for {
		n, err := from.Read(frame)
		if err != nil {
			return
		}
		f := append(append([]byte(nil), frame[:addresses]...), tagType...)
		f = append(binary.BigEndian.AppendUint16(f, p.tag), frame[addresses:n]...)
		_, _ = to.WriteTo(f, &net.UnixAddr{Name: p.far, Net: "unixgram"}) // a machine that is off takes nothing
	}
}

// TestMachineWithUEFIOverAVLAN: the boot server is in a VLAN whose tag firmware was told. Firmware loads the image with it, the agent finds the
// tag out and asks with it too, and the running node has the document's links: its address is on the VLAN.
func TestMachineWithUEFIOverAVLAN(t *testing.T) {
	const tag = 100
	document := bytes.Replace(cluster.Lab(), []byte("cidr: 10.1.0.0/24"), []byte("cidr: 10.1.0.0/24, vlan: 100"), 1)
	b := newBenchFor(t, document, nil)
	port := b.newTrunk(tag)
	vars := filepath.Join(b.dir, "vars")
	args := pc().firmware(t, vars, "")
	// MdeModulePkg/Universal/Network/MnpDxe/MnpVlan.c: the tags of a card, by its MAC address; 2 bytes each.
	writeVariables(t, vars, []variable{{"525400000021", "9e23d768-d2f3-4366-9fc3-3a7aba864374", 1 | 2, binary.LittleEndian.AppendUint16(nil, tag)}})
	m := launchIn(t, b.space, append(args, "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=no",
		"-netdev", "dgram,id=boot,local.type=unix,local.path="+port.far+",remote.type=unix,remote.path="+port.near,
		"-device", "virtio-net-pci,netdev=boot,mac=52:54:00:00:00:21,romfile=,bootindex=1",
		"-netdev", "user,id=other,restrict=on", "-device", "virtio-net-pci,netdev=other,mac=52:54:00:00:01:21,romfile=")...)
	b.awaitLog(m, "for UEFI PXE", "tftp: sent")
	m.await("the firmware has booted over a VLAN")
	b.await(bootspec.EventNetworkUp, m)
	m.await("boot.100: rename to eth0.100")
	m.never("taking the change back")
}
