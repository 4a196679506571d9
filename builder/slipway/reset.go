package main

import (
	"bufio"
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

// resetLimit bounds the wait for a node that was reset: its firmware may take minutes.
const resetLimit = 20 * time.Minute

func resetCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var yes, last, leave bool
	c := &cobra.Command{
		Use:   "reset NODE --cluster FILE",
		Short: "Have a running node forget its state and start anew",
		Long: `reset reboots a node and has it forget everything in its state (/var) on the way: pods and their images, logs, and on a
control plane its copy of etcd's data. What stays: its installation and configuration, data volumes, and its place in the
cluster; it joins again by itself, a control plane as a new member of etcd. Drain it first where its pods matter
(kubectl drain).

A control plane is refused while etcd would lose its quorum without it, and so is the only one there is (--last).`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(c, errors.New("name one node"))
			}
			o, d, err := operator(a, c, &flags)
			if err != nil {
				return err
			}
			n, ok := d.Node(args[0])
			if !ok {
				return usage(c, fmt.Errorf("the cluster document has no node %q", args[0]))
			}
			if err := nodes.Resettable(o.Survey(c.Context()), n); err != nil && !last {
				return fmt.Errorf("%w: nothing was changed (--last resets it all the same)", err)
			}
			if !yes {
				err := confirm(c.Context(), c, func(w io.Writer) {
					fmt.Fprintf(w, "%s forgets everything in /var and reboots. Its pods end.\n", n.Name)
				})
				if err != nil {
					return err
				}
			}
			return reset(c.Context(), a, c, o, n, leave)
		},
	}
	flags.register(c)
	flags.registerIdentity(c)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&last, "last", false, "also when the cluster's data or its quorum is lost by that")
	c.Flags().BoolVar(&leave, "no-wait", false, "do not wait until the node is up again")
	a.outputFlag(c)
	return c
}

// resetResult is what came of it.
type resetResult struct {
	Node    string  `json:"node"`
	Up      bool    `json:"up"` // it was waited for
	Seconds float64 `json:"seconds"`
}

func reset(ctx context.Context, a *app, c *cobra.Command, o *nodes.Operator, n *cluster.Node, leave bool) error {
	began := time.Now()
	boot, err := o.Reset(ctx, n)
	if err != nil {
		return err
	}
	r := resetResult{Node: n.Name}
	if !leave {
		fmt.Fprintf(c.ErrOrStderr(), "%s goes down; waiting until it is up again\n", n.Name)
		ctx, cancel := context.WithTimeout(ctx, resetLimit)
		defer cancel()
		if err := o.AwaitBoot(ctx, n, boot); err != nil {
			return err
		}
		r.Up = true
	}
	r.Seconds = time.Since(began).Seconds()
	return a.print(r, func(w io.Writer) error {
		if r.Up {
			fmt.Fprintf(w, "%s was reset and is up again after %.0f s\n", r.Node, r.Seconds)
		} else {
			fmt.Fprintf(w, "%s was reset and goes down\n", r.Node)
		}
		return nil
	})
}

// confirm shows what will be done and asks once. Where nobody can be asked it is wrong usage.
func confirm(ctx context.Context, c *cobra.Command, plan func(w io.Writer)) error {
	in, words := c.InOrStdin(), c.ErrOrStderr()
	if !terminal(in) {
		return usage(c, errors.New("nobody can be asked here: add --yes to go on without a question"))
	}
	plan(words)
	fmt.Fprint(words, "Type yes to go on: ")
	answer := make(chan string, 1) // nobody waits for it any more after an interrupt
	go func() {
		line, _ := bufio.NewReader(in).ReadString('\n')
		answer <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(words)
		return fmt.Errorf("interrupted, nothing was changed: %w", ctx.Err())
	case line := <-answer:
		if line != "yes" {
			return errors.New("nothing was changed: the answer was not yes")
		}
	}
	return nil
}
