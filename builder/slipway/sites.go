package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"

	"github.com/slipway-os/slipway/builder/kv"
	"github.com/slipway-os/slipway/builder/kv/etcdkv"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// ownAddress makes --address the boot server's address in a document: nodes are told of the server that they boot from.
func (f *serveFlags) ownAddress(d *clusterDocument) error {
	if f.address == "" {
		return nil
	}
	a, err := netip.ParseAddr(f.address)
	if err != nil || !d.Provisioning.Subnet.Contains(a) {
		return fmt.Errorf("--address %s is no address in provisioning.subnet, %s", f.address, d.Provisioning.Subnet)
	}
	if f.store == "" && a != d.Provisioning.Server {
		return fmt.Errorf("--address is for several boot servers of one site, which share a --store: change provisioning.server in the document instead")
	}
	if p := d.Provisioning.Pool; p.First.IsValid() && a.Compare(p.First) >= 0 && a.Compare(p.Last) <= 0 {
		return fmt.Errorf("--address %s is in provisioning.pool: another machine may get it", a)
	}
	if i := slices.IndexFunc(d.Nodes, func(n cluster.Node) bool { return d.BootAddress(&n) == a }); i >= 0 {
		return fmt.Errorf("--address %s is that of node %s", a, d.Nodes[i].Name)
	}
	d.Provisioning.Server = a
	return nil
}

// openStore opens what --store names; nil: nothing.
func (f *serveFlags) openStore(ctx context.Context) (store kv.Shared, name string, err error) {
	if f.store == "" {
		return nil, "", nil
	}
	place, err := etcdkv.ParsePlace(f.store)
	if err != nil {
		return nil, "", err
	}
	if place.TLS, err = f.storeTLS(); err != nil {
		return nil, "", err
	}
	opened, err := etcdkv.Open(ctx, place)
	if err != nil {
		return nil, "", err
	}
	return opened, place.String(), nil
}

// storeTLS is how the store is spoken to: with certificates, or nil: in clear, which only this machine itself should hear.
func (f *serveFlags) storeTLS() (*tls.Config, error) {
	if f.storeCA == "" && f.storeCert == "" && f.storeKey == "" {
		return nil, nil
	}
	if f.storeCA == "" || f.storeCert == "" || f.storeKey == "" {
		return nil, fmt.Errorf("--store-ca, --store-cert and --store-key go together")
	}
	return etcdkv.LoadTLS(f.storeCA, f.storeCert, f.storeKey)
}
