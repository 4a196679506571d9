package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Names of the links.
const (
	machineLink = "rack0"
	serverLink  = "boot0"
)

// connect makes the server's namespace and joins it with this one, which is that of all machines: every address of theirs is local
// here, and what goes to any of their MAC addresses is taken.
func connect(loss int) (server netns.NsHandle, err error) {
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, the namespace stays as long as its handle
		var err error
		server, err = netns.New()
		made <- err
	}()
	if err := <-made; err != nil {
		return server, fmt.Errorf("cannot make a network namespace: %w", err)
	}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: machineLink}, PeerName: serverLink, PeerNamespace: netlink.NsFd(server)}
	if err := netlink.LinkAdd(pair); err != nil {
		return server, fmt.Errorf("cannot make a link: %w", err)
	}
	if err := within(server, exec.Command("sh", "-ec", `
ip link set lo up
ip link set `+serverLink+` up
ip address add `+serverAddress+`/16 dev `+serverLink+ingress(serverLink, loss))); err != nil {
		return server, err
	}
	return server, here(exec.Command("sh", "-ec", `
ip link set lo up
ip link set `+machineLink+` up
ip link set `+machineLink+` promisc on
ip address add 10.64.0.2/32 dev `+machineLink+`
ip route add local `+machineNetwork+` dev lo
ip route add `+serverAddress+` dev `+machineLink+ingress(machineLink, loss)+`
nft add rule netdev rack in meta pkttype set host
`))
}

// ingress is how a link comes to a chain of rules for what arrives, and to lose some of that.
func ingress(link string, loss int) string {
	return fmt.Sprintf(`
nft add table netdev rack
nft 'add chain netdev rack in { type filter hook ingress device %s priority 0; }'
nft add rule netdev rack in numgen random mod 100 '<' %d drop
`, link, loss)
}

func here(c *exec.Cmd) error {
	if said, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot set the network up: %w: %s", err, said)
	}
	return nil
}

func within(space netns.NsHandle, c *exec.Cmd) error {
	return inSpace(space, func() error { return here(c) })
}

// inSpace runs a function in a namespace, on a thread of its own.
func inSpace(space netns.NsHandle, work func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread must not come back
		err := netns.Set(space)
		if err == nil {
			err = work()
		}
		done <- err
	}()
	return <-done
}

// heard is an answer, and when its frame arrived by the kernel's word: this program is busy with all the other machines.
type heard struct {
	*dhcpv4.DHCPv4
	at time.Time
}

// radio sends and hears DHCP as frames, for all machines.
type radio struct {
	socket int
	link   int
	mu     sync.Mutex
	ears   map[string]chan heard // by MAC address
}

func openRadio() (*radio, error) {
	fail := func(err error) (*radio, error) { return nil, fmt.Errorf("cannot send frames: %w", err) }
	link, err := net.InterfaceByName(machineLink)
	if err != nil {
		return fail(err)
	}
	protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP))
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	err = errors.Join(
		filter(socket),
		unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
		unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: link.Index}))
	if err != nil {
		_ = unix.Close(socket)
		return fail(err)
	}
	r := &radio{socket: socket, link: link.Index, ears: map[string]chan heard{}}
	go r.hear()
	return r, nil
}

// filter lets only what goes to DHCP clients through.
func filter(socket int) error {
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 23, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 36, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 68, SkipTrue: 1},
		bpf.RetConstant{Val: 65535},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return err
	}
	instructions := make([]unix.SockFilter, len(program))
	for i, p := range program {
		instructions[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	return unix.SetsockoptSockFprog(socket, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(instructions)), Filter: &instructions[0]})
}

// hear gives answers to the machines that they are for.
func (r *radio) hear() {
	frame, control := make([]byte, 4096), make([]byte, 256)
	for {
		n, length, _, _, err := unix.Recvmsg(r.socket, frame, control, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.ENETDOWN) { // the end
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "thousand: cannot hear frames:", err)
			return
		}
		const before = 14 + 20 + 8 // Ethernet, IPv4, UDP
		if n < before {
			continue
		}
		answer, err := dhcpv4.FromBytes(frame[before:n])
		if err != nil {
			continue
		}
		r.mu.Lock()
		ear := r.ears[answer.ClientHWAddr.String()]
		r.mu.Unlock()
		select {
		case ear <- heard{answer, arrival(control[:length])}:
		default:
		}
	}
}

// arrival is when a frame has arrived.
func arrival(control []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(control)
	if err == nil {
		for _, m := range messages {
			if m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
				return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
			}
		}
	}
	return time.Now()
}

// ear is where a machine hears answers.
func (r *radio) ear(mac net.HardwareAddr) chan heard {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := make(chan heard, 16)
	r.ears[mac.String()] = c
	return c
}

// send broadcasts a request from a MAC address.
func (r *radio) send(mac net.HardwareAddr, request *dhcpv4.DHCPv4) error {
	payload := request.ToBytes()
	frame := make([]byte, 0, 42+len(payload))
	frame = append(frame, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	frame = append(frame, mac...)
	frame = append(frame, 0x08, 0x00, 0x45, 0)
	frame = binary.BigEndian.AppendUint16(frame, uint16(28+len(payload)))
	frame = append(frame, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255)
	binary.BigEndian.PutUint16(frame[24:], checksum(frame[14:34]))
	frame = append(frame, 0, 68, 0, 67)
	frame = binary.BigEndian.AppendUint16(frame, uint16(8+len(payload)))
	frame = append(append(frame, 0, 0), payload...) // a checksum of 0: none (RFC 768)
	to := &unix.SockaddrLinklayer{Ifindex: r.link, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	return unix.Sendto(r.socket, frame, 0, to)
}

// checksum of an IPv4 header (RFC 791).
func checksum(header []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
