package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/nodes"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// awaitLimit bounds the wait for etcd of one control plane after a restore: it may have to copy all data from another.
const awaitLimit = 3 * time.Minute

// restoreResult is what a restore came to.
type restoreResult struct {
	nodes.Snapshot
	On     string   `json:"on"`
	At     string   `json:"at"`
	Joined []string `json:"joined"` // other control planes that run with it
	Absent []string `json:"absent"` // those that didn't answer and may still have the old data
	Aside  []string `json:"aside"`  // NODE:FOLDER, where the data of before is
}

func etcdRestoreCommand(a *app) *cobra.Command {
	var flags clusterFlags
	j := &restoreJob{app: a, flags: &flags}
	c := &cobra.Command{
		Use:   "restore FILE --cluster FILE --node NODE",
		Short: "Bring a snapshot back into a cluster's etcd",
		Long: `restore begins a cluster's etcd anew from a snapshot, after the loss of all control planes or of the quorum. The named
control plane gets the snapshot; all others that answer move their data aside and join it by themselves. The cluster is then
as it was when the snapshot was taken: what was written since is not in it. Data of before is never deleted by that: each node
keeps it in /var/lib/etcd/slipway/set-aside-TIME, the newest two.

Nothing changes before the snapshot is on the node, is checked, and etcd's new data is built of it. A snapshot that a control
plane kept is encrypted: --key names the file with the secret key of age. A cluster that still has its quorum is refused
unless --running says that it is to go back.`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(c, errors.New("name one snapshot"))
			}
			if err := needs(c, "cluster", "node"); err != nil {
				return err
			}
			j.command = c
			return j.run(c.Context(), args[0])
		},
	}
	flags.register(c)
	flags.registerIdentity(c)
	c.Flags().StringVar(&j.node, "node", "", "control plane that gets the snapshot")
	c.Flags().StringVar(&j.key, "key", "", "file with the secret key that age-keygen made, for an encrypted snapshot")
	c.Flags().BoolVar(&j.running, "running", false, "restore also when the cluster has its quorum")
	c.Flags().BoolVar(&j.yes, "yes", false, "do not ask")
	a.outputFlag(c)
	return c
}

type restoreJob struct {
	app          *app
	command      *cobra.Command
	flags        *clusterFlags
	node, key    string
	running, yes bool

	restore nodes.Restore
	others  []*cluster.Node // control planes that answer, but for the one that gets the snapshot
	absent  []string        // those that don't, and why
	result  restoreResult
}

func (j *restoreJob) run(ctx context.Context, file string) error {
	o, d, err := operator(j.app, j.command, j.flags)
	if err != nil {
		return err
	}
	on, ok := d.Node(j.node)
	if !ok || on.Role != cluster.RoleControlPlane {
		return usage(j.command, fmt.Errorf("the cluster document has no control plane %q", j.node))
	}
	s, done, err := nodes.OpenSnapshot(file, j.key)
	if err != nil {
		return err
	}
	defer done()
	j.restore = nodes.Restore{Operator: o, Snapshot: s, On: on, At: j.app.now().UTC().Truncate(time.Second)}
	j.result = restoreResult{Snapshot: s, On: on.Name, At: j.restore.At.Format(time.RFC3339)}
	if err := j.look(ctx, d); err != nil {
		return err
	}
	if err := j.ask(ctx, file); err != nil {
		return err
	}
	if err := j.change(ctx); err != nil {
		return err
	}
	return j.app.print(j.result, j.print)
}

// look asks all control planes how they are.
func (j *restoreJob) look(ctx context.Context, d *clusterDocument) error {
	var leaders []string
	for _, answer := range j.restore.Operator.Survey(ctx) {
		n, _ := d.Node(answer.Name)
		switch {
		case answer.Role != cluster.RoleControlPlane:
			continue
		case answer.Status == nil && n.Name == j.restore.On.Name:
			return fmt.Errorf("%s: nothing was changed", answer.Error)
		case answer.Status == nil:
			j.absent = append(j.absent, n.Name+": "+answer.Error)
			j.result.Absent = append(j.result.Absent, n.Name)
			continue
		case n.Name != j.restore.On.Name:
			j.others = append(j.others, n)
		}
		if e := answer.Status.Etcd; e != nil && e.HasLeader {
			leaders = append(leaders, n.Name)
		}
	}
	if len(leaders) > 0 && !j.running {
		return fmt.Errorf("the cluster has its quorum, as %s says: nothing was changed. A member that lost its data joins again by itself; --running takes the whole cluster back to the snapshot", strings.Join(leaders, ", "))
	}
	return nil
}

