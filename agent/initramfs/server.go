package initramfs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/agent/bootentry"
	"github.com/slipway-os/slipway/agent/media"
	"github.com/slipway-os/slipway/agent/modules"
	"github.com/slipway-os/slipway/agent/network"
	"github.com/slipway-os/slipway/agent/secure"
	"github.com/slipway-os/slipway/agent/status"
	"github.com/slipway-os/slipway/images/bootspec"
)

// newClient is for the boot servers: no proxy, no patience with dead connections.
func newClient(servers *secure.Servers) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:           servers.Dial,
		ResponseHeaderTimeout: 30 * time.Second,
		MaxIdleConnsPerHost:   2,
		IdleConnTimeout:       30 * time.Second,
		DisableCompression:    true,
	}}
}

// neededModules are used by later steps and don't belong to a device. Some may be built in, or have another name on
// another processor: what is really missing shows at its step.
func neededModules() []string {
	return []string{"af_packet", "sha256-ssse3", "loop", "dm-mod", "dm-verity", "squashfs", "overlay", "efivarfs"}
}

// loadModules loads the drivers of the machine's devices, and what the next steps need.
func (b *boot) loadModules(context.Context) error {
	dir := filepath.Join("/lib/modules", kernelRelease())
	if _, err := os.Stat(dir); err != nil {
		dir = filepath.Join("/usr", dir)
	}
	l, err := modules.NewLoader(dir, b.log)
	if err != nil {
		return fmt.Errorf("%w: the initrd is not the one of this kernel", err)
	}
	b.loader = l
	if err := l.Coldplug("/sys/devices"); err != nil {
		return err
	}
	for _, name := range neededModules() {
		if err := l.Load(name); err != nil {
			b.log.Debug(err.Error())
		}
	}
	b.log.Info("kernel modules loaded: " + strings.Join(l.Loaded(), " "))
	return nil
}

// findServer gets an address and the boot server's, and starts to report.
func (b *boot) findServer(ctx context.Context) error {
	server := b.args[bootspec.ArgServer]
	if server != "" {
		var err error
		if server, err = network.BaseURL(server); err != nil {
			return fmt.Errorf("kernel argument %s: %w", bootspec.ArgServer, err)
		}
	}
	finder := network.Finder{Server: server, Log: b.log}
	want, err := b.bootNetwork()
	if err != nil {
		return err
	}
	if top := want.Top(); len(top) > 0 {
		if err := b.makeLinks(ctx, want); err != nil {
			return err
		}
		finder.Usable = func(l network.LinkState) bool { return slices.Contains(top, l.Name) }
	}
	lease, err := finder.Find(ctx)
	if err != nil {
		return err
	}
	b.lease = lease
	b.servers.Add(lease.Others...)
	b.log.Info("network is up", "link", lease.Link, "address", lease.Address, "router", lease.Router, "server", lease.Server, "others", lease.Others)
	b.setClock(ctx) // before TLS: certificates are looked at with it
	if err := b.findSecure(ctx); err != nil {
		// The failure is reported without TLS: it holds no secret, and somebody must hear of it.
		return errors.Join(err, b.startReports(ctx, lease.Server, b.client, lease.MAC))
	}
	if b.secure.Discover {
		return nil // it is no node, so nobody takes its reports
	}
	if err := b.startReports(ctx, b.secure.URL, b.claimant, lease.MAC); err != nil {
		return err
	}
	b.sender.Report(bootspec.EventAgentUp, fmt.Sprintf("%s %v", lease.Link, lease.Address))
	return nil
}

// bootNetwork is what has to be made before the boot server is asked for: the bonds and VLANs of a kernel argument, else the VLAN that firmware
// has booted over; mostly nothing.
func (b *boot) bootNetwork() (bootspec.Network, error) {
	if value := b.args[bootspec.ArgNetwork]; value != "" {
		return bootspec.ParseNetworkArgument(value)
	}
	card, err := bootentry.Booted(media.EFIVariables)
	if err != nil {
		b.log.Warn("it is not known whether the firmware has booted over a VLAN", "cause", err)
	}
	if card.VLAN == 0 {
		return bootspec.Network{}, nil
	}
	b.log.Info("the firmware has booted over a VLAN, the boot server is asked for there", "card", card.MAC, "vlan", card.VLAN)
	return network.BootVLAN(card.MAC, card.VLAN), nil
}

// makeLinks makes bonds and VLANs. Drivers may still be finding their cards.
func (b *boot) makeLinks(ctx context.Context, want bootspec.Network) error {
	for _, l := range want.Links {
		module, ok := map[string]string{bootspec.KindBond: "bonding", bootspec.KindVLAN: "8021q"}[l.Kind]
		if !ok {
			continue
		}
		if err := b.loader.Load(module); err != nil {
			return fmt.Errorf("cannot make link %s: %w", l.Name, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		limit, done := context.WithTimeout(ctx, 30*time.Second)
		err := network.Configure(limit, want, b.log)
		done()
		if err == nil {
			return nil
		}
		b.log.Warn(err.Error())
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

// startReports begins to report to a server; without one, reports are kept for the running system.
func (b *boot) startReports(ctx context.Context, server string, client *http.Client, mac string) error {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	b.sender = &status.Sender{Server: server, MAC: mac, Boot: strings.TrimSpace(string(id)), Client: client, Log: b.log, KernelLog: status.KernelLog}
	go b.sender.Run(ctx)
	return nil
}

// maxSkew is how far the clock may be from the server's: certificates need the right minute, not second.
const maxSkew = 5 * time.Second

// setClock takes the time from the boot server when this machine's is off. Certificates made a moment ago must be valid.
func (b *boot) setClock(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	date, err := b.serverTime(ctx)
	if err != nil {
		b.log.Warn("the boot server tells no time, this machine's clock is taken as it is", "cause", err)
		return
	}
	off := time.Until(date)
	if off.Abs() <= maxSkew {
		return
	}
	tv := unix.NsecToTimeval(date.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		b.log.Warn("cannot set the clock", "cause", err)
		return
	}
	b.log.Info("clock set by the boot server", "time", date.Format(time.RFC3339), "off", off.Round(time.Second))
}

// serverTime is the Date of the boot server's answer (RFC 9110, 6.6.1).
func (b *boot) serverTime(ctx context.Context) (time.Time, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.lease.Server+bootspec.RouteHealth, nil)
	if err != nil {
		return time.Time{}, err
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return time.Time{}, err
	}
	resp.Body.Close()
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err == nil && date.Year() < 2020 {
		err = errors.New("it is wrong itself")
	}
	return date, err
}
