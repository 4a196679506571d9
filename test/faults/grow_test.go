package faults

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/nodes"
	"github.com/slipway-os/slipway/builder/pki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// site is a rack whose document changes: its operator has slipway, a document and the identity.
type site struct {
	*rack
	program  string
	document string     // its file
	full     string     // what it would say of all nodes
	all      []*machine // also those that it doesn't have
}

// newSite is the reference cluster with five control planes and one worker, none of which has power yet.
func newSite(t *testing.T) *site {
	t.Helper()
	text := string(cluster.Reference())
	third := regexp.MustCompile(`(?ms)^  - name: cp-3$.*?^  - `).FindString(text)
	third = strings.TrimSuffix(third, "  - ")
	for _, n := range []string{"5", "4"} {
		added := strings.NewReplacer("cp-3", "cp-"+n, ":13\"", ":1"+n+"\"", ".13,", ".1"+n+",", ".13}", ".1"+n+"}").Replace(third)
		text = strings.Replace(text, third, third+added, 1)
	}
	s := &site{rack: newRackOf(t, "site.yaml", []byte(text)), program: filepath.Join(t.TempDir(), "slipway")}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", s.program, "../../builder/slipway").CombinedOutput(); err != nil {
		t.Fatalf("cannot build slipway: %v\n%s", err, out)
	}
	s.without = nil
	s.addMachines(t, cluster.RoleWorker)
	s.all, s.full = s.machines, text
	s.document = filepath.Join(s.folder, "site.yaml")
	return s
}

// has makes the document have these nodes alone.
func (s *site) has(t *testing.T, names ...string) {
	t.Helper()
	head, list, _ := strings.Cut(s.full, "nodes:\n")
	var kept strings.Builder
	for _, one := range strings.Split("\n"+list, "\n  - name: ")[1:] {
		if name, _, _ := strings.Cut(one, "\n"); slices.Contains(names, name) {
			kept.WriteString("  - name: " + strings.TrimSuffix(one, "\n") + "\n")
		}
	}
	document := head + "nodes:\n" + kept.String()
	write(t, s.document, []byte(document), 0o644)
	var err error
	if s.cluster, err = cluster.Parse("site.yaml", []byte(document)); err != nil {
		t.Fatal(err)
	}
	s.machines = nil
	for _, m := range s.all {
		if n, ok := s.cluster.Node(m.node.Name); ok {
			m.node = n
			s.machines = append(s.machines, m)
		}
	}
	s.know(t)
}

// know takes the identity as it is on disk.
func (s *site) know(t *testing.T) {
	t.Helper()
	var err error
	if s.identity, err = pki.Load(filepath.Join(s.folder, "identity")); err != nil {
		t.Fatal(err)
	}
	if s.operator, err = nodes.NewOperator(s.cluster, s.identity, environment()); err != nil {
		t.Fatal(err)
	}
	s.administer(t)
}

