package rack

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-os/slipway/profiles/cluster"
)

//go:embed check/*.yaml
var manifests embed.FS

// checkSpace is the Kubernetes namespace that checks live in.
const checkSpace = "slipway-check"

// untried is the cause of a check that was not tried yet.
const untried = "not tried"

// checkTime is how long all checks may take together, at least.
const checkTime = 12 * time.Minute

// checkLimit is how long all checks may take where power on to Ready took so long: a host that is slow at one is slow at the other.
func (r *rack) checkLimit(boot time.Duration) time.Duration {
	return max(r.stretched(checkTime), 3*boot).Round(time.Second)
}

// CheckResult says whether one thing that a fresh cluster must do was seen.
type CheckResult struct {
	Name    string  `json:"name"` // in plain words
	Pass    bool    `json:"pass"`
	Cause   string  `json:"cause,omitempty"`
	Seconds float64 `json:"seconds"` // since the checks began
}

// check is one thing to see. try is called again until it returns nil or time is over; the last error is the cause.
type check struct {
	name string
	pod  string // whose node is blamed
	try  func(context.Context, pods) error
}

// checks are what "Ready" includes, in plain words.
func (r *rack) checks() []check {
	checks := []check{
		{"CoreDNS answers for a Service name from a pod on the worker", "names", succeeded("names")},
		{"a pod with two containers runs on the worker", "web", running("web")},
		{"its containers share localhost", "web", r.inPod("web", "writer", "hello from two containers", "/check", "fetch", "http://127.0.0.1:8080/")},
		{"its containers share a volume", "web", r.inPod("web", "server", "hello from two containers", "/check", "cat", "/shared/greeting")},
		{"it mounts a Secret", "web", r.inPod("web", "server", "open sesame", "/check", "cat", "/secret/word")},
		{"a pod on another node reaches it through its Service", "visitor", succeeded("visitor")},
		{"the rack's network reaches it through its Service's node port", "web", r.nodePort},
		{"a failing liveness probe restarts a container", "ill", restarted("ill")},
	}
	if r.large() {
		checks = append(checks,
			check{"a pod stays off a node whose taint it doesn't tolerate, and comes when that is gone", "shy", r.shy()},
			check{"a ReplicaSet replaces a pod that was deleted", "twin", r.heals()},
			check{"its Service follows its pods", "twin", r.follows},
			check{"a pod's service account token is taken by the API server", "twin", r.account},
			check{"the scheduler spreads pods over nodes", "twin", r.spread})
	}
	if r.Cluster.Container() != r.Cluster.Management() {
		checks = append(checks, check{"what pods send between nodes takes the container network, and no other", "visitor", r.apart})
	}
	return checks
}

// large tells whether the controllers are tried too. In a lab of two machines that would double the time of its checks.
func (r *rack) large() bool { return len(r.Cluster.Nodes) > 2 }

// check applies the manifests and waits until all checks have passed or their time is over.
func (r *rack) check(ctx context.Context) ([]CheckResult, error) {
	limit := r.checkLimit(time.Since(r.started))
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the checks took longer than %s", limit))
	defer cancel()
	started := time.Now()
	var err error
	if r.capture, err = r.newCapture(); err != nil {
		return nil, err
	}
	defer close(r.capture.stop)
	if err := r.apply(ctx); err != nil {
		return nil, err
	}
	checks := r.checks()
	results := make([]CheckResult, len(checks))
	for i, c := range checks {
		results[i] = CheckResult{Name: c.name, Cause: untried}
	}
	exited := r.anyExit(ctx)
	for {
		left := r.round(ctx, checks, results, started)
		if left == 0 {
			return results, nil
		}
		select {
		case <-ctx.Done():
			return results, r.failedChecks(checks, results, context.Cause(ctx))
		case err := <-exited:
			return results, err
		case <-time.After(2 * time.Second):
		}
	}
}

// abreast is how many checks are tried at the same time: kubectl takes of the processors that the machines need.
const abreast = 4

