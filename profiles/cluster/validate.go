package cluster

import (
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/document"
	"github.com/slipway-os/slipway/images/version"
)

// check collects what is wrong with a document.
type check struct {
	source  *document.Source
	decoded document.Faults // what reading found
	faults  document.Faults // what checking found
}

func (k *check) fault(path, hint, format string, args ...any) {
	k.faults = append(k.faults, k.source.Fault(path, fmt.Sprintf(format, args...), hint))
}

// faulty says whether something below path is wrong, so that what follows from it needn't be said.
func (k *check) faulty(path string) bool {
	below := func(f document.Fault) bool { return strings.HasPrefix(f.Path, path) }
	return slices.ContainsFunc(k.decoded, below) || slices.ContainsFunc(k.faults, below)
}

// line is the line of a value, for messages about two of them.
func (k *check) line(path string) int { return k.source.Fault(path, "", "").Line }

// oneOf checks a word against those that are known.
func (k *check) oneOf(path, what, word string, known []string) {
	for _, w := range known {
		if w == word {
			return
		}
	}
	if word == "" {
		k.fault(path, "one of: "+strings.Join(known, ", "), "is missing")
		return
	}
	k.fault(path, document.Suggest(word, known), "unknown %s %q", what, word)
}

// header checks what says which kind of document it is. When it is another one, nothing else is worth a word.
func (k *check) header(c *Cluster) bool {
	ok := true
	for _, h := range []struct{ path, got, want, what string }{
		{"apiVersion", c.APIVersion, Version, "a version of the cluster document that this slipway reads"},
		{"kind", c.Kind, Kind, "a cluster document"},
	} {
		switch {
		case h.got == "":
			k.fault(h.path, fmt.Sprintf("write %s: %s", h.path, h.want), "is missing")
		case h.got != h.want:
			k.fault(h.path, fmt.Sprintf("write %s: %s", h.path, h.want), "%q is not %s", h.got, h.what)
			ok = false
		}
	}
	return ok
}

func (k *check) cluster(c *Cluster) {
	k.label("metadata.name", c.Metadata.Name)
	if v := c.Image.Version; v != "" {
		if err := version.Check(v); err != nil {
			k.fault("image.version", "write it like 0.1.0", "%v", err)
		}
	}
	k.networks(c)
	k.kubernetes(c)
	k.backup(c.Etcd.Backup, c.Provisioning.Server)
	k.heartbeat(c.Etcd.Heartbeat)
	k.overlaps(c)
	k.provisioning(c)
	for i, a := range c.DNS {
		k.address(document.Index("dns", i), a)
	}
	for i, s := range c.NTP {
		if _, err := netip.ParseAddr(s); err != nil && !isDomain(s) {
			k.fault(document.Index("ntp", i), "write it like 10.1.0.1 or ntp.example.com", "%q is neither an address nor a DNS name", s)
		}
	}
	k.storage("storage", c.Storage, true)
	k.install("install", c.Install, true)
	k.nodes(c)
	k.controlPlanes(c)
}

// label checks a DNS label, which is what names of clusters and nodes are.
func (k *check) label(path, s string) {
	const hint = "use 1 to 63 of a-z, 0-9 and -, not - at either end"
	switch {
	case s == "":
		k.fault(path, hint, "is missing")
	case !dnsLabel.MatchString(s):
		k.fault(path, hint, "%q is not a DNS label", s)
	}
}

// prefix checks a network prefix and says whether it can be used.
func (k *check) prefix(path string, p netip.Prefix, example string) bool {
	switch {
	case !p.IsValid():
		k.fault(path, "write it like "+example, "is missing")
	case !p.Addr().Is4():
		k.fault(path, "use IPv4 for now, like "+example, "%s is IPv6, which is not supported yet", p)
	case p != p.Masked():
		k.fault(path, fmt.Sprintf("write %s", p.Masked()), "%s has bits set beyond its length", p)
	default:
		return true
	}
	return false
}

func (k *check) address(path string, a netip.Addr) bool {
	if a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		k.fault(path, "use an address of one machine", "%s is no machine's address", a)
		return false
	}
	return true
}

// host checks that an address can be a machine's in a network and says whether it is.
func (k *check) host(path string, a netip.Addr, in netip.Prefix, name string) bool {
	first, last := hosts(in)
	hint := fmt.Sprintf("use an address from %s to %s", first, last)
	switch {
	case !in.Contains(a):
		k.fault(path, hint, "%s is not in %s (%s)", a, name, in)
	case a.Less(first) || last.Less(a):
		k.fault(path, hint, "%s is the network's own or its broadcast address", a)
	default:
		return true
	}
	return false
}

