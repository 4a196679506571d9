package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/slipway-os/slipway/builder/netboot"
	"github.com/slipway-os/slipway/images/bootspec"
)

// printOne prints all that the boot server knows of one machine.
func printOne(ctx context.Context, a *app, server, name string) error {
	var n netboot.NodeStatus
	if err := askBootServer(ctx, server, bootspec.RouteNodes+"/"+url.PathEscape(name), &n); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return a.print(n, func(w io.Writer) error {
		if err := writeStatus(w, []netboot.NodeStatus{n}, a.now()); err != nil {
			return err
		}
		return writeBoot(w, n)
	})
}

// writeBoot prints the newest boot's steps, and the words of its newest failure.
func writeBoot(w io.Writer, n netboot.NodeStatus) error {
	boot := n.Boot()
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nTIME\tSTEP\tWHAT")
	var failure netboot.EventRecord
	for _, e := range boot.Events {
		what := e.Detail
		if e.Unit != "" && !strings.Contains(what, e.Unit) {
			what = e.Unit + ": " + what
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", e.Time.Local().Format(time.DateTime), e.Event, dash(what))
		if e.Event == bootspec.EventFailed {
			failure = e
		}
	}
	if len(boot.Events) == 0 {
		fmt.Fprintln(table, "-\t-\tit has not booted from here yet")
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, part := range []struct{ title, text string }{{"last words", failure.Log}, {"end of the kernel's log", failure.Kernel}} {
		if part.text == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "\n--- %s ---\n%s\n", part.title, strings.TrimRight(part.text, "\n")); err != nil {
			return err
		}
	}
	return nil
}
