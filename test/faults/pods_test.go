package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// space is the Kubernetes namespace of builder/rack's checks, whose manifests are used here too.
const space = "slipway-check"

// kubectl runs the image's kubectl in the hall, through the virtual address.
func (r *rack) kubectl(ctx context.Context, in string, arguments ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, filepath.Join(r.images[cluster.RoleControlPlane], "usr/bin/kube"))
	c.Args = append([]string{"kubectl", "--kubeconfig", r.kubeconfig, "--request-timeout=15s", "-n", space}, arguments...)
	c.Env = []string{"HOME=" + r.folder}
	var words bytes.Buffer
	c.Stdin, c.Stderr = strings.NewReader(in), &words
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("kubectl %q: %w: %s", arguments, err, words.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// must runs kubectl until it succeeds.
func (r *rack) must(t *testing.T, in string, arguments ...string) (out string) {
	t.Helper()
	await(t, "kubectl", func(ctx context.Context) (err error) {
		out, err = r.kubectl(ctx, in, arguments...)
		return err
	})
	return out
}

// says is a condition: kubectl prints that.
func (r *rack) says(want string, arguments ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		out, err := r.kubectl(ctx, "", arguments...)
		if err == nil && out != want {
			err = fmt.Errorf("kubectl %q says %q, not %q", arguments, out, want)
		}
		return err
	}
}

// nodesReady is a condition: all machines' nodes are Ready.
func (r *rack) nodesReady(ctx context.Context) error {
	out, err := r.kubectl(ctx, "", "get", "nodes", "-o", `jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}`)
	if err != nil {
		return err
	}
	for _, m := range r.machines {
		if !slices.Contains(strings.Fields(out), m.node.Name+"=True") {
			return fmt.Errorf("%s isn't Ready: %s", m.node.Name, out)
		}
	}
	return nil
}

// pod is one that isn't being deleted.
type pod struct {
	name, node, address string
	ready               bool
}

