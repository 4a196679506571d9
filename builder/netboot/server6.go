package netboot

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-os/slipway/builder/tftp"
)

// tftpHeaders6 are those of IPv6, UDP and TFTP, in bytes.
const tftpHeaders6 = 40 + 8 + 4

// base6 is Base over IPv6; empty: there is none.
func (s *Server) base6() string {
	six := s.config.Site.ipv6()
	if six == nil {
		return ""
	}
	return baseURL(six.Server, s.config.HTTPPort)
}

// serve6 serves over IPv6 what has sockets of its own there: DHCP and TFTP.
func (s *Server) serve6(ctx context.Context, group *errgroup.Group) {
	site, six, log := s.config.Site, s.sockets.six, s.config.Log
	if six == nil {
		if site.IPv6 != nil {
			log.Warn("machines don't boot over IPv6: beside another DHCP server (--proxy) only IPv4 is served")
		}
		return
	}
	link := six.link
	d := &dhcp6{
		policy: Policy6{Site: site, DUID: s.duid, HTTPBase: s.base6(), Image: s.image, BootFrom: s.states.bootFrom},
		states: s.states, past: s.past, log: log, conn: six.dhcp, site: s.site,
	}
	t := tftp.New(tftp.Config{Open: s.openTFTP, Done: s.tftpDone, Log: log, MaxBlockSize: link.MTU - tftpHeaders6, SinglePort: s.config.TFTPSinglePort})
	group.Go(func() error { return d.serve(ctx) })
	group.Go(func() error { return t.Serve(ctx, six.tftp, six.transfer) })
	if site.IPv6.Advertise {
		group.Go(func() error { advertise(ctx, link, site.IPv6, log); return nil })
	}
	log.Info("serving over IPv6", "address", six.server, "http", s.base6(), "duid", s.duid, "advertisements", site.IPv6.Advertise)
}

// image is the file name of a role's UKI for an architecture; empty: there is none.
func (s *Server) image(role, arch string) string {
	return s.live.Load().artifacts.uki[imageKey{role, arch}]
}
