package faults

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fault is one thing that happens to a cluster, and what takes it away again.
type fault struct {
	words  string
	victim func(*rack, *testing.T) *machine
	strike func(*testing.T, *machine) (heal func())
	lasts  time.Duration // from when writes go on until it is healed
}

// powerLoss is a machine without power from now on.
func powerLoss(t *testing.T, m *machine) func() {
	m.off()
	return func() { m.on(t) }
}

// runs is how often each fault is made: more than once for the figures.
func runs(t *testing.T) int {
	text := cmp.Or(os.Getenv("SLIPWAY_TEST_RUNS"), "1")
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("SLIPWAY_TEST_RUNS=%s is no number of runs", text)
	}
	return n
}

// started is a rack whose machines all have power and whose cluster is whole.
func started(t *testing.T) *rack {
	t.Helper()
	r := newRack(t)
	r.start(t)
	return r
}

func (r *rack) start(t *testing.T) {
	t.Helper()
	for _, m := range r.machines {
		m.on(t)
	}
	t.Logf("FIGURE three control planes: from power to whole %.1f s", await(t, "the cluster", r.whole).Seconds())
}

// survive makes faults under a steady load of writes. After each no acknowledged write may be lost, and the cluster must be
// whole again.
func (r *rack) survive(t *testing.T, faults ...fault) {
	for i, f := range faults {
		t.Run(f.words, func(t *testing.T) {
			var outages, backs []float64
			for run := range runs(t) {
				outage, back := r.once(t, fmt.Sprintf("fault-%d-%d", i, run), f)
				outages, backs = append(outages, outage.Seconds()), append(backs, back.Seconds())
			}
			t.Logf("FIGURE %s: longest time without an acknowledged write %s s; whole again after %s s", f.words, median(outages), median(backs))
		})
		if t.Failed() {
			return
		}
	}
}

// median is that of some values, with the least and the most.
func median(values []float64) string {
	slices.Sort(values)
	return fmt.Sprintf("%.2f (%.2f-%.2f of %d)", values[len(values)/2], values[0], values[len(values)-1], len(values))
}

func (r *rack) once(t *testing.T, name string, f fault) (outage, back time.Duration) {
	t.Helper()
	await(t, "the cluster before the fault", r.whole)
	l := r.newLoad(name)
	l.steady(t, 20)
	m := f.victim(r, t)
	since := time.Now()
	heal := f.strike(t, m)
	l.steady(t, 20)
	time.Sleep(f.lasts)
	outage = l.outage(since)
	healed := time.Now()
	heal()
	back = await(t, "the cluster after the fault", r.whole)
	all := l.outage(since)
	writes := l.end(t)
	t.Logf("%s: %s: %.2f s without an acknowledged write (%.2f s until all was whole again), whole again after %.1f s, %d writes kept",
		f.words, m.node.Name, outage.Seconds(), all.Seconds(), time.Since(healed).Seconds(), writes)
	return all, back
}

// holder is the machine that holds the virtual address: its API server's certificate names it.
func holder(r *rack, t *testing.T) (found *machine) {
	t.Helper()
	await(t, "the holder of the virtual address", func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+r.cluster.Endpoint()+"/readyz", nil)
		if err != nil {
			return err
		}
		answer, err := r.client().Do(request)
		if err != nil {
			return err
		}
		answer.Body.Close()
		for _, m := range r.machines {
			if slices.Contains(answer.TLS.PeerCertificates[0].DNSNames, m.node.Name) {
				found = m
				return nil
			}
		}
		return errors.New("the certificate there names no control plane")
	})
	return found
}

// leader is the machine whose etcd leads.
func leader(r *rack, t *testing.T) (found *machine) {
	t.Helper()
	await(t, "etcd's leader", func(ctx context.Context) error {
		for _, a := range r.operator.Survey(ctx) {
			if a.Status != nil && a.Status.Etcd != nil && a.Status.Etcd.Leader {
				found = r.machine(a.Name)
				return nil
			}
		}
		return errors.New("nobody says that it leads")
	})
	return found
}

// other is a machine that is neither.
func other(r *rack, t *testing.T) *machine {
	t.Helper()
	h, l := holder(r, t), leader(r, t)
	i := slices.IndexFunc(r.machines, func(m *machine) bool { return m != h && m != l })
	return r.machines[i]
}