// pods are those with a label.
func (r *rack) pods(ctx context.Context, app string) ([]pod, error) {
	out, err := r.kubectl(ctx, "", "get", "pods", "-l", "app="+app, "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name, DeletionTimestamp string }
			Spec     struct{ NodeName string }
			Status   struct {
				PodIP      string
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, err
	}
	var all []pod
	for _, i := range list.Items {
		if i.Metadata.DeletionTimestamp != "" {
			continue
		}
		p := pod{name: i.Metadata.Name, node: i.Spec.NodeName, address: i.Status.PodIP}
		for _, c := range i.Status.Conditions {
			p.ready = p.ready || c.Type == "Ready" && c.Status == "True"
		}
		all = append(all, p)
	}
	return all, nil
}

// twins waits until two pods are ready on two nodes, neither of them without power, and are what their Service has.
func (r *rack) twins(t *testing.T) (all []pod, after time.Duration) {
	t.Helper()
	after = await(t, "two pods and their Service", func(ctx context.Context) (err error) {
		if all, err = r.pods(ctx, "twin"); err != nil {
			return err
		}
		nodes, addresses := map[string]bool{}, []string{}
		for _, p := range all {
			if m := r.machine(p.node); !p.ready || m == nil || m.process == nil {
				return fmt.Errorf("%+v", all)
			}
			nodes[p.node] = true
			addresses = append(addresses, p.address)
		}
		if len(all) != 2 || len(nodes) != 2 {
			return fmt.Errorf("%+v", all)
		}
		out, err := r.kubectl(ctx, "", "get", "endpointslices", "-l", "kubernetes.io/service-name=twin", "-o",
			"jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}{.addresses[0]} {end}")
		if err != nil {
			return err
		}
		endpoints := strings.Fields(out)
		slices.Sort(endpoints)
		slices.Sort(addresses)
		if !slices.Equal(endpoints, addresses) {
			return fmt.Errorf("the Service has %q, its pods have %q", endpoints, addresses)
		}
		return nil
	})
	return all, after
}

// newRackWithPods is one whose nodes run pods, workers too.
func newRackWithPods(t *testing.T) *rack {
	t.Helper()
	r := newRack(t)
	r.without = nil
	r.addMachines(t, cluster.RoleWorker)
	r.administer(t)
	return r
}

// administer makes the kubeconfig that kubectl needs.
func (r *rack) administer(t *testing.T) {
	t.Helper()
	text, err := r.identity.AdminKubeconfig(r.cluster, environment())
	if err != nil {
		t.Fatal(err)
	}
	r.kubeconfig = filepath.Join(r.folder, "admin.conf")
	write(t, r.kubeconfig, text, 0o600)
}

// TestClusterPods has nodes with pods: what a cluster's controllers, scheduler, kubelets and proxies do, and what becomes of it when
// machines die.
func TestClusterPods(t *testing.T) {
	r := newRackWithPods(t)
	for _, m := range r.machines {
		m.on(t)
	}
	t.Logf("FIGURE three control planes and two workers: from power to all Ready %.1f s", await(t, "the nodes", r.nodesReady).Seconds())
	r.watchNetworks(t)
	r.apply(t)
	for _, step := range []struct {
		words string
		try   func(*testing.T)
	}{
		{"a pod stays off a node whose taint it doesn't tolerate, and comes when that is gone", r.taint},
		{"a Service's name, its address, its node port", r.services},
		{"a pod with two containers, a volume and a Secret", r.containers},
		{"a failing liveness probe restarts a container", r.liveness},
		{"a pod's token is taken by the API servers", r.token},
		{"a new namespace gets its service account", r.account},
		{"a node's static pod has a mirror at the API", r.static},
		{"what pods send between nodes takes the container network, and no other", r.apart},
		{"a ReplicaSet heals, and its Service follows", r.heals},
		{"a dead node's pods move", r.moves},
		{"scheduler and controllers go on when their leader's machine dies", r.leads},
		{"all five lose their power", r.dark},
	} {
		if !t.Run(step.words, step.try) {
			return
		}
	}
}

// apply applies the checks' manifests of builder/rack.
func (r *rack) apply(t *testing.T) {
	t.Helper()
	r.must(t, "", "taint", "node", "worker-1", "slipway-check=:NoSchedule", "--overwrite")
	names := strings.NewReplacer("@WORKER@", "worker-1", "@OTHER@", "cp-1", "@DOMAIN@", r.cluster.Kubernetes.ClusterDomain)
	for _, name := range []string{"namespace", "pods", "controllers"} {
		text, err := os.ReadFile("../../builder/rack/check/" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		r.must(t, names.Replace(string(text)), "apply", "-f", "-")
	}
	// Five minutes are how long pods stay with a node that doesn't answer by default; here they are ten seconds.
	soon := `[{"op":"replace","path":"/spec/template/spec/tolerations","value":[` +
		`{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":10},` +
		`{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":10}]}]`
	r.must(t, "", "patch", "replicaset", "twin", "--type=json", "-p", soon)
	r.must(t, "", "delete", "pods", "-l", "app=twin", "--wait=false")
}

func phase(name string) []string {
	return []string{"get", "pod", name, "-o", "jsonpath={.status.phase}"}
}

func (r *rack) taint(t *testing.T) {
	await(t, "the scheduler's word", func(ctx context.Context) error {
		out, err := r.kubectl(ctx, "", "get", "pod", "shy", "-o", `jsonpath={.spec.nodeName} {.status.conditions[?(@.type=="PodScheduled")].message}`)
		if err == nil && !strings.Contains(out, "untolerated taint") {
			err = errors.New(out)
		}
		return err
	})
	r.must(t, "", "taint", "node", "worker-1", "slipway-check-")
	await(t, "the pod", r.says("Running", phase("shy")...))
}

func (r *rack) services(t *testing.T) {
	await(t, "a pod that resolves a Service's name", r.says("Succeeded", phase("names")...))
	await(t, "a pod on another node that asks the Service", r.says("Succeeded", phase("visitor")...))
	port := r.must(t, "", "get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}")
	for _, m := range r.machines {
		address := "http://" + r.cluster.NodeAddress(m.node).String() + ":" + port + "/"
		await(t, address, func(ctx context.Context) error {
			out, err := exec.CommandContext(ctx, "curl", "-sS", "--max-time", "3", address).CombinedOutput()
			if err == nil && !strings.Contains(string(out), "hello from two containers") {
				err = errors.New(string(out))
			}
			return err
		})
	}
}

func (r *rack) containers(t *testing.T) {
	for want, command := range map[string][]string{
		"hello from two containers": {"exec", "web", "-c", "server", "--", "/check", "cat", "/shared/greeting"},
		"open sesame":               {"exec", "web", "-c", "server", "--", "/check", "cat", "/secret/word"},
	} {
		await(t, "the pod with two containers", r.says(want, command...))
	}
}

func (r *rack) liveness(t *testing.T) {
	await(t, "a restart", func(ctx context.Context) error {
		out, err := r.kubectl(ctx, "", "get", "pod", "ill", "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
		if err == nil && (out == "" || out == "0") {
			err = fmt.Errorf("%q restarts", out)
		}
		return err
	})
}

func (r *rack) token(t *testing.T) {
	twins, _ := r.twins(t)
	token := r.must(t, "", "exec", twins[0].name, "--", "/check", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token")
	review := `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"` + token + `"}}`
	if who := r.must(t, review, "create", "-f", "-", "-o", "jsonpath={.status.user.username}"); who != "system:serviceaccount:"+space+":default" {
		t.Errorf("the pod is taken for %q", who)
	}
}

func (r *rack) account(t *testing.T) {
	r.must(t, "", "create", "namespace", "fresh")
	await(t, "its service account", r.says("default", "get", "serviceaccount", "default", "-n", "fresh", "-o", "jsonpath={.metadata.name}"))
}

// static puts a manifest on a worker, where its kubelet looks for some, and takes it away again.
func (r *rack) static(t *testing.T) {
	const manifest = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "static", "namespace": "` + space + `"}, "spec": {
		"terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
		"containers": [{"name": "server", "image": "slipway.local/check:0.1.0", "imagePullPolicy": "Never", "args": ["serve", "--listen", ":8080", "--file", "/etc/hostname"]}]}}`
	m := r.machine("worker-1")
	file := filepath.Join("/proc", strconv.Itoa(m.process.Process.Pid), "root", bootspec.StaticPodDirectory, "static.json")
	write(t, file, []byte(manifest), 0o600)
	mirror := []string{"get", "pod", "static-worker-1", "--ignore-not-found", "-o",
		`jsonpath={.status.phase} {.spec.nodeName} {.metadata.ownerReferences[0].kind} {.metadata.annotations.kubernetes\.io/config\.source}`}
	await(t, "the mirror", r.says("Running worker-1 Node file", mirror...))
	uid := []string{"get", "pod", "static-worker-1", "--ignore-not-found", "-o", "jsonpath={.metadata.uid}"}
	first := r.must(t, "", uid...)
	r.must(t, "", "delete", "pod", "static-worker-1", "--wait=false")
	await(t, "another mirror: the pod is the node's", func(ctx context.Context) error {
		out, err := r.kubectl(ctx, "", uid...)
		if err == nil && (out == "" || out == first) {
			err = fmt.Errorf("it is %q", out)
		}
		return err
	})
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	await(t, "its end", func(ctx context.Context) error {
		out, err := r.kubectl(ctx, "", mirror...)
		if err == nil && out != "" {
			err = errors.New("there is still " + out)
		}
		return err
	})
}

// watchNetworks counts pods' frames, as they are and in VXLAN, by the network that they come from a machine on.
func (r *rack) watchNetworks(t *testing.T) {
	t.Helper()
	command(t, "nft", "add table bridge seen; add chain bridge seen c { type filter hook prerouting priority 0 ; }")
	for _, m := range r.machines {
		for i, l := range m.node.Links {
			for _, match := range []string{"udp dport 8472", "ip saddr " + r.cluster.Kubernetes.PodCIDR.String()} {
				command(t, "nft", fmt.Sprintf("add rule bridge seen c iifname %s %s counter comment %s", m.nic(i), match, l.Network))
			}
		}
	}
}

func (r *rack) apart(t *testing.T) {
	out, err := exec.Command("nft", "list", "table", "bridge", "seen").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if _, network, ok := strings.Cut(line, `comment "`); ok && !strings.Contains(line, "packets 0 ") {
			seen[strings.TrimSpace(strings.Trim(network, "\"\n"))] = true
		}
	}
	if container := r.cluster.Container(); len(seen) != 1 || !seen[container] {
		t.Errorf("pods' frames were seen on %v, not on %s alone:\n%s", seen, container, out)
	}
}