// slipway runs the operator's command.
func (s *site) slipway(t *testing.T, arguments ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	began := time.Now()
	out, err := exec.CommandContext(ctx, s.program, append(arguments, "--cluster", s.document, "--identity", filepath.Join(s.folder, "identity"))...).CombinedOutput()
	t.Logf("slipway %s, %.0f s:\n%s", strings.Join(arguments, " "), time.Since(began).Seconds(), out)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// up is a condition: the document's control planes are whole, and all its nodes Ready.
func (s *site) up(ctx context.Context) error {
	if err := s.whole(ctx); err != nil {
		return err
	}
	if err := s.nodesReady(ctx); err != nil {
		return err
	}
	out, err := s.kubectl(ctx, "", "get", "nodes", "-o", "name")
	if n := len(strings.Fields(out)); err == nil && n != len(s.cluster.Nodes) {
		err = fmt.Errorf("Kubernetes has %d nodes, the document %d", n, len(s.cluster.Nodes))
	}
	return err
}

// thief has what was on a control plane.
type thief struct{ etcd, kubelet, operator *tls.Config }

// steal copies a machine's certificates, and makes itself one with the authority's key that it had.
func (s *site) steal(t *testing.T, m *machine) thief {
	t.Helper()
	folder := filepath.Join(s.folder, m.node.Name+".root", "files")
	config := func(name string) *tls.Config {
		pair, err := tls.LoadX509KeyPair(filepath.Join(folder, bootspec.PKIDirectory, name+".crt"), filepath.Join(folder, bootspec.PKIDirectory, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Config{Certificates: []tls.Certificate{pair}}
	}
	forged, err := s.identity.Operator(environment())
	if err != nil {
		t.Fatal(err)
	}
	operator, err := tls.X509KeyPair(forged.Certificate, forged.Key)
	if err != nil {
		t.Fatal(err)
	}
	return thief{config("etcd/peer"), config("apiserver-kubelet-client"), &tls.Config{Certificates: []tls.Certificate{operator}}}
}

// heard says whether a node's etcd, kubelet, API server and management take the thief's certificates.
func (s *site) heard(t *testing.T, who thief, m *machine) map[string]bool {
	t.Helper()
	address := s.cluster.NodeAddress(m.node).String()
	ask := func(config *tls.Config, url string) bool {
		config = config.Clone()
		config.InsecureSkipVerify = true // it is the server that is to be asked
		client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
			DialContext: (&net.Dialer{Timeout: time.Second}).DialContext, TLSClientConfig: config, DisableKeepAlives: true,
		}}
		answer, err := client.Get(url)
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode != http.StatusUnauthorized
	}
	return map[string]bool{
		"etcd":    ask(who.etcd, "https://"+address+":2379/version"),
		"kubelet": ask(who.kubelet, "https://"+address+":10250/pods"), "API server": ask(who.operator, "https://"+address+":6443/api/v1/nodes"),
		"management": ask(who.operator, fmt.Sprintf("https://%s:%d%s", address, bootspec.ManagePort, bootspec.RouteLiveStatus)),
	}
}

// TestClusterGrows grows a cluster from one control plane to three and five while it is written to, then takes two away, the first one among
// them, and takes back what they had.
func TestClusterGrows(t *testing.T) {
	s := newSite(t)
	s.has(t, "cp-1", "worker-1")
	for _, m := range s.machines {
		m.on(t)
	}
	t.Logf("FIGURE one control plane and a worker: from power to Ready %.1f s", await(t, "the nodes", s.up).Seconds())
	load := s.newLoad("growing")
	for _, size := range []int{3, 5} {
		names := []string{"worker-1"}
		for i := range size {
			names = append(names, fmt.Sprintf("cp-%d", i+1))
		}
		s.has(t, names...)
		s.slipway(t, "renew", "--running")
		for _, m := range s.machines {
			if m.process == nil {
				m.on(t)
			}
		}
		t.Logf("FIGURE grown to %d control planes: whole and Ready %.1f s after power", size, await(t, "the grown cluster", s.up).Seconds())
		load.steady(t, 20)
	}

	first, last := s.machine("cp-1"), s.machine("cp-5")
	stolen := s.steal(t, first)
	first.off()
	last.off()
	s.has(t, "cp-2", "cp-3", "cp-4", "worker-1")
	load.steady(t, 20)
	s.slipway(t, "prune", "--yes")
	s.slipway(t, "renew")
	await(t, "the cluster without two", s.up)
	for _, m := range s.machines[:3] {
		for what, heard := range s.heard(t, stolen, m) {
			if !heard {
				t.Errorf("before the authorities are replaced, the %s of %s refuses a removed node: this test tries nothing", what, m.node.Name)
			}
		}
	}

	s.slipway(t, "rotate", "--yes")
	writes := load.end(t)
	s.know(t)
	await(t, "the cluster that trusts both", s.up)
	load = s.newLoad("rotating") // by who trusts both authorities
	s.must(t, "", "-n", "kube-system", "rollout", "restart", "deployment")
	s.slipway(t, "rotate", "--yes")
	s.know(t)
	await(t, "the cluster with new certificates", s.up)
	load.steady(t, 20)
	t.Logf("FIGURE growing to five control planes, shrinking to three and replacing authorities: %d writes, all kept", writes+load.end(t))
	s.slipway(t, "rotate", "--yes", "--now")
	s.know(t)
	await(t, "the cluster that trusts the new ones", s.up)
	for _, m := range s.machines[:3] {
		for what, heard := range s.heard(t, stolen, m) {
			if heard {
				t.Errorf("the %s of %s takes what a removed node has", what, m.node.Name)
			}
		}
	}
	after := s.newLoad("after")
	after.steady(t, 20)
	after.end(t)
	// The API servers trust the kubelets' new certificates, and pods the API servers'.
	s.must(t, "", "-n", "kube-system", "rollout", "status", "deployment", "--timeout=20s")
	await(t, "a pod's log", func(ctx context.Context) error {
		_, err := s.kubectl(ctx, "", "-n", "kube-system", "logs", "-l", "k8s-app=kube-dns", "--tail=1")
		return err
	})
}
