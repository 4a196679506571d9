// Package firstboot brings the running system up, from the node document to a Ready Kubernetes node, and watches it then.
//
// Steps: host name, network, resolv.conf, the role's systemd target, the node's Ready condition. Each may be run again at
// any time: after the service is restarted everything is simply done anew, and what is there already stays.
//
// It doesn't know what the units are or do; that is the role's.
package firstboot

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/agent/bootcount"
	"github.com/slipway-os/slipway/agent/network"
	"github.com/slipway-os/slipway/agent/secure"
	"github.com/slipway-os/slipway/agent/status"
	"github.com/slipway-os/slipway/agent/units"
	"github.com/slipway-os/slipway/images/bootspec"
)

// Run does the steps and watches the node until ctx ends. It tells systemd when the units are started. An error means
// that a step failed; it was reported, and running again is the remedy.
func Run(ctx context.Context, log *slog.Logger) error {
	node, err := readNode()
	if err != nil {
		return err
	}
	record, err := readRecord()
	if err != nil {
		return err
	}
	record = afterBoot(record, node)
	sender, err := newSender(node, record, log)
	if err != nil {
		return err
	}
	go sender.Run(ctx)
	servers := &secure.Servers{}
	if record.Secure != nil {
		servers.Add(record.Secure.Others...)
	}
	if err := prepare(ctx, node, cmp.Or(record.Server, node.Server), servers, log); err != nil {
		sender.Fail(err.Error(), "", nil)
		flush(sender)
		return err
	}
	go network.Keep(ctx, node.Network, log)
	sender.Report(bootspec.EventNetworkUp, "")
	manager, err := units.Dial(ctx)
	if err != nil {
		return err
	}
	defer manager.Close()
	s := supervisor{
		target: node.Target, units: manager, words: units.LastWords, kube: newKube(node), sender: sender, log: log,
		notify: notify, tick: 2 * time.Second, steady: 15 * time.Second, rejoin: 2 * time.Minute,
		good: func() { bless(record, log) },
	}
	return s.run(ctx)
}

// notify tells systemd something; without systemd nobody listens.
func notify(state string) { _, _ = daemon.SdNotify(false, state) }

func readNode() (bootspec.Node, error) {
	data, err := os.ReadFile(bootspec.NodeDocument)
	if err != nil {
		return bootspec.Node{}, fmt.Errorf("cannot read the node document: %w: this machine was not provisioned", err)
	}
	node, err := bootspec.ParseNode(data)
	if err != nil {
		return bootspec.Node{}, fmt.Errorf("%s: %w", bootspec.NodeDocument, err)
	}
	return node, nil
}

// readRecord is what the first stage has handed over; without one it is empty.
func readRecord() (bootspec.BootState, error) {
	var record bootspec.BootState
	data, err := os.ReadFile(bootspec.BootRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return record, nil
	}
	if err != nil {
		return record, fmt.Errorf("cannot read the boot record: %w", err)
	}
	if err := json.Unmarshal(data, &record); err != nil {
		return record, fmt.Errorf("cannot read the boot record %s: %w", bootspec.BootRecord, err)
	}
	return record, nil
}

// afterBoot is the record without a boot server that is lost once the network is the document's: one that was found over IPv6, by a node
// that has none there. The configuration says then which server it is.
func afterBoot(record bootspec.BootState, node bootspec.Node) bootspec.BootState {
	u, err := url.Parse(record.Server)
	if err != nil || node.Server == "" {
		return record
	}
	if host, err := netip.ParseAddr(u.Hostname()); err == nil && host.Is6() && !neighbour(node.Network, record.Server) {
		record.Server, record.Secure = "", nil
	}
	return record
}

// newSender reports to the server the machine booted from, or to the one that the node document names. A machine that knows
// neither, or not its own address, reports nothing.
func newSender(node bootspec.Node, record bootspec.BootState, log *slog.Logger) (*status.Sender, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("cannot read the boot id: %w", err)
	}
	s := &status.Sender{Boot: strings.TrimSpace(string(id)), MAC: record.MAC, Client: &http.Client{Timeout: 30 * time.Second}, Log: log, KernelLog: status.KernelLog}
	if record.MAC != "" {
		s.Server = cmp.Or(record.Server, node.Server)
		if err := overTLS(s, record); err != nil {
			log.Warn("reports go to the boot server without TLS", "cause", err)
		}
	}
	s.Resume(record.Pending)
	return s, nil
}

// overTLS has reports go over TLS: to the server that this machine claimed its configuration from, or to that of the
// configuration. One of an earlier version has none.
func overTLS(s *status.Sender, record bootspec.BootState) error {
	server := record.Secure
	if server == nil {
		data, err := os.ReadFile(bootspec.BootServerDocument)
		if err != nil {
			return err
		}
		read, err := bootspec.ParseSecure(data)
		if err != nil {
			return fmt.Errorf("%s: %w", bootspec.BootServerDocument, err)
		}
		server = &read
	}
	client, _, err := secure.Client(*server, nil, nil, nil)
	if err != nil {
		return err
	}
	client.Timeout = s.Client.Timeout
	s.Server, s.Client = server.URL, client
	return nil
}

// bless tells the boot loader of the medium that this image is good.
func bless(record bootspec.BootState, log *slog.Logger) {
	if record.ESP == "" {
		return
	}
	entry, err := bootcount.Bless(record.ESP, bootspec.RunDirectory+"/esp", record.Image)
	switch {
	case err != nil:
		log.Error(err.Error(), "consequence", "the boot loader gives this image up after some boots")
	case entry == "":
		log.Info("boot entry has no counter")
	default:
		log.Info("boot entry marked as good", "entry", entry)
	}
}

// flush gives reports a moment before the service ends.
func flush(s *status.Sender) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = s.Flush(ctx) // they are sent again when the service starts again
}

// prepare gives the machine its name and network. A network that loses the boot server is taken back.
func prepare(ctx context.Context, node bootspec.Node, server string, servers *secure.Servers, log *slog.Logger) error {
	if err := setHostname(node.Name); err != nil {
		return err
	}
	trial := network.Trial{Log: log, Reach: func(ctx context.Context) error {
		if !neighbour(node.Network, server) {
			return errors.New("it is in no network of this node, so it may be lost")
		}
		return reach(ctx, server, servers)
	}}
	if err := trial.Configure(ctx, node.Network); err != nil {
		return err
	}
	etc, err := os.OpenRoot("/etc")
	if err != nil {
		return err
	}
	defer etc.Close()
	return network.WriteResolvConf(etc, node.Network)
}

// neighbour says whether a server is in a network of the document: then it must be reached.
func neighbour(n bootspec.Network, server string) bool {
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	host, err := netip.ParseAddr(u.Hostname())
	return err == nil && slices.ContainsFunc(n.Links, func(l bootspec.Link) bool {
		return slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Contains(host) })
	})
}

// reach asks a boot server, on a connection of its own, for it may be another way now.
func reach(ctx context.Context, server string, servers *secure.Servers) error {
	client := &http.Client{Timeout: 12 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: servers.Dial}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server+bootspec.RouteHealth, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	answer.Body.Close()
	return nil // whatever it says, it is there
}

func setHostname(name string) error {
	if old, err := os.Hostname(); err == nil && old == name {
		return nil
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("cannot set the host name %s: %w", name, err)
	}
	return nil
}