func (r *rack) heals(t *testing.T) {
	before, _ := r.twins(t)
	r.must(t, "", "delete", "pod", before[0].name, "--wait=false")
	after, took := r.twins(t)
	for _, p := range after {
		if p.name == before[0].name {
			t.Errorf("%s is still there", p.name)
		}
	}
	t.Logf("FIGURE another pod in the place of a deleted one, ready and in its Service: %.1f s", took.Seconds())
}

// moves takes the power of a worker that has a pod.
func (r *rack) moves(t *testing.T) {
	before, _ := r.twins(t)
	victim := r.machine(before[0].node)
	if victim.node.Role != cluster.RoleWorker {
		victim = r.machine(before[1].node)
	}
	victim.off()
	_, took := r.twins(t)
	t.Logf("FIGURE %s loses its power: its pod is ready elsewhere and in its Service after %.1f s, 10 s of it its toleration", victim.node.Name, took.Seconds())
	victim.on(t)
	await(t, "the node", r.nodesReady)
}

// leads takes the power of the scheduler's leader, and wants a new pod to find a node.
func (r *rack) leads(t *testing.T) {
	for _, lease := range []string{"kube-scheduler", "kube-controller-manager"} {
		who := []string{"get", "lease", lease, "-n", "kube-system", "-o", "jsonpath={.spec.holderIdentity}"}
		name, _, _ := strings.Cut(r.must(t, "", who...), "_")
		m := r.machine(name)
		m.off()
		took := await(t, "another leader", func(ctx context.Context) error {
			out, err := r.kubectl(ctx, "", who...)
			if err == nil && (out == "" || strings.HasPrefix(out, name+"_")) {
				err = errors.New("it is still " + out)
			}
			return err
		})
		t.Logf("FIGURE %s's leader loses its power: another one leads after %.1f s", lease, took.Seconds())
		r.heals(t)
		m.on(t)
		await(t, "the node", r.nodesReady)
	}
}

// dark takes the power of all machines.
func (r *rack) dark(t *testing.T) {
	for _, m := range r.machines {
		m.off()
	}
	for _, m := range slices.Backward(r.machines) {
		m.on(t)
	}
	ready := await(t, "the nodes", r.nodesReady)
	_, pods := r.twins(t)
	t.Logf("FIGURE all five lose their power: pods are ready and in their Service %.1f s after they have it again, nodes say Ready after %.1f s", (ready + pods).Seconds(), ready.Seconds())
}