// ended is a program that somebody has killed: systemd starts it again.
func ended(unit string) func(*testing.T, *machine) func() {
	return func(t *testing.T, m *machine) func() {
		m.must(t, "systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit)
		return func() {}
	}
}

// unplugged is a network interface without a link: 0 is the management network's, 1 the container network's.
func unplugged(number int) func(*testing.T, *machine) func() {
	return func(t *testing.T, m *machine) func() {
		command(t, "ip", "link set "+m.nic(number)+" down")
		return func() { command(t, "ip", "link set "+m.nic(number)+" up") }
	}
}

// oneWay is a management network that carries frames only from the machine (out) or only to it.
func oneWay(out bool) func(*testing.T, *machine) func() {
	return func(t *testing.T, m *machine) func() {
		rules := "add table netdev cut; add chain netdev cut c { type filter hook %s device %s priority 0 ; policy drop ; }"
		hook := "ingress"
		if out {
			hook = "egress"
		}
		command(t, "nft", fmt.Sprintf(rules, hook, m.nic(0)))
		return func() { command(t, "nft", "delete table netdev cut") }
	}
}

// full is a /var without room.
func full(t *testing.T, m *machine) func() {
	file := filepath.Join(m.state, "full")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

// TestClusterPrograms kills programs.
func TestClusterPrograms(t *testing.T) {
	r := started(t)
	r.survive(t,
		fault{"etcd's leader is killed", leader, ended("etcd.service"), 0},
		fault{"the API server of the virtual address' holder is killed", holder, ended("kube-apiserver.service"), 0},
		fault{"slipway-api of the virtual address' holder is killed", holder, ended("slipway-api.service"), 0},
	)
}

// TestClusterNetworks takes networks away.
func TestClusterNetworks(t *testing.T) {
	r := started(t)
	const while = 20 * time.Second
	r.survive(t,
		fault{"the holder of the virtual address loses its container network", holder, unplugged(1), 2 * time.Second},
		fault{"the holder of the virtual address loses its management network", holder, unplugged(0), while},
		fault{"etcd's leader loses its management network", leader, unplugged(0), while},
		fault{"the holder of the virtual address isn't heard any more", holder, oneWay(false), while},
		fault{"the holder of the virtual address doesn't hear any more", holder, oneWay(true), while},
		fault{"another control plane isn't heard any more", other, oneWay(false), while},
		fault{"another control plane doesn't hear any more", other, oneWay(true), while},
	)
}

// TestClusterDiskFull fills disks. What it writes stays: more than three runs of each fill everybody's.
func TestClusterDiskFull(t *testing.T) {
	r := started(t)
	r.bytes = 100 << 10 // so that etcd's files must grow
	const while = 20 * time.Second
	r.survive(t,
		fault{"the disk of etcd's leader is full", leader, full, while},
		fault{"the disk of the virtual address' holder is full", holder, full, while},
	)
}

// TestClusterBadNetwork boots and runs on networks that lose one frame in a hundred and delay each.
func TestClusterBadNetwork(t *testing.T) {
	r := newRack(t)
	r.badWires = true
	r.start(t)
	r.survive(t,
		fault{"on bad networks the holder of the virtual address loses its power", holder, powerLoss, 0},
		fault{"on bad networks the machine of etcd's leader loses its power", leader, powerLoss, 0},
	)
}

// TestClusterPower takes the power of machines.
func TestClusterPower(t *testing.T) {
	r := started(t)
	r.survive(t,
		fault{"the holder of the virtual address loses its power", holder, powerLoss, 0},
		fault{"the machine of etcd's leader loses its power", leader, powerLoss, 0},
	)
	if !t.Failed() {
		t.Run("all lose their power", func(t *testing.T) { r.blackout(t) })
	}
}

// blackout takes everybody's power at once, and gives it back one after the other in an order of chance.
func (r *rack) blackout(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 2))
	var backs []float64
	for run := range runs(t) {
		await(t, "the cluster before", r.whole)
		l := r.newLoad(fmt.Sprintf("blackout-%d", run))
		l.steady(t, 40)
		for _, m := range r.machines {
			m.off()
		}
		var order []string
		for _, i := range chance.Perm(len(r.machines)) {
			time.Sleep(time.Duration(chance.IntN(3000)) * time.Millisecond)
			r.machines[i].on(t)
			order = append(order, r.machines[i].node.Name)
		}
		back := await(t, "the cluster after", r.whole)
		l.steady(t, 20)
		writes := l.end(t)
		t.Logf("power again in the order %v: whole %.1f s after the last, %d writes kept", order, back.Seconds(), writes)
		backs = append(backs, back.Seconds())
	}
	t.Logf("FIGURE all control planes lose their power: whole again %s s after the last has it again", median(backs))
}
