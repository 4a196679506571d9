package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/netboot"
	"github.com/slipway-os/slipway/images/bootspec"
)

func statusCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var server string
	var live, watch bool
	c := &cobra.Command{
		Use:   "status [NODE|MAC] --cluster FILE | --server URL | --cluster FILE --nodes",
		Short: "Show the rack's state, as the boot server knows it or as the nodes say themselves",
		Long: `status shows how far machines are in their boot, as the boot server knows it; of one machine that is named, each step of
its newest boot, and when it failed its last words and the end of its kernel's log. With --nodes it asks the running
nodes themselves, through their management API and with the cluster's identity: which units run, image and kernel, when
certificates end, etcd, memory and disks; below the table it says what should be known or done. Either works while the
other doesn't: nodes answer without a boot server, and the server knows of machines that are not up.`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && live {
				return usage(c, errors.New("name one machine, by its node's name or its MAC address, and without --nodes"))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if live {
				if server != "" {
					return usage(c, errors.New("--nodes asks nodes, --server the boot server: give one"))
				}
				return watched(c.Context(), a, watch, func(ctx context.Context, a *app) error { return printNodes(ctx, a, c, &flags) })
			}
			if server == "" {
				d, err := flags.load(c)
				if err != nil {
					return err
				}
				server = serverURL(d)
			}
			if len(args) == 1 {
				return watched(c.Context(), a, watch, func(ctx context.Context, a *app) error { return printOne(ctx, a, server, args[0]) })
			}
			return watched(c.Context(), a, watch, func(ctx context.Context, a *app) error { return printStatus(ctx, a, server) })
		},
	}
	flags.register(c)
	flags.registerIdentity(c)
	c.Flags().BoolVar(&live, "nodes", false, "ask the running nodes, not the boot server")
	c.Flags().StringVar(&server, "server", "", "base URL of the boot server (default: that of the cluster document)")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "show it again every two seconds, until Ctrl-C")
	a.outputFlag(c)
	return c
}

// serverURL is the base URL of a document's boot server.
func serverURL(d *clusterDocument) string {
	return serverURLAt(d, d.Provisioning.Server)
}

// nodeServerURL is the base URL that a node of the document reaches the boot server at.
func nodeServerURL(d *clusterDocument, node string) string {
	if n, ok := d.Node(node); ok {
		return serverURLAt(d, d.BootServer(n))
	}
	return serverURL(d)
}

func serverURLAt(d *clusterDocument, address netip.Addr) string {
	port := d.Provisioning.HTTPPort
	if port == 0 {
		port = bootspec.DefaultHTTPPort
	}
	return "http://" + net.JoinHostPort(address.String(), strconv.Itoa(port))
}

// maxStatus bounds the server's answer in bytes.
const maxStatus = 32 << 20

func printStatus(ctx context.Context, a *app, server string) error {
	var nodes []netboot.NodeStatus
	if err := askBootServer(ctx, server, bootspec.RouteNodes, &nodes); err != nil {
		return err
	}
	return a.print(nodes, func(w io.Writer) error {
		if err := writeStatus(w, nodes, a.now()); err != nil {
			return err
		}
		var warnings []netboot.Warning
		_ = askBootServer(ctx, server, bootspec.RouteWarnings, &warnings) // one of an earlier version has none
		for _, warning := range warnings {
			fmt.Fprintf(w, "WARNING: %s (since %s, last at %s)\n", warning.Text, warning.Since.Local().Format(time.DateTime), warning.Last.Local().Format(time.TimeOnly))
		}
		return nil
	})
}

// askBootServer reads one of its JSON routes.
func askBootServer(ctx context.Context, server, route string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(server, "/")+route, nil)
	if err != nil {
		return fmt.Errorf("cannot ask the boot server: %w", err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("cannot ask the boot server (is `slipway serve` running?): %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("cannot ask the boot server: %s answers %s", server, answer.Status)
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxStatus)).Decode(out); err != nil {
		return fmt.Errorf("cannot read the boot server's answer: %w", err)
	}
	return nil
}

// writeStatus prints a line for each machine.
func writeStatus(w io.Writer, nodes []netboot.NodeStatus, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tROLE\tMAC\tADDRESS\tBOOTS FROM\tSTATE\tLAST SEEN\tWHAT")
	for _, n := range nodes {
		name, seen := n.Name, "never"
		if name == "" {
			name = "(unknown)"
		}
		if !n.LastSeen.IsZero() {
			seen = now.Sub(n.LastSeen).Round(time.Second).String() + " ago"
		}
		state := n.Word()
		if since := n.Stuck(now); !since.IsZero() {
			state += ", stuck since " + since.Local().Format("15:04:05")
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, dash(n.Role), n.MAC, dash(n.Address), bootsFrom(n), state, seen, dash(what(n)))
	}
	return table.Flush()
}

// bootsFrom says what a machine gets when it boots from the network; nothing, where the document doesn't know it.
func bootsFrom(n netboot.NodeStatus) string {
	if n.Name == "" {
		return "-"
	}
	return n.BootFrom.String()
}

// what is the newest thing known of a machine, in words.
func what(n netboot.NodeStatus) string {
	events := n.Boot().Events
	if len(events) == 0 {
		return n.Last
	}
	last := events[len(events)-1]
	if last.Unit != "" && !strings.Contains(last.Detail, last.Unit) {
		return last.Unit + ": " + last.Detail
	}
	return last.Detail
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
