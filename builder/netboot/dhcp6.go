package netboot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// dhcp6 answers DHCPv6 on one interface. It gives nodes the addresses that the document says, so there is nothing to keep but its own
// name.
type dhcp6 struct {
	site   func() *Site // the one that is served now; nil: always policy\'s
	policy Policy6
	states *states
	past   *history
	log    *slog.Logger
	conn   *net.UDPConn
}

// serve answers until ctx ends.
func (s *dhcp6) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buffer := make([]byte, maxDHCP)
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(buffer)
		switch {
		case err != nil && ctx.Err() != nil: // what was read before is answered
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("cannot read DHCPv6 requests: %w", err)
		case err != nil:
			s.log.Warn("dhcp6: cannot read a request", "error", err)
			pause(ctx, time.Second) // the interface is down
			continue
		}
		packet, err := dhcpv6.FromBytes(buffer[:n])
		if err != nil {
			s.log.Debug("dhcp6: not a DHCPv6 message", "from", from, "error", err)
			continue
		}
		s.current().handle(buffer[:n], packet, from)
	}
}

// handle decides and does.
func (s *dhcp6) handle(bytes []byte, packet dhcpv6.DHCPv6, from netip.AddrPort) {
	d := Decide6(packet, from.Addr(), s.policy)
	to := destination6(packet, from)
	s.past.note6(bytes, d, from, to)
	s.tell(d, from)
	if d.Reply == nil {
		return
	}
	if _, err := s.conn.WriteToUDPAddrPort(d.Reply.ToBytes(), to); err != nil {
		s.log.Error("dhcp6: cannot answer", "mac", d.MAC.String(), "to", to, "error", err)
	}
}

// destination6 is where a reply goes: to the client's port, or to the relay's, which may have another one (RFC 8357).
func destination6(packet dhcpv6.DHCPv6, from netip.AddrPort) netip.AddrPort {
	relay, ok := packet.(*dhcpv6.RelayMessage)
	switch {
	case !ok:
		return netip.AddrPortFrom(from.Addr(), portClient6)
	case relay.GetOneOption(dhcpv6.OptionRelayPort) != nil:
		return from
	}
	return netip.AddrPortFrom(from.Addr(), portDHCP6)
}

// tell notes a decision and logs it.
func (s *dhcp6) tell(d Decision6, from netip.AddrPort) {
	level, kind := slog.LevelDebug, ""
	if d.Message != nil {
		kind = d.Message.MessageType.String()
	}
	if d.MAC != nil && (d.Known || s.policy.Site.ListUnknown) {
		mac := d.MAC.String()
		if d.Offer && d.Reply != nil {
			s.states.offered(mac, d.Reason)
		}
		if s.states.seen(mac, "", d.Reason) || d.Reply != nil {
			level = slog.LevelInfo
		}
	}
	if d.Decline {
		level = slog.LevelWarn
	}
	s.log.Log(context.Background(), level, "dhcp6", "mac", d.MAC.String(), "node", d.Machine.Name, "from", from.Addr(), "message", kind,
		"client", string(d.Client), "answer", d.Reason)
}

// duidFile keeps the server's DHCPv6 identifier in its own state folder, also where other boot servers share what is known of machines: each has
// an identifier of its own.
const duidFile = "dhcp6.json"

// ownDUID is the server's identifier, by which clients know it again: made at random once (RFC 6355) and kept (RFC 8415 section 11).
// Without a state folder it lasts as long as the server runs.
func ownDUID(folder *store) (dhcpv6.DUID, error) {
	var kept struct {
		DUID string `json:"duid"`
	}
	if folder != nil {
		if err := folder.read(duidFile, &kept); err != nil {
			return nil, err
		}
	}
	if kept.DUID != "" {
		bytes, err := hex.DecodeString(kept.DUID)
		if err == nil {
			var duid dhcpv6.DUID
			if duid, err = dhcpv6.DUIDFromBytes(bytes); err == nil {
				return duid, nil
			}
		}
		return nil, fmt.Errorf("cannot read the server's DHCPv6 identifier in %s: %w (remove the file for another one)", duidFile, err)
	}
	duid := &dhcpv6.DUIDUUID{}
	_, _ = rand.Read(duid.UUID[:])                                             // never fails
	duid.UUID[6], duid.UUID[8] = duid.UUID[6]&0xf|0x40, duid.UUID[8]&0x3f|0x80 // version 4 (RFC 9562)
	if folder != nil {
		kept.DUID = hex.EncodeToString(duid.ToBytes())
		text, err := json.Marshal(kept)
		if err == nil {
			err = folder.replace(duidFile, append(text, '\n'))
		}
		if err != nil {
			return nil, fmt.Errorf("cannot keep the server's DHCPv6 identifier: %w", err)
		}
	}
	return duid, nil
}

// replace replaces a file whole: beside, synced, renamed, the folder synced.
func (s *store) replace(name string, content []byte) error {
	beside := name + ".new"
	err := s.create(beside, content)
	if err == nil {
		err = s.root.Rename(beside, name)
	}
	if err != nil {
		_ = s.root.Remove(beside)
		return err
	}
	return s.lock.Sync()
}

// current is the answering side with the site that is served now.
func (s *dhcp6) current() *dhcp6 {
	if s.site == nil {
		return s
	}
	c := *s
	c.policy.Site = s.site()
	return &c
}