// hosts are the first and the last address for machines in an IPv4 prefix. Prefixes of 31 and 32 bits have only hosts
// (RFC 3021).
func hosts(p netip.Prefix) (first, last netip.Addr) {
	first, last = p.Masked().Addr(), end(p)
	if p.Bits() < 31 {
		return first.Next(), last.Prev()
	}
	return first, last
}

// end is the last address of an IPv4 prefix.
func end(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

func (k *check) kubernetes(c *Cluster) {
	pods, services := c.Kubernetes.PodCIDR, c.Kubernetes.ServiceCIDR
	if k.prefix("kubernetes.podCIDR", pods, "10.244.0.0/16") {
		// Each node gets a /24.
		if pods.Bits() > 24 || 1<<(24-pods.Bits()) < len(c.Nodes) {
			k.fault("kubernetes.podCIDR", "each node takes a /24 of it; make it larger", "%s is too small for %d nodes", pods, len(c.Nodes))
		}
	}
	if k.prefix("kubernetes.serviceCIDR", services, "10.96.0.0/16") && (services.Bits() < 12 || services.Bits() > 24) {
		k.fault("kubernetes.serviceCIDR", "Kubernetes takes /12 to /24", "%s is too large or too small", services)
	}
	if d := c.Kubernetes.ClusterDomain; !isDomain(d) {
		k.fault("kubernetes.clusterDomain", "write it like cluster.local", "%q is not a DNS name", d)
	}
}

// overlaps compares all prefixes that must be apart.
func (k *check) overlaps(c *Cluster) {
	type named struct {
		path, name string
		prefix     netip.Prefix
	}
	all := []named{{"kubernetes.podCIDR", "podCIDR", c.Kubernetes.PodCIDR}, {"kubernetes.serviceCIDR", "serviceCIDR", c.Kubernetes.ServiceCIDR}}
	for _, name := range c.networkNames() {
		all = append(all, named{document.Key(document.Key("networks", name), "cidr"), "network " + name, c.Networks[name].CIDR})
	}
	for i, a := range all {
		for _, b := range all[:i] {
			if a.prefix.IsValid() && b.prefix.IsValid() && a.prefix.Overlaps(b.prefix) {
				k.fault(a.path, "pods, services and each network need addresses of their own", "%s overlaps %s (%s)", a.prefix, b.name, b.prefix)
			}
		}
	}
}

func (k *check) provisioning(c *Cluster) {
	p := c.Provisioning
	if p.HTTPPort < 1 || p.HTTPPort > 65535 {
		k.fault("provisioning.httpPort", "use 1 to 65535", "%d is not a port", p.HTTPPort)
	}
	if p.HTTPPort == bootspec.SecurePort || p.HTTPPort == bootspec.DepotPort {
		k.fault("provisioning.httpPort", "use another one", "%d is another port of the boot server", p.HTTPPort)
	}
	k.oneOf("provisioning.unknownMachines", "treatment", p.UnknownMachines, []string{UnknownIgnore, UnknownList, UnknownOffer, UnknownDiscover})
	k.oneOf("provisioning.claims.policy", "policy", p.Claims.Policy, []string{ClaimsSameMachine, ClaimsOnce})
	k.oneOf("provisioning.claims.tpm", "treatment of TPMs", p.Claims.TPM, []string{TPMUse, TPMRequired, TPMIgnore})
	if (p.UnknownMachines == UnknownOffer || p.UnknownMachines == UnknownDiscover) && !p.Pool.IsValid() {
		k.fault("provisioning.pool", "write it like 10.1.0.100-10.1.0.199", "is missing, but unknown machines are to get an address")
	}
	if !k.prefix("provisioning.subnet", p.Subnet, "10.1.0.0/24") {
		return
	}
	if !p.Server.IsValid() {
		k.fault("provisioning.server", "the boot server's own address in "+p.Subnet.String(), "is missing")
	} else {
		k.host("provisioning.server", p.Server, p.Subnet, "the provisioning subnet")
	}
	if within := func(name string) bool { return c.Networks[name].CIDR.Overlaps(p.Subnet) }; len(c.Networks) > 0 && !slices.ContainsFunc(c.networkNames(), within) {
		k.fault("provisioning.subnet", "use the CIDR of the network that machines boot on", "%s is in none of the networks", p.Subnet)
	}
	if c.Management() == "" && len(c.Networks) > 0 {
		k.fault("networks", "give one role: mgmt, or the CIDR of the provisioning subnet", "none is the management network")
	}
	k.pool(c)
	k.subnets(c)
	k.virtualAddress(c)
	k.provisioning6(c)
}

// virtualAddress is the path of that field.
const virtualAddress = "kubernetes.virtualAddress"

// virtualAddress checks that the virtual address can be held by any control plane and is nobody's own (see nodes).
func (k *check) virtualAddress(c *Cluster) {
	v, name := c.Kubernetes.VirtualAddress, c.Management()
	if !v.IsValid() || !c.Networks[name].CIDR.IsValid() {
		return
	}
	if !k.host(virtualAddress, v, c.Networks[name].CIDR, "the management network "+name) {
		return
	}
	if c.Provisioning.Pool.Contains(v) {
		k.fault("provisioning.pool", "end the pool before it, or begin it after it", "the pool %s contains the virtual address %s", c.Provisioning.Pool, v)
	}
	if v.As4()[3] == 0 { // its last byte numbers the virtual router (RFC 9568, section 5.2.3: 1 to 255)
		k.fault(virtualAddress, "use an address that doesn't end in .0", "%s ends in .0, and its last number tells it from other virtual addresses on the network", v)
	}
	if e, err := netip.ParseAddr(c.Kubernetes.Endpoint.Host); err == nil && e != v && c.Networks[name].CIDR.Contains(e) {
		k.fault("kubernetes.endpoint", "leave it out, or write "+v.String(), "%s is not the virtual address %s, and nothing would hold it", e, v)
	}
}

// pool checks that the pool holds no address that is someone's.
func (k *check) pool(c *Cluster) {
	p, pool := c.Provisioning, c.Provisioning.Pool
	if !pool.IsValid() {
		return
	}
	const path = "provisioning.pool"
	if !k.host(path, pool.First, p.Subnet, "the provisioning subnet") || !k.host(path, pool.Last, p.Subnet, "the provisioning subnet") {
		return
	}
	const hint = "end the pool before it, or begin it after it"
	if pool.Contains(p.Server) {
		k.fault(path, hint, "the pool %s contains the server's address %s", pool, p.Server)
	}
	for _, name := range c.networkNames() {
		if g := c.Networks[name].Gateway; pool.Contains(g) && g != p.Server {
			k.fault(path, hint, "the pool %s contains the gateway's address %s", pool, g)
		}
	}
	for _, n := range c.Nodes {
		for _, l := range n.Links {
			if pool.Contains(l.Address) {
				k.fault(path, hint, "the pool %s contains %s's address %s", pool, n.Name, l.Address)
			}
		}
	}
}

// snippets reads the user's Ignition files.
func (k *check) snippets(c *Cluster, files fs.FS) {
	c.snippets = map[string][]byte{}
	k.snippetList(c, files, "ignition", c.Ignition)
	for i, n := range c.Nodes {
		k.snippetList(c, files, document.Key(document.Index("nodes", i), "ignition"), n.Ignition)
	}
}

func (k *check) snippetList(c *Cluster, files fs.FS, list string, paths []string) {
	for i, p := range paths {
		if data, ok := k.fileBeside(files, document.Index(list, i), p, "Ignition file"); ok {
			c.snippets[p] = data
		}
	}
}

// fileBeside reads a file that the document names.
func (k *check) fileBeside(files fs.FS, path, p, what string) (data []byte, ok bool) {
	if !fs.ValidPath(p) || p == "." {
		k.fault(path, "write it relative to the cluster document, without ..", "%q is not a path in the document's folder", p)
		return nil, false
	}
	if files == nil {
		k.fault(path, "keep the cluster document in a file", "%q can't be read: the document has no folder", p)
		return nil, false
	}
	data, err := readBounded(files, p)
	if err != nil {
		k.fault(path, "", "cannot read %s: %v", what, err)
		return nil, false
	}
	return data, true
}

func readBounded(files fs.FS, path string) ([]byte, error) {
	f, err := files.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxSnippet+1))
	if err == nil && len(data) > MaxSnippet {
		err = fmt.Errorf("%s is over the limit of %d bytes", path, MaxSnippet)
	}
	return data, err
}
