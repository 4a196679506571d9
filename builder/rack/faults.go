package rack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/slipway-os/slipway/builder/netboot"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// Outage is a fault that was made, and what came of it.
type Outage struct {
	Fault string `json:"fault"` // in plain words
	Node  string `json:"node"`  // that lost its power
	// Seconds without an acknowledged write, from the fault to the first one after it.
	Seconds float64 `json:"seconds"`
	// Own is that time by the machines' clocks, which go slower where machines take turns.
	Own    float64 `json:"own"`
	Writes int     `json:"writes"` // acknowledged before and after it, and all found in the end
	// Back is how many seconds after its power came again the node was Ready.
	Back float64 `json:"back"`
}

// Limits of a fault, stretched with the machines.
const (
	recovery = 4 * time.Minute // until writes go on
	steady   = 10              // writes that must be acknowledged before a fault and after it
)

// faults takes the power of one control plane after the other while writes go on through the endpoint: of the one that
// answers there, and of etcd's leader. No acknowledged write may be lost, and the machine must come back.
func (r *rack) faults(ctx context.Context) ([]Outage, error) {
	var outages []Outage
	for _, f := range []struct {
		words  string
		victim func(context.Context) (string, error)
	}{
		{"the control plane that answers at the endpoint loses its power", r.answering},
		{"etcd's leader loses its power", r.leader},
	} {
		o, err := r.fault(ctx, f.words, f.victim)
		if err != nil {
			return outages, &nodeError{node: o.Node, err: fmt.Errorf("%s: %w", f.words, err)}
		}
		outages = append(outages, o)
		fmt.Fprintf(r.Out, "%s (%s): %.1f s without a write (%.1f s by the machines' clocks), %d writes kept, Ready again after %.0f s\n",
			o.Fault, o.Node, o.Seconds, o.Own, o.Writes, o.Back)
	}
	return outages, nil
}

func (r *rack) fault(ctx context.Context, words string, victim func(context.Context) (string, error)) (Outage, error) {
	o := Outage{Fault: words, Node: r.Cluster.ControlPlanes()[0].Name}
	w := r.newWriter(strings.ReplaceAll(time.Now().UTC().Format("150405.000"), ".", ""))
	defer w.http.CloseIdleConnections()
	if _, err := w.write(ctx, steady, r.stretched(recovery)); err != nil {
		return o, fmt.Errorf("before the fault: %w", err)
	}
	node, err := victim(ctx)
	if err != nil {
		return o, err
	}
	o.Node = node
	m := r.machineOf(node)
	struck, own := time.Now(), r.machinesClock()
	m.cmd.Process.Kill()
	first, err := w.write(ctx, 1, r.stretched(recovery))
	o.Own = (r.machinesClock() - own).Seconds()
	if err == nil {
		_, err = w.write(ctx, steady-1, r.stretched(recovery))
	}
	if err != nil {
		return o, err
	}
	o.Seconds = first.Sub(struck).Seconds()
	if err := m.wait(); err != nil {
		return o, err
	}
	if o.Back, err = r.powerAgain(ctx, m); err != nil {
		return o, err
	}
	o.Writes = len(w.kept)
	return o, w.verify(ctx)
}

func (r *rack) machineOf(node string) *machine {
	i := slices.IndexFunc(r.machines, func(m *machine) bool { return m.node.Name == node })
	return r.machines[i]
}

