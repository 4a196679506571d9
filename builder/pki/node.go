package pki

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// File is a file for a node.
type File struct {
	Path string // absolute
	Mode uint32 // 0600 for what is secret, else 0644
	Data []byte
}

// Users and groups that Kubernetes' own RBAC bootstrap policy and node authorizer know.
const (
	groupMasters   = "system:masters"
	groupNodes     = "system:nodes"
	userKubelet    = "system:node:" // + node name
	userProxy      = "system:kube-proxy"
	userController = "system:kube-controller-manager"
	userScheduler  = "system:kube-scheduler"
)

// Users of ours. The image's addons and the units' flags name them too (profiles/role).
const (
	userFlannel       = "slipway:flanneld"
	userAPIToKubelet  = "slipway:apiserver-kubelet-client"
	userAddons        = "slipway:addons"
	userFrontProxy    = "front-proxy-client"
	userAPIServer     = "kube-apiserver"
	userAPIServerEtcd = "kube-apiserver-etcd-client"
)

const (
	localhost      = "localhost"
	localAPIServer = "https://" + bootspec.APIBalancer
	apiService     = "kubernetes" // the Service through which pods reach the API
)

// Modes of files.
const (
	secret = 0o600
	public = 0o644
)

// NodeFiles are all files with keys and certificates that a node gets: every node its kubelet's, kube-proxy's and
// flanneld's kubeconfig and the cluster authority's certificate; a control plane besides that the cluster authority's
// key, the service account key, the servers' certificates and the kubeconfigs of its components.
//
// Every node besides has the server certificate of its management API, which names the node alone.
func (id *Identity) NodeFiles(c *cluster.Cluster, n *cluster.Node, env Environment) ([]File, error) {
	if err := id.belongs(c); err != nil {
		return nil, err
	}
	m := &maker{id: id, env: env}
	m.add(path.Join(bootspec.PKIDirectory, "ca.crt"), public, id.Trusted())
	m.kubeconfig("kubelet", localAPIServer, Leaf{CommonName: userKubelet + n.Name, Organization: []string{groupNodes}, Lifetime: KubeletLifetime})
	m.kubeconfig("kube-proxy", localAPIServer, Leaf{CommonName: userProxy})
	m.kubeconfig("flanneld", localAPIServer, Leaf{CommonName: userFlannel})
	// A control plane shows the same certificate to the boot server's depot.
	m.leaf("manage", m.id.CA, Leaf{
		CommonName: n.Name, Names: []string{n.Name}, Addresses: []netip.Addr{c.NodeAddress(n)}, Server: true, Client: n.Role == cluster.RoleControlPlane,
	})
	if n.Role == cluster.RoleControlPlane {
		m.controlPlane(c, n)
	}
	return m.files, m.err
}

// maker collects files and the first error.
type maker struct {
	id    *Identity
	env   Environment
	files []File
	err   error
}

func (m *maker) add(path string, mode uint32, data []byte) {
	m.files = append(m.files, File{Path: path, Mode: mode, Data: data})
}

func (m *maker) kubeconfig(name, server string, l Leaf) {
	if l.Lifetime == 0 {
		l.Lifetime = LeafLifetime
	}
	data, err := m.id.Kubeconfig(server, name, l, m.env)
	if err != nil && m.err == nil {
		m.err = err
	}
	m.add(path.Join(bootspec.KubeconfigDirectory, name+".conf"), secret, data)
}

// leaf adds name.crt and name.key, signed by an authority.
func (m *maker) leaf(name string, a *Authority, l Leaf) {
	l.Lifetime = LeafLifetime
	pair, err := a.Issue(l, m.env)
	if err != nil && m.err == nil {
		m.err = err
	}
	m.add(path.Join(bootspec.PKIDirectory, name+".crt"), public, pair.Certificate)
	m.add(path.Join(bootspec.PKIDirectory, name+".key"), secret, pair.Key)
}

