package cluster

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/document"
)

// MaxSnippet bounds one file that the document names, in bytes.
const MaxSnippet = 1 << 20

// Parse reads a cluster document, sets its defaults and checks it; name is for messages. The error is
// document.Faults: all that is wrong. A document that names Ignition files, or leaves addresses to pools, needs ParseFile.
func Parse(name string, data []byte) (*Cluster, error) { return parse(name, data, nil, &pools{}) }

// ParseFile reads a cluster document, the Ignition files it names and its record of addresses (see Assign). A path of "-"
// is not special.
func ParseFile(path string) (*Cluster, error) {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("cannot read cluster document: %w", err)
	}
	defer root.Close()
	data, err := readDocument(path)
	if err != nil {
		return nil, err
	}
	record, err := readAddresses(root.FS(), filepath.Base(path)+AddressesExt)
	if err != nil {
		return nil, err
	}
	return parse(path, data, root.FS(), &pools{record: record})
}

func readDocument(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read cluster document: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, document.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read cluster document: %w", err)
	}
	return data, nil
}

func parse(name string, data []byte, files fs.FS, p *pools) (*Cluster, error) {
	c := &Cluster{}
	source, err := document.Decode(name, data, c)
	k := &check{source: source}
	errors.As(err, &k.decoded)
	if !k.header(c) {
		return nil, k.faults.Err()
	}
	c.setDefaults(source)
	p.assign(c)
	k.unassigned(c, p)
	k.cluster(c)
	k.snippets(c, files)
	k.bucketFiles(c, files)
	if err := document.Join(err, k.faults); err != nil {
		return nil, err
	}
	return c, nil
}

// setDefaults fills in what the document leaves out. What it sets wrongly stays as it is.
func (c *Cluster) setDefaults(source *document.Source) {
	prefix := func(path string, p *netip.Prefix, value string) {
		if !p.IsValid() && !source.Has(path) {
			*p = netip.MustParsePrefix(value)
		}
	}
	prefix("kubernetes.podCIDR", &c.Kubernetes.PodCIDR, "10.244.0.0/16")
	prefix("kubernetes.serviceCIDR", &c.Kubernetes.ServiceCIDR, "10.96.0.0/16")
	if !source.Has("kubernetes.clusterDomain") {
		c.Kubernetes.ClusterDomain = "cluster.local"
	}
	c.Etcd.Backup.setDefaults(source)
	if !source.Has("provisioning.httpPort") {
		c.Provisioning.HTTPPort = bootspec.DefaultHTTPPort
	}
	if !source.Has("provisioning.claims.policy") {
		c.Provisioning.Claims.Policy = ClaimsSameMachine
	}
	if !source.Has("provisioning.claims.tpm") {
		c.Provisioning.Claims.TPM = TPMUse
	}
	if !source.Has("provisioning.unknownMachines") {
		c.Provisioning.UnknownMachines = UnknownList
	}
	if v := c.Kubernetes.VirtualAddress; v.IsValid() && !source.Has("kubernetes.endpoint") {
		c.Kubernetes.Endpoint = Endpoint{Host: v.String(), Port: APIPort}
	}
	for name, n := range c.Networks {
		if n.Role == "" && slices.Contains(networkRoles(), name) && c.networkWithRole(name) == "" {
			n.Role = name
			c.Networks[name] = n
		}
	}
	if !source.Has("provisioning.subnet") {
		c.Provisioning.Subnet = c.Networks[c.networkWithRole(NetworkManagement)].CIDR
	}
	c.subnetDefaults()
	c.setDefaults6(source)
	for i := range c.Nodes {
		for j := range c.Nodes[i].Links {
			c.Nodes[i].Links[j].setDefaults(c.Networks)
		}
	}
}

func (l *Link) setDefaults(networks map[string]Network) {
	if l.Kind == "" {
		l.Kind = bootspec.KindPhysical
		switch {
		case l.Parent != "":
			l.Kind = bootspec.KindVLAN
		case l.Bond != nil:
			l.Kind = bootspec.KindBond
		}
	}
	if l.Kind == bootspec.KindVLAN && l.VLAN == 0 {
		l.VLAN = networks[l.Network].VLAN
	}
	if l.MTU == 0 {
		l.MTU = networks[l.Network].MTU
	}
}

func networkRoles() []string {
	return []string{NetworkManagement, NetworkContainer, NetworkStorage, NetworkExternal}
}

func (c *Cluster) networkNames() []string { return slices.Sorted(maps.Keys(c.Networks)) }
