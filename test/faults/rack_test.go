package faults

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/nodes"
	"github.com/slipway-os/slipway/builder/pki"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// rack is the machines of a cluster document, with its networks and the jump host in the hall.
type rack struct {
	cluster    *cluster.Cluster
	identity   *pki.Identity
	operator   *nodes.Operator
	folder     string
	kubeconfig string            // an administrator's
	images     map[string]string // folder of the root, by role
	machines   []*machine        // in the document's order
	without    []string          // units that don't start
	bytes      int               // in each write of a load
	badWires   bool              // what machines send is lost or late, from when they have power
}

func environment() pki.Environment { return pki.Environment{Now: time.Now(), Rand: rand.Reader} }

// kubernetesNode are the units that need more of a kernel than every host gives in a namespace.
var podUnits = []string{"containerd.service", "slipway-images.service", "kubelet.service", "kube-proxy.service", "flanneld.service"}

// newRack makes the reference cluster's networks and machines without power.
func newRack(t *testing.T) *rack {
	t.Helper()
	return newRackOf(t, "reference.yaml", cluster.Reference())
}

// newRackOf is newRack for another cluster document.
func newRackOf(t *testing.T, name string, document []byte) *rack {
	t.Helper()
	hall(t)
	c, err := cluster.Parse(name, document)
	if err != nil {
		t.Fatal(err)
	}
	r := &rack{cluster: c, folder: t.TempDir(), images: map[string]string{}, without: podUnits, bytes: 100}
	command(t, "mount", "-t tmpfs -o size=6g tmpfs "+r.folder)
	t.Cleanup(func() { command(t, "umount", "-l "+r.folder) })
	if r.identity, err = pki.Create(filepath.Join(r.folder, "identity"), c, environment()); err != nil {
		t.Fatal(err)
	}
	if r.operator, err = nodes.NewOperator(c, r.identity, environment()); err != nil {
		t.Fatal(err)
	}
	r.networks(t)
	r.addMachines(t, cluster.RoleControlPlane)
	t.Cleanup(func() { r.end(t) })
	return r
}

// addMachines adds those of a role.
func (r *rack) addMachines(t *testing.T, role string) {
	t.Helper()
	r.images[role] = image(t, role)
	for i := range r.cluster.Nodes {
		n := &r.cluster.Nodes[i]
		if n.Role != role {
			continue
		}
		m := &machine{rack: r, node: n, number: i, state: filepath.Join(r.folder, n.Name+".var"), log: filepath.Join(r.folder, n.Name+".log")}
		r.newState(t, m)
		r.machines = append(r.machines, m)
	}
}

// newState is an empty disk for the machine's /var.
func (r *rack) newState(t *testing.T, m *machine) {
	t.Helper()
	if err := mount("tmpfs", m.state, "tmpfs", 0, "mode=755,size=1g"); err != nil {
		t.Fatal(err)
	}
}

// networks makes a bridge for each of the document's networks, and the jump host on the one that has it.
func (r *rack) networks(t *testing.T) {
	t.Helper()
	for name, n := range r.cluster.Networks {
		command(t, "ip", "link add "+name+" type bridge")
		if n.CIDR.Contains(r.cluster.Provisioning.Server) {
			command(t, "ip", fmt.Sprintf("addr add %s/%d dev %s", r.cluster.Provisioning.Server, n.CIDR.Bits(), name))
		}
		command(t, "ip", "link set "+name+" up")
		t.Cleanup(func() { command(t, "ip", "link del "+name) })
	}
	l, err := net.Listen("tcp", net.JoinHostPort(r.cluster.Provisioning.Server.String(), "8080"))
	if err != nil {
		t.Fatal(err)
	}
	// Nodes want to reach the boot server, and tell it how far they are.
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
}

func (r *rack) server() string { return fmt.Sprintf("http://%s:8080", r.cluster.Provisioning.Server) }

// end takes the power of all machines; those of a test that has failed say how they were.
func (r *rack) end(t *testing.T) {
	for _, m := range r.machines {
		if t.Failed() {
			m.explain(t)
		}
	}
	for _, m := range r.machines {
		if m.off != nil {
			m.off()
		}
	}
}

// whole says what is missing until every control plane is up: its units, its member of etcd, its API server.
func (r *rack) whole(ctx context.Context) error {
	leaders := 0
	for _, a := range r.operator.Survey(ctx) {
		if a.Role != cluster.RoleControlPlane {
			continue
		}
		switch {
		case a.Status == nil:
			return fmt.Errorf("%s: %s", a.Name, a.Error)
		case a.Status.Etcd == nil || !a.Status.Etcd.Healthy || a.Status.Etcd.Learner:
			return fmt.Errorf("%s: etcd: %+v", a.Name, a.Status.Etcd)
		}
		for _, u := range a.Status.Units {
			if u.Active != "active" && !r.leftOut(u.Name) {
				return fmt.Errorf("%s: %s is %s", a.Name, u.Name, u.Active)
			}
		}
		if a.Status.Etcd.Leader {
			leaders++
		}
		if err := r.ready(ctx, r.address(r.machine(a.Name))); err != nil {
			return fmt.Errorf("%s: API server: %w", a.Name, err)
		}
	}
	if leaders != 1 {
		return fmt.Errorf("%d members of etcd say that they lead", leaders)
	}
	return r.ready(ctx, r.cluster.Endpoint())
}

// ready asks an API server whether it is.
func (r *rack) ready(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/readyz", nil)
	if err != nil {
		return err
	}
	client := r.client()
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", answer.Status)
	}
	return nil
}

// client makes a connection for each request.
func (r *rack) client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:     (&net.Dialer{Timeout: time.Second}).DialContext,
		TLSClientConfig: r.operator.TLS(), DisableKeepAlives: true,
	}}
}

// address is where a machine's own API server answers.
func (r *rack) address(m *machine) string { return r.cluster.NodeAddress(m.node).String() + ":6443" }

func (r *rack) machine(name string) *machine {
	for _, m := range r.machines {
		if m.node.Name == name {
			return m
		}
	}
	return nil
}

func (r *rack) leftOut(unit string) bool {
	for _, u := range r.without {
		if u == unit {
			return true
		}
	}
	return false
}

// await tries until it succeeds, and fails the test with the last error.
func await(t *testing.T, what string, try func(context.Context) error) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		err := try(t.Context())
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > 5*time.Minute {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}