// controlPlane adds what only control planes get.
func (m *maker) controlPlane(c *cluster.Cluster, n *cluster.Node) {
	pki := func(name string) string { return path.Join(bootspec.PKIDirectory, name) }
	authority, err := m.id.CA.KeyPEM()
	account, err2 := encodeKey(m.id.ServiceAccount)
	var verifiers []byte
	var err3 error
	for _, g := range m.id.generations() {
		verifier, err := encodePublicKey(&g.account.PublicKey)
		verifiers, err3 = append(verifiers, verifier...), errors.Join(err3, err)
	}
	for _, e := range []error{err, err2, err3} {
		if e != nil && m.err == nil {
			m.err = e
		}
	}
	// ca.crt may hold two authorities; kube-controller-manager signs with one, and wants its certificate alone.
	m.add(pki("signer.crt"), public, m.id.CA.PEM())
	m.add(pki("ca.key"), secret, authority)
	m.add(pki("sa.key"), secret, account)
	m.add(pki("sa.pub"), public, verifiers)
	m.add(pki("front-proxy-ca.crt"), public, m.id.bundle(func(g *generation) *Authority { return g.frontProxy }))
	m.add(pki("etcd/ca.crt"), public, m.id.bundle(func(g *generation) *Authority { return g.etcd }))

	address, loopback := c.NodeAddress(n), netip.MustParseAddr("127.0.0.1")
	m.leaf("apiserver", m.id.CA, apiServer(c, n))
	m.leaf("apiserver-kubelet-client", m.id.CA, Leaf{CommonName: userAPIToKubelet, Client: true})
	m.leaf("front-proxy-client", m.id.FrontProxy, Leaf{CommonName: userFrontProxy, Client: true})
	// etcd presents its server certificate as a client's too, to itself (its gRPC gateway).
	m.leaf("etcd/server", m.id.Etcd, Leaf{CommonName: n.Name, Names: []string{n.Name, localhost}, Addresses: []netip.Addr{address, loopback}, Server: true, Client: true})
	m.leaf("etcd/peer", m.id.Etcd, Leaf{CommonName: n.Name, Names: []string{n.Name, localhost}, Addresses: []netip.Addr{address, loopback}, Server: true, Client: true})
	m.leaf("etcd/apiserver-client", m.id.Etcd, Leaf{CommonName: userAPIServerEtcd, Client: true})

	m.kubeconfig("controller-manager", localAPIServer, Leaf{CommonName: userController})
	m.kubeconfig("scheduler", localAPIServer, Leaf{CommonName: userScheduler})
	m.kubeconfig("addons", localAPIServer, Leaf{CommonName: userAddons, Organization: []string{groupMasters}})
}

// Operator is a client certificate for the nodes' management API, for a command of now: it is valid for OperatorLifetime.
func (id *Identity) Operator(env Environment) (Pair, error) {
	return id.CA.Issue(Leaf{CommonName: "slipway:operator", Organization: []string{bootspec.ManageGroup}, Client: true, Lifetime: OperatorLifetime}, env)
}

// Depot is the certificate of the boot server's depot (bootspec.DepotName).
func (id *Identity) Depot(env Environment) (Pair, error) {
	return id.CA.Issue(Leaf{CommonName: bootspec.DepotName, Names: []string{bootspec.DepotName}, Server: true, Lifetime: LeafLifetime}, env)
}

// BootServer is the certificate of the boot server (bootspec.SecureName), of its own authority.
func (id *Identity) BootServer(env Environment) (Pair, error) {
	if id.Boot == nil {
		return Pair{}, fmt.Errorf("the identity of %s has no authority for the boot server", id.Cluster)
	}
	return id.Boot.Issue(Leaf{CommonName: bootspec.SecureName, Names: []string{bootspec.SecureName}, Server: true, Lifetime: LeafLifetime}, env)
}

// apiServer is the certificate of a node's API server: every name and address that clients reach it by.
func apiServer(c *cluster.Cluster, n *cluster.Node) Leaf {
	l := Leaf{
		CommonName: userAPIServer, Server: true,
		Names: []string{
			apiService, apiService + ".default", apiService + ".default.svc",
			apiService + ".default.svc." + c.Kubernetes.ClusterDomain, localhost, n.Name,
		},
		Addresses: []netip.Addr{c.KubernetesService(), c.NodeAddress(n), netip.MustParseAddr("127.0.0.1")},
	}
	if v := c.Kubernetes.VirtualAddress; v.IsValid() {
		l.Addresses = append(l.Addresses, v)
	}
	host := c.Kubernetes.Endpoint.Host
	if address, err := netip.ParseAddr(host); err == nil {
		if !slices.Contains(l.Addresses, address) {
			l.Addresses = append(l.Addresses, address)
		}
	} else if host != "" {
		l.Names = append(l.Names, host)
	}
	return l
}