// plan says what will be done.
func (j *restoreJob) plan(w io.Writer, file string) {
	s := j.restore.Snapshot
	fmt.Fprintf(w, "%s: revision %d, %d keys, %d bytes\n", file, s.Revision, s.Keys, s.Size)
	fmt.Fprintf(w, "%s gets it; its etcd's data is moved aside\n", j.restore.On.Name)
	for _, n := range j.others {
		fmt.Fprintf(w, "%s moves its etcd's data aside, and joins %s\n", n.Name, j.restore.On.Name)
	}
	for _, words := range j.absent {
		fmt.Fprintf(w, "%s\n", words)
	}
	if len(j.absent) > 0 {
		fmt.Fprintf(w, "Those that don't answer keep their data until they meet the restored cluster; then they move it aside and join.\n"+
			"If they run all the same, power them off first: a majority of them goes on with the old cluster until then, and what it writes is moved aside too.\n")
	}
	fmt.Fprintf(w, "The cluster will be as it was when the snapshot was taken. What was written since will not be in it.\n")
}

// ask shows the plan and asks once.
func (j *restoreJob) ask(ctx context.Context, file string) error {
	if j.yes {
		return nil
	}
	return confirm(ctx, j.command, func(w io.Writer) { j.plan(w, file) })
}

// change does it. From the first set-aside on, the way back is the same command again, or the data that was moved aside.
func (j *restoreJob) change(ctx context.Context) error {
	words := j.command.ErrOrStderr()
	fmt.Fprintf(words, "sending the snapshot to %s\n", j.restore.On.Name)
	if err := j.restore.Prepare(ctx); err != nil {
		return err
	}
	var waiting []*cluster.Node
	for _, n := range j.others {
		fmt.Fprintf(words, "moving the data of %s aside\n", n.Name)
		change, err := j.restore.SetAside(ctx, n)
		if err != nil {
			j.absent = append(j.absent, n.Name+": "+err.Error())
			j.result.Absent = append(j.result.Absent, n.Name)
			fmt.Fprintln(words, err)
			continue
		}
		j.aside(n, change.Aside)
		waiting = append(waiting, n)
	}
	fmt.Fprintf(words, "starting etcd of %s with the snapshot\n", j.restore.On.Name)
	change, err := j.restore.Apply(ctx)
	if err != nil {
		return j.half(err)
	}
	j.aside(j.restore.On, change.Aside)
	if err := j.await(ctx, j.restore.On); err != nil {
		return j.half(err)
	}
	var late []string
	for _, n := range waiting {
		fmt.Fprintf(words, "waiting for %s to join\n", n.Name)
		if err := j.await(ctx, n); err != nil {
			late = append(late, err.Error())
			continue
		}
		j.result.Joined = append(j.result.Joined, n.Name)
	}
	if len(late) > 0 {
		return fmt.Errorf("the cluster runs from the snapshot on %s, but not with all control planes: %s (they go on trying; slipway logs NODE --unit slipway-etcd-guard.service says what they wait for)",
			j.restore.On.Name, strings.Join(late, "; "))
	}
	return nil
}

func (j *restoreJob) aside(n *cluster.Node, folder string) {
	if folder != "" {
		j.result.Aside = append(j.result.Aside, n.Name+":"+folder)
	}
}

func (j *restoreJob) await(ctx context.Context, n *cluster.Node) error {
	ctx, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	return j.restore.Await(ctx, n)
}

// half is what to do when it fails in the middle.
func (j *restoreJob) half(err error) error {
	return fmt.Errorf("%w. The restore is not finished, and no data is lost: what nodes had is in their folders /var/lib/etcd/slipway/set-aside-%s. "+
		"Next: the same command again, with --node of another control plane if this one can't", err, j.restore.At.Format("20060102T150405Z"))
}

func (j *restoreJob) print(w io.Writer) error {
	r := j.result
	fmt.Fprintf(w, "etcd runs from the snapshot on %s: revision %d, %d keys\n", r.On, r.Revision, r.Keys)
	if len(r.Joined) > 0 {
		fmt.Fprintf(w, "joined: %s\n", strings.Join(r.Joined, ", "))
	}
	for _, folder := range r.Aside {
		fmt.Fprintf(w, "the data of before: %s\n", folder)
	}
	for _, words := range j.absent {
		fmt.Fprintf(w, "not changed: %s\n", words)
	}
	if len(r.Absent) > 0 {
		fmt.Fprintf(w, "Next: power on %s while %s runs: with data of before they move it aside and join, without any they join. "+
			"Until then don't let them run without %s: a majority of them would go on with the old cluster.\n", strings.Join(r.Absent, ", "), r.On, r.On)
	}
	_, err := fmt.Fprintln(w, "Pods and other objects that the cluster had after the snapshot are unknown to it now; kubelets stop such pods.")
	return err
}
