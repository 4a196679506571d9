package rack

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// namespaceFolder is where iproute2 looks for namespaces by name.
const namespaceFolder = "/run/netns"

// namespace is a named network namespace and one operating-system thread that lives in it. Processes that are started
// on that thread live in the namespace, and the kernel kills them when the thread ends, however this program ends.
type namespace struct {
	name string
	jobs chan func()
}

func namespaceName(c *cluster.Cluster) string { return "slipway-" + c.Metadata.Name }

// newNamespace makes a namespace that `ip netns exec NAME` finds too.
func newNamespace(name string) (*namespace, error) {
	n := &namespace{name: name, jobs: make(chan func())}
	ready := make(chan error)
	go n.thread(ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("cannot make network namespace %s: %w", name, err)
	}
	return n, nil
}

// thread owns the locked thread. It never unlocks, so that the thread dies with the goroutine.
func (n *namespace) thread(ready chan<- error) {
	runtime.LockOSThread()
	err := n.make()
	ready <- err
	if err != nil {
		return
	}
	for job := range n.jobs {
		job()
	}
}

// make puts the thread into a new namespace.
func (n *namespace) make() error {
	if err := shareNamespaceFolder(); err != nil {
		return err
	}
	handle, err := netns.NewNamed(n.name) // the thread is in it then
	if err != nil {
		return err
	}
	handle.Close()
	return isolate()
}

// shareNamespaceFolder makes the folder a mount of its own, as `ip netns add` does. Were that left to the next `ip netns add` of
// somebody else, it would cover the names that are there, and they could not be removed.
func shareNamespaceFolder() error {
	if err := os.MkdirAll(namespaceFolder, 0o755); err != nil {
		return err
	}
	err := unix.Mount("", namespaceFolder, "none", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	if err := unix.Mount(namespaceFolder, namespaceFolder, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return unix.Mount("", namespaceFolder, "none", unix.MS_SHARED|unix.MS_REC, "")
}

// isolate makes the namespace a rack's network: loopback up, nothing forwarded between its networks. It runs on the
// namespace's thread; a new namespace may have taken over the host's settings (net.core.devconf_inherit_init_net).
func isolate() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	for _, f := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile(filepath.Join("/proc/sys/net", f), []byte("0\n"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// do runs a job on the namespace's thread.
func (n *namespace) do(job func() error) error {
	result := make(chan error, 1)
	n.jobs <- func() { result <- job() }
	return <-result
}

// start starts a command in the namespace; it is killed when the namespace's thread or this program ends.
func (n *namespace) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &unix.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	cmd.SysProcAttr.Setpgid = true // Ctrl-C is for us alone: we end our children in order
	return n.do(cmd.Start)
}

// dial connects from within the namespace.
func (n *namespace) dial(d *net.Dialer, network, address string) (conn net.Conn, err error) {
	err = n.do(func() error {
		conn, err = d.Dial(network, address)
		return err
	})
	return conn, err
}

// close ends the thread and removes the name; the namespace goes when its last process has gone.
func (n *namespace) close() error {
	close(n.jobs)
	return removeNamespace(n.name)
}

func removeNamespace(name string) error {
	file := filepath.Join(namespaceFolder, name)
	if err := unix.Unmount(file, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot remove network namespace %s: %w", name, err)
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove network namespace %s: %w", name, err)
	}
	return nil
}

// wire makes a bridge for every network of the cluster and a tap for every physical link of a node.
func (n *namespace) wire(c *cluster.Cluster) error {
	return n.do(func() error {
		for _, b := range bridges(c) {
			if err := makeBridge(b); err != nil {
				return err
			}
		}
		for _, t := range taps(c) {
			if err := makeTap(t); err != nil {
				return err
			}
		}
		return nil
	})
}

// bridge is one network of the rack.
type bridge struct {
	Name    string       // of the kernel link
	Network string       // of the cluster document
	Address netip.Prefix // the boot server's, on the network it serves; else zero
	// Address6 is its IPv6 one, if machines boot over that too.
	Address6 netip.Prefix
}

// tap is the rack's end of one network interface of a node.
type tap struct {
	Name   string // of the kernel link: at most 15 bytes
	Node   string
	MAC    string
	Bridge string // empty: the link is on no network
}

// bridges are the cluster's networks in the order of their names: br0, br1...
func bridges(c *cluster.Cluster) []bridge {
	var list []bridge
	for i, name := range networkNames(c) {
		b := bridge{Name: fmt.Sprintf("br%d", i), Network: name}
		if cidr := c.Networks[name].CIDR; cidr.Contains(c.Provisioning.Server) {
			b.Address = netip.PrefixFrom(c.Provisioning.Server, cidr.Bits())
			if six := c.Provisioning; six.Server6.IsValid() {
				b.Address6 = netip.PrefixFrom(six.Server6, six.Subnet6.Bits())
			}
		}
		list = append(list, b)
	}
	return list
}

// ServerInterface is the bridge that the boot server listens on.
func serverInterface(c *cluster.Cluster) string {
	for _, b := range bridges(c) {
		if b.Address.IsValid() {
			return b.Name
		}
	}
	return ""
}

// taps are the physical links of all nodes, in the document's order: tap0.0 is the first node's first.
func taps(c *cluster.Cluster) []tap {
	byNetwork := map[string]string{}
	for _, b := range bridges(c) {
		byNetwork[b.Network] = b.Name
	}
	var list []tap
	for i := range c.Nodes {
		node := &c.Nodes[i]
		for j, l := range physical(node) {
			list = append(list, tap{Name: fmt.Sprintf("tap%d.%d", i, j), Node: node.Name, MAC: string(l.MAC), Bridge: byNetwork[l.Network]})
		}
	}
	return list
}

func makeBridge(b bridge) error {
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: b.Name}}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("cannot make bridge %s for network %s: %w", b.Name, b.Network, err)
	}
	for _, a := range []netip.Prefix{b.Address, b.Address6} {
		if !a.IsValid() {
			continue
		}
		ipnet := &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipnet}); err != nil {
			return fmt.Errorf("cannot give %s the boot server's address: %w", b.Name, err)
		}
	}
	return netlink.LinkSetUp(link)
}