// powerAgain gives a machine its power back and waits until its node is Ready once more.
func (r *rack) powerAgain(ctx context.Context, m *machine) (float64, error) {
	started := time.Now()
	r.power.Lock()
	r.machines = slices.DeleteFunc(r.machines, func(other *machine) bool { return other == m })
	r.power.Unlock()
	if err := r.startMachine(ctx, m.node, tapsOf(r.Cluster, m.node.Name)); err != nil {
		return 0, err
	}
	for deadline := started.Add(r.stretched(netboot.Patience(bootspec.EventNetworkUp))); ; {
		list, err := r.nodes(ctx)
		if err != nil {
			return 0, err
		}
		for _, n := range list {
			boot := n.Boot()
			for _, e := range boot.Events {
				if n.Name == m.node.Name && e.Event == bootspec.EventReady && e.Time.After(started) {
					return e.Time.Sub(started).Seconds(), nil
				}
			}
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("it isn't Ready %.0f s after its power came again%s", time.Since(started).Seconds(), said(r.logFile(m.node.Name)))
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
}

// answering is the control plane behind the endpoint: its API server's certificate names it.
func (r *rack) answering(ctx context.Context) (string, error) {
	answer, err := r.newWriter("x").ask(ctx, http.MethodGet, "/readyz", nil)
	if err != nil {
		return "", err
	}
	answer.Body.Close()
	for _, n := range r.Cluster.ControlPlanes() {
		for _, name := range answer.TLS.PeerCertificates[0].DNSNames {
			if name == n.Name {
				return n.Name, nil
			}
		}
	}
	return "", fmt.Errorf("the certificate at %s names no control plane: %q", r.Cluster.Endpoint(), answer.TLS.PeerCertificates[0].DNSNames)
}

// leader is the control plane whose etcd leads, as `slipway status --nodes` finds out.
func (r *rack) leader(ctx context.Context) (string, error) {
	for deadline := time.Now().Add(r.stretched(recovery)); ; {
		var out bytes.Buffer
		cmd := exec.CommandContext(ctx, r.Slipway, "status", "--nodes", "--cluster", r.document(), "--identity", r.Identity, "--output", "json")
		cmd.Args = append(cmd.Args, r.identityKey()...)
		cmd.Stdout = &out
		err := r.space.start(cmd)
		if err == nil {
			err = cmd.Wait()
		}
		var found struct {
			Nodes []struct {
				Name   string
				Status *bootspec.LiveStatus
			}
		}
		if jsonErr := json.Unmarshal(out.Bytes(), &found); jsonErr != nil {
			return "", errors.Join(err, fmt.Errorf("cannot read the nodes' status: %w", jsonErr))
		}
		for _, n := range found.Nodes {
			if n.Status != nil && n.Status.Etcd != nil && n.Status.Etcd.Leader {
				return n.Name, nil
			}
		}
		if time.Now().After(deadline) {
			return "", errors.New("no etcd says that it leads")
		}
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(2 * time.Second):
		}
	}
}

// writer writes ConfigMaps through the endpoint, one after the other, and remembers which were acknowledged.
type writer struct {
	base string
	run  string
	next int
	kept []string
	http *http.Client
}

func (r *rack) newWriter(run string) *writer {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		return r.space.dial(&net.Dialer{Timeout: time.Second}, network, address)
	}
	return &writer{base: "https://" + r.Cluster.Endpoint(), run: run, http: &http.Client{
		Transport: &http.Transport{DialContext: dial, TLSClientConfig: r.Admin.Clone(), TLSHandshakeTimeout: 5 * time.Second},
	}}
}

func (w *writer) ask(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, w.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	return w.http.Do(request)
}

const configMaps = "/api/v1/namespaces/" + checkSpace + "/configmaps"

// write goes on until so many writes were acknowledged, and tells when the first was. What isn't acknowledged in time may
// have been written or not: it is not asked for.
func (w *writer) write(ctx context.Context, count int, limit time.Duration) (first time.Time, err error) {
	done := 0
	for deadline := time.Now().Add(limit); done < count; {
		if time.Now().After(deadline) {
			return first, fmt.Errorf("no write was acknowledged for %v: %w", limit, err)
		}
		if ctx.Err() != nil {
			return first, context.Cause(ctx)
		}
		name := fmt.Sprintf("write-%s-%d", w.run, w.next)
		w.next++
		if err = w.one(ctx, name); err != nil {
			w.http.CloseIdleConnections() // to whom it was may be gone
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if done++; done == 1 {
			first = time.Now()
		}
		w.kept = append(w.kept, name)
	}
	return first, nil
}

func (w *writer) one(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	answer, err := w.ask(ctx, http.MethodPost, configMaps, []byte(`{"metadata":{"name":"`+name+`"}}`))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusCreated {
		return fmt.Errorf("a write is answered %s", answer.Status)
	}
	return nil
}

// verify wants every acknowledged write to be there.
func (w *writer) verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	answer, err := w.ask(ctx, http.MethodGet, configMaps, nil)
	if err != nil {
		return fmt.Errorf("cannot read the writes back: %w", err)
	}
	defer answer.Body.Close()
	var list struct {
		Items []struct{ Metadata struct{ Name string } }
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxAnswer)).Decode(&list); err != nil {
		return fmt.Errorf("cannot read the writes back (%s): %w", answer.Status, err)
	}
	there := map[string]bool{}
	for _, i := range list.Items {
		there[i.Metadata.Name] = true
	}
	for _, name := range w.kept {
		if !there[name] {
			return fmt.Errorf("the acknowledged write %s is lost", name)
		}
	}
	return nil
}

// tapsOf are the network interfaces of one node's machine.
func tapsOf(c *cluster.Cluster, node string) []tap {
	var list []tap
	for _, t := range taps(c) {
		if t.Node == node {
			list = append(list, t)
		}
	}
	return list
}