// round tries every check that has not passed yet, a few at the same time, and tells how many are left.
func (r *rack) round(ctx context.Context, checks []check, results []CheckResult, started time.Time) (left int) {
	all, err := r.pods(ctx)
	errs := make([]error, len(checks))
	var group errgroup.Group
	group.SetLimit(abreast)
	for i, c := range checks {
		if errs[i] = err; err == nil && !results[i].Pass {
			group.Go(func() error { errs[i] = c.try(ctx, all); return nil })
		}
	}
	_ = group.Wait()
	for i, c := range checks {
		switch {
		case results[i].Pass:
		case errs[i] == nil:
			results[i] = CheckResult{Name: c.name, Pass: true, Seconds: time.Since(started).Seconds()}
			if r.Live {
				fmt.Fprintf(r.Out, "passed: %s\n", c.name)
			}
		case ctx.Err() != nil && results[i].Cause != untried:
			left++ // the time is over: the cause from before says more than "killed"
		default:
			results[i].Cause, results[i].Seconds = errs[i].Error(), time.Since(started).Seconds()
			left++
		}
	}
	return left
}

// failedChecks prints all results and what Kubernetes says about the pods, and blames a node.
func (r *rack) failedChecks(checks []check, results []CheckResult, cause error) error {
	writeChecks(r.Out, results)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"get", "nodes,pods", "-A", "-o", "wide"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
	} {
		out, err := r.kubectl(ctx, nil, args...)
		fmt.Fprintf(r.Out, "\n$ kubectl %s\n%s", strings.Join(args, " "), out)
		if err != nil {
			fmt.Fprintln(r.Out, err)
		}
	}
	for i, result := range results {
		if !result.Pass {
			node := r.worker().Name
			if checks[i].pod == "visitor" {
				node = r.other().Name
			}
			return &nodeError{node: node, err: fmt.Errorf("check failed: %s: %s (%w)", result.Name, result.Cause, cause)}
		}
	}
	return cause
}

// apply puts the pods into the cluster. A new Kubernetes namespace takes none until its service account is there, so it
// is tried for a while.
func (r *rack) apply(ctx context.Context) error {
	replace := strings.NewReplacer("@WORKER@", r.worker().Name, "@OTHER@", r.other().Name, "@DOMAIN@", r.Cluster.Kubernetes.ClusterDomain)
	names := []string{"check/namespace.yaml", "check/pods.yaml"}
	if r.large() {
		names = append(names, "check/controllers.yaml")
		if err := r.insist(ctx, nil, "taint", "node", r.worker().Name, checkTaint+"=:NoSchedule", "--overwrite"); err != nil {
			return err
		}
	}
	for _, name := range names {
		text, err := manifests.ReadFile(name)
		if err != nil {
			return err
		}
		if err := r.applyOne(ctx, replace.Replace(string(text))); err != nil {
			return err
		}
	}
	return nil
}

func (r *rack) applyOne(ctx context.Context, manifest string) error {
	// Validation would have the API server write all its OpenAPI documents, which takes an emulated one minutes.
	return r.insist(ctx, &manifest, "apply", "--validate=false", "-f", "-")
}

// insist runs kubectl until it succeeds or time is over.
func (r *rack) insist(ctx context.Context, in *string, args ...string) error {
	for {
		var input io.Reader
		if in != nil {
			input = strings.NewReader(*in)
		}
		_, err := r.kubectl(ctx, input, args...)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return &nodeError{node: r.Cluster.ControlPlanes()[0].Name, err: fmt.Errorf("cannot put the checks into the cluster: %w", errors.Join(context.Cause(ctx), err))}
		case <-time.After(2 * time.Second):
		}
	}
}

// worker is the first node of that role; in a cluster without one the last node is taken.
func (r *rack) worker() *cluster.Node {
	for i := range r.Cluster.Nodes {
		if r.Cluster.Nodes[i].Role == cluster.RoleWorker {
			return &r.Cluster.Nodes[i]
		}
	}
	return &r.Cluster.Nodes[len(r.Cluster.Nodes)-1]
}

// other is a node that isn't the worker, if there are two: the first control plane.
func (r *rack) other() *cluster.Node { return r.Cluster.ControlPlanes()[0] }