func makeTap(t tap) error {
	link := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: t.Name}, Mode: netlink.TUNTAP_MODE_TAP, NonPersist: false, Flags: netlink.TUNTAP_DEFAULTS}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("cannot make tap %s for %s: %w", t.Name, t.Node, err)
	}
	for _, f := range link.Fds {
		f.Close() // QEMU opens its own
	}
	if t.Bridge != "" {
		master, err := netlink.LinkByName(t.Bridge)
		if err != nil {
			return fmt.Errorf("cannot connect %s: %w", t.Name, err)
		}
		if err := netlink.LinkSetMaster(link, master); err != nil {
			return fmt.Errorf("cannot connect %s to %s: %w", t.Name, t.Bridge, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// physical are the node's links that have a network interface of their own. One that only carries others is plugged
// into the network of the first of them; a member of a bond or bridge into that of its master.
func physical(n *cluster.Node) []cluster.Link {
	var list []cluster.Link
	for _, l := range n.Links {
		if l.Kind != bootspec.KindPhysical || l.MAC == "" {
			continue
		}
		l.Network = carried(n, l, len(n.Links))
		list = append(list, l)
	}
	return list
}

// carried is the network of a link, or of the first one on it that has one.
func carried(n *cluster.Node, l cluster.Link, depth int) string {
	if l.Network != "" || depth == 0 {
		return l.Network
	}
	for _, upper := range n.Links {
		if upper.Parent == l.Name || slices.Contains(upper.Members, l.Name) {
			if network := carried(n, upper, depth-1); network != "" {
				return network
			}
		}
	}
	return ""
}

func networkNames(c *cluster.Cluster) []string { return slices.Sorted(maps.Keys(c.Networks)) }
