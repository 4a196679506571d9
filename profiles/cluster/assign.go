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

	"go.yaml.in/yaml/v3"

	"github.com/slipway-os/slipway/images/document"
)

// AddressesExt is what the name of a cluster document's record of addresses ends in, after the document's own name.
const AddressesExt = ".addresses"

// Addresses is the record of the addresses that nodes have from the pools of their networks: by network, then by node. A
// node keeps its address as long as the record has it, whatever is added, removed or moved in the document.
type Addresses map[string]map[string]netip.Addr

// Assigned is an address that was given out.
type Assigned struct {
	Network, Node string
	Address       netip.Addr
}

// clone is a copy that can be changed.
func (a Addresses) clone() Addresses {
	c := Addresses{}
	for network, nodes := range a {
		c[network] = maps.Clone(nodes)
	}
	return c
}

// Assign reads a cluster document and gives every link that needs one an address of its network's pool. It returns the
// record, new and old ones together, and the new ones. The document must be right but for the addresses.
func Assign(path string) (Addresses, []Assigned, error) {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read cluster document: %w", err)
	}
	defer root.Close()
	data, err := readDocument(path)
	if err != nil {
		return nil, nil, err
	}
	_, record, chosen, err := propose(path, data, root)
	return record, chosen, err
}

// Propose reads data as if it were what the document at path has, with the files beside that, and gives every link that needs one an
// address of its network's pool, as Assign does. Nothing is written.
func Propose(path string, data []byte) (*Cluster, Addresses, []Assigned, error) {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("cannot read cluster document: %w", err)
	}
	defer root.Close()
	return propose(path, data, root)
}

func propose(path string, data []byte, root *os.Root) (*Cluster, Addresses, []Assigned, error) {
	record, err := readAddresses(root.FS(), filepath.Base(path)+AddressesExt)
	if err != nil {
		return nil, nil, nil, err
	}
	p := &pools{record: record.clone(), choose: true}
	c, err := parse(path, data, root.FS(), p)
	if err != nil {
		return nil, nil, nil, err
	}
	return c, p.record, p.chosen, nil
}

// Write is the record as a file.
func (a Addresses) Write(w io.Writer) error {
	if _, err := io.WriteString(w, "# The addresses that `slipway net assign` has given to nodes. Keep it beside the cluster document.\n"); err != nil {
		return err
	}
	e := yaml.NewEncoder(w)
	if err := e.Encode(a); err != nil {
		return fmt.Errorf("cannot write record of addresses: %w", err)
	}
	return e.Close()
}

// readAddresses reads a record; one that isn't there is empty.
func readAddresses(files fs.FS, name string) (Addresses, error) {
	f, err := files.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read record of addresses: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, document.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read record of addresses: %w", err)
	}
	var a Addresses
	if _, err := document.Decode(name, data, &a); err != nil {
		return nil, err
	}
	return a, nil
}

// pools gives links their addresses from the record, and chooses new ones where it may.
type pools struct {
	record Addresses
	choose bool
	chosen []Assigned
}

// pooled says whether a link's address comes from its network's pool.
func (c *Cluster) pooled(l Link) bool {
	return !l.Address.IsValid() && !l.DHCP && c.Networks[l.Network].Pool.IsValid()
}

// assign sets the addresses of a document's links. What is wrong with them is for the checks to say; a link that gets none
// keeps none.
func (p *pools) assign(c *Cluster) {
	used := c.usedAddresses(p.record)
	for i := range c.Nodes {
		n := &c.Nodes[i]
		given := map[string]bool{} // one address of each pool for a node
		for j := range n.Links {
			l := &n.Links[j]
			if !c.pooled(*l) || given[l.Network] || n.Name == "" {
				continue
			}
			given[l.Network] = true
			a, ok := p.record[l.Network][n.Name]
			if !ok && p.choose {
				a, ok = lowest(c.Networks[l.Network].Pool, used)
				if ok {
					p.keep(l.Network, n.Name, a)
					used[a] = true
				}
			}
			if ok {
				l.Address = a
			}
		}
	}
}

func (p *pools) keep(network, node string, a netip.Addr) {
	if p.record[network] == nil {
		p.record[network] = map[string]netip.Addr{}
	}
	p.record[network][node] = a
	p.chosen = append(p.chosen, Assigned{network, node, a})
}

// usedAddresses are those that somebody has or had: a node that is gone may come back.
func (c *Cluster) usedAddresses(record Addresses) map[netip.Addr]bool {
	used := map[netip.Addr]bool{c.Provisioning.Server: true, c.Kubernetes.VirtualAddress: true}
	for _, network := range c.Networks {
		used[network.Gateway] = true
	}
	for _, s := range c.Provisioning.Subnets {
		used[s.Server], used[s.Gateway] = true, true
	}
	for _, n := range c.Nodes {
		for _, l := range n.Links {
			used[l.Address] = true
		}
	}
	for _, nodes := range record {
		for _, a := range nodes {
			used[a] = true
		}
	}
	return used
}

// lowest is the first address of a range that nobody has.
func lowest(r Range, used map[netip.Addr]bool) (netip.Addr, bool) {
	for a := r.First; r.Contains(a); a = a.Next() {
		if !used[a] {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// unassigned reports links that have no address of their pool.
func (k *check) unassigned(c *Cluster, p *pools) {
	for i, n := range c.Nodes {
		had := map[string]bool{}
		for j, l := range n.Links {
			if !c.pooled(l) {
				if l.Address.IsValid() {
					had[l.Network] = true
				}
				continue
			}
			at := document.Index(document.Index("nodes", i)+".links", j)
			pool := c.Networks[l.Network].Pool
			switch {
			case had[l.Network]:
				k.fault(at, "write its address", "%s has an address of network %s's pool on another link", n.Name, l.Network)
			case p.choose:
				k.fault(at, fmt.Sprintf("make the pool larger, or take nodes that are gone out of the %s file", AddressesExt), "the pool %s of network %s has no address left for %s", pool, l.Network, n.Name)
			default:
				k.fault(at, "run `slipway net assign`, or write its address", "%s has no address of network %s's pool %s yet", n.Name, l.Network, pool)
			}
		}
	}
	for _, network := range slices.Sorted(maps.Keys(p.record)) {
		pool := c.Networks[network].Pool
		for _, node := range slices.Sorted(maps.Keys(p.record[network])) {
			n, known := c.Node(node)
			if a := p.record[network][node]; known && n.Address(network) == a && !pool.Contains(a) {
				k.fault(document.Key("networks", network)+".pool", "make the pool contain it, or write the node's address in the document", "%s has %s, which is not in the pool %s", node, a, pool)
			}
		}
	}
}
