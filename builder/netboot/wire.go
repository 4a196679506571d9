package netboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/builder/handed"
	"github.com/slipway-os/slipway/builder/tftp"
)

// wire is an interface that the server listens on, with its sockets there. They are bound to the interface, so an interface
// that is taken away and made again, as by a restart of the network's management, needs new ones. Those that were handed over are bound to
// it anew.
type wire struct {
	link    *net.Interface
	handed  *handed.Sockets
	servers []netip.Addr // our own addresses on it
	dhcp    *net.UDPConn
	boot    []*net.UDPConn // port 4011, for each address; none: not a proxy
	tftp    []*net.UDPConn // for each address
}

// errGone: the interface isn't there any more.
var errGone = errors.New("the interface is gone")

// findWires finds the interfaces that have our addresses, each once, and only those that are named, if any are.
func findWires(names []string, site *Site) ([]*wire, error) {
	var wires []*wire
	for _, n := range site.subnets() {
		if !n.Server.IsValid() {
			continue
		}
		link, err := findAmong(names, netip.PrefixFrom(n.Server, n.Prefix.Bits()))
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(wires, func(w *wire) bool { return w.link.Index == link.Index })
		if i < 0 {
			i = len(wires)
			wires = append(wires, &wire{link: link})
		}
		wires[i].servers = append(wires[i].servers, n.Server)
	}
	for _, name := range names {
		if !slices.ContainsFunc(wires, func(w *wire) bool { return w.link.Name == name }) {
			return nil, fmt.Errorf("cannot serve on %s: the document has no address of the boot server on it (write its subnet into provisioning.subnets, with a server)", name)
		}
	}
	return wires, nil
}

// findAmong finds the interface with an address; names: only one of them will do.
func findAmong(names []string, server netip.Prefix) (*net.Interface, error) {
	if len(names) == 0 {
		return findInterface("", server)
	}
	var all error
	for _, name := range names {
		link, err := findInterface(name, server)
		if err == nil {
			return link, nil
		}
		all = errors.Join(all, err)
	}
	if len(names) > 1 {
		return nil, fmt.Errorf("cannot serve %s: no interface of %s will do:\n%w", server, strings.Join(names, ", "), all)
	}
	return nil, all
}

// open binds the sockets of an interface, or says why not and what to do.
func (w *wire) open(proxy bool) (err error) {
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.dhcp, err = datagrams(w.handed, w.link.Name, netip.AddrPortFrom(netip.IPv4Unspecified(), portDHCP)); err != nil {
		return explain("DHCP", "udp", portDHCP, err)
	}
	roomy(w.dhcp)
	for _, server := range w.servers {
		if proxy {
			boot, err := datagrams(w.handed, w.link.Name, netip.AddrPortFrom(server, portBoot))
			if err != nil {
				return explain("proxyDHCP", "udp", portBoot, err)
			}
			roomy(boot)
			w.boot = append(w.boot, boot)
		}
		files, err := datagrams(w.handed, w.link.Name, netip.AddrPortFrom(server, portTFTP))
		if err != nil {
			return explain("TFTP", "udp", portTFTP, err)
		}
		roomy(files)
		w.tftp = append(w.tftp, files)
	}
	return nil
}

// close closes the sockets.
func (w *wire) close() {
	for _, c := range append(append([]*net.UDPConn{w.dhcp}, w.boot...), w.tftp...) {
		if c != nil {
			c.Close()
		}
	}
	w.dhcp, w.boot, w.tftp = nil, nil, nil
}

// wirePause is how often it is looked whether an interface is still, or again, there.
const wirePause = 500 * time.Millisecond

// gone waits until the interface isn't there any more, and says so; nil when ctx ends.
func (w *wire) gone(ctx context.Context) error {
	for ctx.Err() == nil {
		if now, err := net.InterfaceByIndex(w.link.Index); err != nil || now.Name != w.link.Name {
			return errGone
		}
		pause(ctx, wirePause)
	}
	return nil
}

// again waits for the interface with its addresses, and binds the sockets again.
func (w *wire) again(ctx context.Context, site *Site, told func(error)) error {
	said := ""
	for ctx.Err() == nil {
		err := w.reopen(site)
		if err == nil {
			return nil
		}
		if err.Error() != said {
			said = err.Error()
			told(err)
		}
		pause(ctx, wirePause)
	}
	return ctx.Err()
}

func (w *wire) reopen(site *Site) error {
	for _, server := range w.servers {
		n, _ := site.subnet(server)
		link, err := findInterface(w.link.Name, netip.PrefixFrom(server, n.Prefix.Bits()))
		if err != nil {
			return err
		}
		w.link = link
	}
	return w.open(site.Proxy)
}

// serveWire serves on an interface until ctx ends, also when the interface goes away and comes back.
func (s *Server) serveWire(ctx context.Context, w *wire) error {
	log := s.config.Log.With("interface", w.link.Name)
	for {
		err := s.serveSockets(ctx, w)
		if !errors.Is(err, errGone) || ctx.Err() != nil {
			return err
		}
		w.close()
		log.Error("THE INTERFACE IS GONE: no machine there is answered until it is back, with the server's address")
		if w.again(ctx, s.config.Site, func(err error) { log.Log(ctx, howBad(err), "waiting for the interface", "error", err) }) != nil {
			return nil
		}
		log.Info("the interface is back, serving again", "address", w.servers[0])
	}
}

// howBad is a level for the log: what the server has no right to doesn't come by waiting.
func howBad(err error) slog.Level {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return slog.LevelError
	}
	return slog.LevelDebug
}

// serveSockets serves on the sockets of an interface until ctx ends or the interface is gone.
func (s *Server) serveSockets(ctx context.Context, w *wire) error {
	site, log := s.config.Site, s.config.Log
	d := &dhcp{
		policy: Policy{
			Site: site, At: w.servers, On: w.link.Name, HTTPPort: s.config.HTTPPort, MTU: w.link.MTU, Lease: s.leases.propose, BootFrom: s.states.bootFrom,
			Others: s.sisters.others, Away: s.sisters.away,
			Image:      s.image,
			BIOSLoader: func(role string) string { return s.live.Load().artifacts.bios[role] },
		},
		states: s.states, leases: s.leases, past: s.past, rivals: s.rivals, ours: s.sisters, log: log, now: s.config.Now, link: w.link, conn: w.dhcp, turn: &s.turn,
		site: s.site,
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.gone(ctx) })
	group.Go(func() error { return d.serve(ctx) })
	group.Go(func() error { s.rivals.watch(ctx, w.link); return nil })
	for _, conn := range w.boot {
		group.Go(func() error { return d.serveBootPort(ctx, conn) })
	}
	for i, conn := range w.tftp {
		t := tftp.New(tftp.Config{Open: s.openTFTP, Done: s.tftpDone, Log: log, MaxBlockSize: w.link.MTU - tftpHeaders, SinglePort: s.config.TFTPSinglePort})
		transfer := func() (*net.UDPConn, error) { return listenUDP(w.link.Name, netip.AddrPortFrom(w.servers[i], 0)) }
		group.Go(func() error { return t.Serve(ctx, conn, transfer) })
	}
	return group.Wait()
}
