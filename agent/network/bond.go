package network

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

// BondState is a bond's options, those that count in its mode. The zero BondState is no bond.
type BondState struct {
	Mode   string
	MIIMon int // milliseconds
	LACP   string
	Hash   string
}

// wantedBond is a document's bond with its defaults.
func wantedBond(b bootspec.Bond) BondState {
	s := BondState{Mode: b.Mode, MIIMon: cmp.Or(b.MIIMon, 100)}
	if b.Mode == bootspec.BondLACP {
		s.LACP = cmp.Or(b.LACP, "slow")
	}
	if b.Hashes() {
		s.Hash = cmp.Or(b.Hash, "layer3+4")
	}
	return s
}

// readBond is what the kernel says of a bond.
func readBond(b *netlink.Bond) BondState {
	document := bootspec.Bond{Mode: b.Mode.String(), MIIMon: b.Miimon}
	s := BondState{Mode: document.Mode, MIIMon: document.MIIMon}
	if document.Mode == bootspec.BondLACP {
		s.LACP = b.LacpRate.String()
	}
	if document.Hashes() {
		s.Hash = b.XmitHashPolicy.String()
	}
	return s
}

// String is the bond for people: "802.3ad miimon 100 lacp fast hash layer3+4".
func (s BondState) String() string {
	words := fmt.Sprintf("%s miimon %d", s.Mode, s.MIIMon)
	if s.LACP != "" {
		words += " lacp " + s.LACP
	}
	if s.Hash != "" {
		words += " hash " + s.Hash
	}
	return words
}

// addBond makes a bond; one that is there with other options is made anew: most can't be changed while it has members.
func addBond(op Op) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = op.Link
	b := netlink.NewLinkBond(attrs)
	b.Mode, b.Miimon = netlink.StringToBondMode(op.Bond.Mode), op.Bond.MIIMon
	if op.Bond.LACP != "" {
		b.LacpRate = netlink.StringToBondLacpRate(op.Bond.LACP)
	}
	if op.Bond.Hash != "" {
		b.XmitHashPolicy = netlink.StringToBondXmitHashPolicy(op.Bond.Hash)
	}
	return addLink(op, b, "bonding")
}

// addLink makes a virtual link in place of what has its name; module is what the kernel needs for it.
func addLink(op Op, l netlink.Link, module string) error {
	if err := removeLink(op.Link); err != nil {
		return err
	}
	err := netlink.LinkAdd(l)
	if errors.Is(err, unix.EEXIST) { // the kernel's module, just loaded, has made a link of that name of its own
		err = errors.Join(removeLink(op.Link), netlink.LinkAdd(l))
	}
	if err != nil {
		return fmt.Errorf("cannot do %q (kernel module %s): %w", op, module, err)
	}
	return nil
}

// removeLink removes a virtual link; one that isn't there is no error.
func removeLink(name string) error {
	old, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(old)
	}
	if err != nil {
		return fmt.Errorf("cannot remove link %s: %w", name, err)
	}
	return nil
}

// enslave makes a link a member of a bond or bridge. A bond takes only links that are down, and sets them up.
func enslave(op Op) error {
	l, err := netlink.LinkByName(op.Link)
	if err != nil {
		return fmt.Errorf("cannot find link %s: %w", op.Link, err)
	}
	master, err := netlink.LinkByName(op.To)
	if err != nil {
		return fmt.Errorf("cannot find link %s: %w", op.To, err)
	}
	if master.Type() == bootspec.KindBond {
		if err := netlink.LinkSetDown(l); err != nil {
			return fmt.Errorf("cannot set link %s down: %w", op.Link, err)
		}
	}
	if err := netlink.LinkSetMaster(l, master); err != nil {
		return errors.Join(fmt.Errorf("cannot do %q: %w", op, err), netlink.LinkSetUp(l))
	}
	return setUp(op.Link)
}

// release makes a link nobody's member.
func release(op Op) error {
	l, err := netlink.LinkByName(op.Link)
	if err != nil {
		return fmt.Errorf("cannot find link %s: %w", op.Link, err)
	}
	if err := netlink.LinkSetNoMaster(l); err != nil {
		return fmt.Errorf("cannot do %q: %w", op, err)
	}
	return setUp(op.Link)
}

// What a link does with router advertisements; 1, which a new link has, heeds them until the machine forwards, as nodes do
// (Documentation/networking/ip-sysctl.rst, accept_ra).
const (
	ignoreRA = 0
	heedRA   = 2
)

// wantedRA is what a document's link does with them.
func wantedRA(w bootspec.Link) int {
	if w.SLAAC {
		return heedRA
	}
	return ignoreRA
}

func fileRA(link string) string { return filepath.Join("/proc/sys/net/ipv6/conf", link, "accept_ra") }

// readRA is the kernel's accept_ra of a link; without IPv6 it ignores them.
func readRA(link string) int {
	data, err := os.ReadFile(fileRA(link))
	if err != nil {
		return ignoreRA
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return ignoreRA
	}
	return n
}

func setRA(op Op) error {
	if err := os.WriteFile(fileRA(op.Link), []byte(strconv.Itoa(op.Number)), 0o644); err != nil {
		return fmt.Errorf("cannot do %q: %w", op, err)
	}
	return nil
}
