package rack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// member is a pod of a ReplicaSet or Deployment, as the checks of controllers see it.
type member struct {
	name, node, address string
	ready               bool
}

// members are the pods with a label that are not being deleted, by name.
func (r *rack) members(ctx context.Context, app string) (map[string]member, error) {
	text, err := r.kubectl(ctx, nil, "get", "pods", "-n", checkSpace, "-l", "app="+app, "-o", "json")
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
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("cannot read the list of pods: %w", err)
	}
	all := map[string]member{}
	for _, p := range list.Items {
		if p.Metadata.DeletionTimestamp != "" {
			continue
		}
		m := member{name: p.Metadata.Name, node: p.Spec.NodeName, address: p.Status.PodIP}
		for _, c := range p.Status.Conditions {
			m.ready = m.ready || c.Type == "Ready" && c.Status == "True"
		}
		all[m.name] = m
	}
	return all, nil
}

// whole wants so many pods with a label, all ready.
func (r *rack) whole(ctx context.Context, app string, count int) (map[string]member, error) {
	all, err := r.members(ctx, app)
	if err != nil {
		return nil, err
	}
	ready := 0
	for _, m := range all {
		if m.ready {
			ready++
		}
	}
	if len(all) != count || ready != count {
		return nil, fmt.Errorf("%d pods of %d are there, %d are ready", len(all), count, ready)
	}
	return all, nil
}

// heals deletes one pod of a ReplicaSet, once, and wants another in its place.
func (r *rack) heals() func(context.Context, pods) error {
	deleted := ""
	return func(ctx context.Context, _ pods) error {
		all, err := r.whole(ctx, "twin", 2)
		if err != nil {
			return err
		}
		if deleted == "" {
			victim := slices.Sorted(maps.Keys(all))[0]
			if _, err := r.kubectl(ctx, nil, "delete", "pod", victim, "-n", checkSpace, "--wait=false"); err != nil {
				return err
			}
			deleted = victim
			return errors.New("no other pod is there yet")
		}
		if _, there := all[deleted]; there {
			return fmt.Errorf("pod %s is still there", deleted)
		}
		return nil
	}
}

// follows wants a Service's endpoints to be its pods, those that are there now.
func (r *rack) follows(ctx context.Context, _ pods) error {
	all, err := r.whole(ctx, "twin", 2)
	if err != nil {
		return err
	}
	text, err := r.kubectl(ctx, nil, "get", "endpointslices", "-n", checkSpace, "-l", "kubernetes.io/service-name=twin", "-o", "jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}{.addresses[0]} {end}")
	if err != nil {
		return err
	}
	var want []string
	for _, m := range all {
		want = append(want, m.address)
	}
	got := strings.Fields(text)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		return fmt.Errorf("its endpoints are %q, its pods %q", got, want)
	}
	return nil
}

// spread wants the ReplicaSet's two pods on two nodes.
func (r *rack) spread(ctx context.Context, _ pods) error {
	all, err := r.whole(ctx, "twin", 2)
	if err != nil {
		return err
	}
	nodes := map[string]bool{}
	for _, m := range all {
		nodes[m.node] = true
	}
	if len(nodes) != 2 {
		return fmt.Errorf("both pods are on %q", slices.Sorted(maps.Keys(nodes)))
	}
	return nil
}

// checkTaint keeps pods that don't tolerate it off the worker until shy has seen it.
const checkTaint = "slipway-check"

// shy wants a pod to wait as long as its node has a taint, and to run when that is gone.
func (r *rack) shy() func(context.Context, pods) error {
	waited := false
	return func(ctx context.Context, all pods) error {
		if waited {
			return running("shy")(ctx, all)
		}
		why, err := r.kubectl(ctx, nil, "get", "pod", "shy", "-n", checkSpace, "-o", `jsonpath={.spec.nodeName} {.status.conditions[?(@.type=="PodScheduled")].message}`)
		if err != nil {
			return err
		}
		if !strings.Contains(why, "untolerated taint") {
			return fmt.Errorf("it doesn't wait for the taint to go: %q", why)
		}
		if _, err := r.kubectl(ctx, nil, "taint", "node", r.worker().Name, checkTaint+"-"); err != nil {
			return err
		}
		waited = true
		return errors.New("it doesn't run yet after the taint is gone")
	}
}

// account wants a pod in a new Kubernetes namespace to have a token of the namespace's service account that the API server
// takes (authentication.k8s.io/v1 TokenReview).
func (r *rack) account(ctx context.Context, _ pods) error {
	twins, err := r.whole(ctx, "twin", 2)
	if err != nil {
		return err
	}
	token, err := r.kubectl(ctx, nil, "exec", "-n", checkSpace, slices.Sorted(maps.Keys(twins))[0], "--", "/check", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token")
	if err != nil {
		return err
	}
	review, err := json.Marshal(map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": map[string]string{"token": strings.TrimSpace(token)},
	})
	if err != nil {
		return err
	}
	who, err := r.kubectl(ctx, bytes.NewReader(review), "create", "-f", "-", "-o", "jsonpath={.status.user.username}")
	if err != nil {
		return err
	}
	if want := "system:serviceaccount:" + checkSpace + ":default"; strings.TrimSpace(who) != want {
		return fmt.Errorf("the API server takes the pod for %q, not for %q", who, want)
	}
	return nil
}
