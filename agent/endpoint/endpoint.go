// Package endpoint is a node's way to the API: the service slipway-api. For what runs on the node it is a balancer to all
// API servers (agent/balance); on control planes it also holds the cluster's virtual address (agent/vrrp), for the outside,
// while the node's own API server is ready and a majority of the control planes hears it (agent/reach).
//
// It puts the two together by the node document, and knows systemd. It is a process of its own, so that the way to the
// API doesn't depend on what else the agent does.
package endpoint

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/slipway-os/slipway/agent/balance"
	"github.com/slipway-os/slipway/agent/reach"
	"github.com/slipway-os/slipway/agent/vrrp"
	"github.com/slipway-os/slipway/images/bootspec"
)

// AdvertisementInterval is that of the virtual address: backups wait for three of them before they take it over.
const AdvertisementInterval = 300 * time.Millisecond

// askInterval is how often the other control planes are asked whether they hear this one, and aloneAfter how many times they may
// not answer: so who no longer hears knows it a little later than others would know that they no longer hear it.
const (
	askInterval = AdvertisementInterval / 2
	aloneAfter  = 7
)

// again is how long a part of the virtual address rests when it has failed.
const again = time.Second

// Config is what the service works with.
type Config struct {
	API    bootspec.API
	Roots  *x509.CertPool
	Listen string            // bootspec.APIBalancer
	Notify func(text string) // tells systemd
	Log    *slog.Logger
}

// Load reads the node document and the cluster's authority.
func Load(document, authority string) (Config, error) {
	node, err := readNode(document)
	if err != nil {
		return Config{}, err
	}
	if node.API == nil || len(node.API.Servers) == 0 {
		return Config{}, fmt.Errorf("%s names no API servers: provision this node again with this version of slipway", document)
	}
	pem, err := os.ReadFile(authority)
	if err != nil {
		return Config{}, fmt.Errorf("cannot read the cluster's authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return Config{}, fmt.Errorf("cannot read the cluster's authority: no certificate in %s", authority)
	}
	return Config{
		API: *node.API, Roots: roots, Listen: bootspec.APIBalancer,
		Notify: func(text string) { _, _ = daemon.SdNotify(false, text) }, // without systemd nobody listens
	}, nil
}

func readNode(document string) (bootspec.Node, error) {
	data, err := os.ReadFile(document)
	if err != nil {
		return bootspec.Node{}, fmt.Errorf("cannot read the node document: %w", err)
	}
	node, err := bootspec.ParseNode(data)
	if err != nil {
		return bootspec.Node{}, fmt.Errorf("%s: %w", document, err)
	}
	return node, nil
}

// Release takes the virtual address off this machine, for when the service has ended in whatever way.
func Release(document string) error {
	node, err := readNode(document)
	if err != nil || node.API == nil || node.API.VirtualAddress == nil {
		return err
	}
	return vrrp.Release(node.API.VirtualAddress.Address)
}

// Run is the service, until ctx ends. It tells systemd that it is up when the first API server is ready: until then whoever
// asks would ask in vain.
func Run(ctx context.Context, c Config) error {
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	r := &readiness{config: c, ready: map[string]bool{}}
	checks := balance.Config{Servers: c.API.Servers, Roots: c.Roots, Log: c.Log, Changed: r.changed}
	if v := c.API.VirtualAddress; v != nil {
		checks.Own = v.Server
	}
	b, err := balance.New(checks)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("cannot listen for the node's own clients: %w", err)
	}
	r.tell()
	if c.API.VirtualAddress != nil {
		parts, err := virtualAddress(c, r)
		if err != nil {
			listener.Close()
			return err
		}
		for _, part := range parts {
			tasks.Go(func() { repeat(ctx, c.Log, part) })
		}
	}
	return b.Serve(ctx, listener)
}

// virtualAddress is what holding the virtual address takes, each part until its context ends.
func virtualAddress(c Config, r *readiness) ([]func(context.Context) error, error) {
	router, err := router(*c.API.VirtualAddress)
	if err != nil {
		return nil, err
	}
	router.Log = c.Log
	others, err := peers(c.API)
	if err != nil {
		return nil, err
	}
	ask := reach.Config{Source: router.Source, Peers: others, Interval: askInterval, Lost: r.unheard}
	hold := func(ctx context.Context) error {
		fit, stop := r.follow(ctx)
		defer stop()
		return vrrp.Run(ctx, router, fit)
	}
	watch := func(ctx context.Context) error {
		defer r.unheard(0) // who doesn't ask knows of no loss
		return reach.Run(ctx, ask)
	}
	return []func(context.Context) error{hold, watch}, nil
}

// router is the virtual router of a virtual address.
func router(v bootspec.VirtualAddress) (vrrp.Config, error) {
	own, err := netip.ParseAddrPort(v.Server)
	switch {
	case err != nil:
		return vrrp.Config{}, fmt.Errorf("cannot hold the virtual address: own API server: %w", err)
	case !v.Address.Is4() || !own.Addr().Is4():
		return vrrp.Config{}, fmt.Errorf("cannot hold the virtual address: %s and %s must be IPv4", v.Address, own.Addr())
	case v.Router < 1 || v.Router > 255 || v.Priority < 1 || v.Priority > 254:
		return vrrp.Config{}, fmt.Errorf("cannot hold the virtual address: number %d or priority %d is out of range", v.Router, v.Priority)
	}
	return vrrp.Config{
		Link: v.Link, Source: own.Addr(), Address: v.Address, Router: uint8(v.Router), Priority: uint8(v.Priority),
		Interval: AdvertisementInterval,
	}, nil
}

// peers are the other control planes' addresses.
func peers(a bootspec.API) ([]netip.Addr, error) {
	var list []netip.Addr
	for _, s := range a.Servers {
		server, err := netip.ParseAddrPort(s)
		if err != nil || !server.Addr().Is4() {
			return nil, fmt.Errorf("cannot hold the virtual address: API server %s: it must be an IPv4 address and a port", s)
		}
		if s != a.VirtualAddress.Server {
			list = append(list, server.Addr())
		}
	}
	return list, nil
}

// repeat runs a part of the virtual address again and again until ctx ends. Its failure must not take the balancer down.
func repeat(ctx context.Context, log *slog.Logger, part func(context.Context) error) {
	var last string
	for {
		err := part(ctx)
		if ctx.Err() != nil {
			if err != nil {
				log.Error(err.Error())
			}
			return
		}
		if err == nil {
			err = errors.New("cannot hold the virtual address: it ended")
		}
		if err.Error() != last {
			log.Error(err.Error(), "consequence", "this node can't hold the virtual address, or not well; it tries again")
			last = err.Error()
		}
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
}
