package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/nodes"
	"github.com/slipway-os/slipway/builder/pki"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// tokenLifetime is how long a pod's token is good: its kubelet has a new one by then.
const tokenLifetime = time.Hour

// rotateResult is what one step did.
type rotateResult struct {
	Step  pki.Step      `json:"step"`
	Nodes []renewResult `json:"nodes"`
	Next  pki.Step      `json:"next,omitempty"` // empty: the rotation is done
}

func rotateCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var yes, now bool
	c := &cobra.Command{
		Use:   "rotate --cluster FILE",
		Short: "Replace a running cluster's authorities, so that what the old ones signed no longer counts",
		Long: `rotate gives a running cluster new certificate authorities (the cluster's, etcd's, the front proxy's) and a new key for service
accounts, in three steps, each by a call of its own. In each step every node of the document gets a new configuration as by slipway
renew, one after the other; a call that was cut off, or failed at a node, goes on where it was when it is made again.

  trust   nodes trust the new authorities besides the old ones
  issue   the new ones sign everything; the old ones are still trusted
  finish  the old ones are trusted no more, and their keys are gone

After it nothing counts that the old ones have signed: certificates of removed nodes and what a removed control plane could sign,
admin kubeconfigs, tokens of service accounts. Take removed nodes out of the document first (slipway prune). The boot server's
authority and the key that encrypts Secrets in etcd stay. Have the boot server reload after each step (slipway reload).`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := needs(c, "cluster"); err != nil {
				return err
			}
			return rotate(c.Context(), a, c, &flags, yes, now)
		},
	}
	flags.register(c)
	flags.registerIdentity(c)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&now, "now", false, "finish although pods may still have tokens that the old key signed")
	a.outputFlag(c)
	return c
}

func rotate(ctx context.Context, a *app, c *cobra.Command, flags *clusterFlags, yes, now bool) error {
	d, err := flags.load(c)
	if err != nil {
		return err
	}
	id, err := loadIdentity(a, flags, d)
	if err != nil {
		return err
	}
	dir := flags.identityDir(d)
	list, err := named(d, nil)
	if err != nil {
		return err
	}
	if id.Rotation == nil || id.Rotation.Done(names(list)) {
		if err := mayAdvance(id.Rotation, a.now(), now); err != nil {
			return err
		}
		if !yes {
			if err := confirm(ctx, c, func(w io.Writer) { writeStep(w, d, following(id.Rotation)) }); err != nil {
				return err
			}
		}
		if err := reachable(ctx, a, d, id); err != nil {
			return err
		}
		if err := id.Advance(dir, a.pki()); err != nil {
			return err
		}
	}
	o, err := nodes.NewOperator(d.Cluster, id, a.pki())
	if err != nil {
		return err
	}
	result := rotateResult{Step: id.Rotation.Step}
	left := slices.DeleteFunc(slices.Clone(list), func(n *cluster.Node) bool { return slices.Contains(id.Rotation.Renewed, n.Name) })
	if result.Nodes, err = renewEach(ctx, a, c, o, d, id, left, func(n *cluster.Node) error { return id.Renewed(dir, n.Name) }); err != nil {
		return fmt.Errorf("%w (the same command goes on)", err)
	}
	if result.Step == pki.StepFinish {
		err = id.Advance(dir, a.pki())
	} else {
		result.Next = following(id.Rotation)
	}
	if err != nil {
		return err
	}
	return a.print(result, func(w io.Writer) error {
		if err := writeRenewed(w, result.Nodes); err != nil {
			return err
		}
		return writeNext(w, result.Step)
	})
}

func names(list []*cluster.Node) (all []string) {
	for _, n := range list {
		all = append(all, n.Name)
	}
	return all
}

// following is the step after the present one.
func following(r *pki.Rotation) pki.Step {
	switch {
	case r == nil:
		return pki.StepTrust
	case r.Step == pki.StepTrust:
		return pki.StepIssue
	}
	return pki.StepFinish
}

// mayAdvance refuses to finish as long as pods may have tokens of the old key.
func mayAdvance(r *pki.Rotation, at time.Time, now bool) error {
	if r == nil || r.Step != pki.StepIssue || now {
		return nil
	}
	if when := r.Since.Add(tokenLifetime); at.Before(when) {
		return fmt.Errorf("pods may have tokens until %s that the old key has signed and that would no longer count: finish after that, or with --now when no pod uses its token",
			when.Format(time.RFC3339))
	}
	return nil
}

// reachable wants every node to answer before a step begins: one that misses a step has to be configured anew.
func reachable(ctx context.Context, a *app, d *clusterDocument, id *pki.Identity) error {
	o, err := nodes.NewOperator(d.Cluster, id, a.pki())
	if err != nil {
		return err
	}
	for _, n := range o.Survey(ctx) {
		if n.Status == nil {
			return fmt.Errorf("node %s does not answer, and would no longer be trusted by the others in the end: %s (start it, or take it out of the document and prune)", n.Name, n.Error)
		}
	}
	return nil
}

func writeStep(w io.Writer, d *clusterDocument, step pki.Step) {
	fmt.Fprintf(w, "step %s: ", step)
	switch step {
	case pki.StepTrust:
		fmt.Fprintf(w, "the nodes of %s will trust new authorities besides their own\n", d.Metadata.Name)
	case pki.StepIssue:
		fmt.Fprintf(w, "the new authorities will sign all certificates and tokens of %s\n", d.Metadata.Name)
	case pki.StepFinish:
		fmt.Fprintf(w, "%s will no longer trust the authorities of before\n", d.Metadata.Name)
	}
	fmt.Fprintln(w, "components of its nodes will restart, one node after the other")
}

func writeNext(w io.Writer, done pki.Step) error {
	words := map[pki.Step]string{
		pki.StepTrust: `every node trusts the new authorities (step 1 of 3).
Now, and before the next step: slipway reload, for the boot server; keep a copy of the identity; give everybody a new kubeconfig (slipway kubeconfig), which
trusts them too; start the pods anew that ask the API, as they read its authority only when they start:
  kubectl rollout restart --namespace kube-system deployment,daemonset,statefulset   (and in your own namespaces)
Then: slipway rotate (issue)
`,
		pki.StepIssue: `the new authorities sign everything (step 2 of 3).
Now: slipway reload, for the boot server; give everybody a new kubeconfig once more: those of before no longer get in after the next step.
Then, after an hour: slipway rotate (finish)
`,
		pki.StepFinish: `what the authorities of before have signed counts no more (step 3 of 3): the rotation is done.
Now: slipway reload, for the boot server; keep a copy of the identity; write media of nodes anew that may still have an old configuration.
`,
	}
	_, err := io.WriteString(w, words[done])
	return err
}
