package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/netboot"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

func machinesCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var state string
	c := &cobra.Command{
		Use:   "machines [MAC] --cluster FILE",
		Short: "Show the hardware of machines that the boot server has discovered",
		Long: `machines lists the machines that told the boot server their hardware (provisioning.unknownMachines: discover), those of them that
have become nodes since too; with a MAC address it shows all that one of them has told: processors, memory, disks, network cards,
firmware. Nobody vouches for it but the machines. It works on the boot server's machine, through its state folder, whether the server
runs or not.`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(c, errors.New("name one machine by its MAC address, or none for a list"))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			d, err := flags.load(c)
			if err != nil {
				return err
			}
			mac := cluster.MAC("")
			if len(args) == 1 {
				if mac, err = cluster.ParseMAC(args[0]); err != nil {
					return usage(c, err)
				}
			}
			all, err := netboot.Machines(c.Context(), stateFolder(state, d))
			if err != nil {
				return err
			}
			if mac == "" {
				return a.print(all, func(w io.Writer) error { return writeMachines(w, d.Cluster, all, a.now()) })
			}
			i := slices.IndexFunc(all, func(m netboot.Discovered) bool { return m.Hardware.MAC == string(mac) })
			if i < 0 {
				return fmt.Errorf("%s was not discovered (slipway explain %s says what the boot server has heard of it)", mac, mac)
			}
			return a.print(all[i], func(w io.Writer) error { return writeMachine(w, d.Cluster, all[i]) })
		},
	}
	flags.register(c)
	c.Flags().StringVar(&state, "state", "", "the boot server's folder of node states (default: /var/lib/slipway/CLUSTER)")
	a.outputFlag(c)
	return c
}

// nodeOf is the name of the node that a machine is; - where it is none.
func nodeOf(c *cluster.Cluster, mac string) string {
	if n, ok := c.NodeByMAC(mac); ok {
		return n.Name
	}
	return "-"
}

func writeMachines(w io.Writer, c *cluster.Cluster, all []netboot.Discovered, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "MAC\tNODE\tTOLD\tHARDWARE")
	for _, m := range all {
		fmt.Fprintf(table, "%s\t%s\t%s ago\t%s\n", m.Hardware.MAC, nodeOf(c, m.Hardware.MAC), now.Sub(m.Last).Round(time.Second), m.Hardware.Summary())
	}
	return table.Flush()
}

func writeMachine(w io.Writer, c *cluster.Cluster, m netboot.Discovered) error {
	h := m.Hardware
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, values ...any) {
		fmt.Fprintf(table, "%s\t%s\n", name, dash(strings.Join(strings.Fields(fmt.Sprintf(format, values...)), " ")))
	}
	line("MAC", "%s", h.MAC)
	line("node", "%s", nodeOf(c, h.MAC))
	line("told", "%s, first at %s", m.Last.Local().Format(time.DateTime), m.First.Local().Format(time.DateTime))
	line("machine", "%s %s", h.System.Vendor, h.System.Product)
	line("serial number", "%s", h.System.Serial)
	line("UUID", "%s", h.System.UUID)
	line("board", "%s", h.System.Board)
	line("firmware", "%s %s %s %s%s", h.Firmware.Kind(), h.Firmware.Vendor, h.Firmware.Version, h.Firmware.Date, secureBoot(h.Firmware))
	line("TPM", "%s", h.TPM)
	line("processors", "%d x %s, %d cores, %d threads", h.CPU.Sockets, h.CPU.Model, h.CPU.Cores, h.CPU.Threads)
	line("flags", "%s", strings.Join(h.CPU.Flags, " "))
	line("memory", "%.1f GiB", float64(h.Memory)/(1<<30))
	line("image", "%s", h.Image)
	if err := table.Flush(); err != nil {
		return err
	}
	return writeParts(w, h)
}

func secureBoot(f bootspec.Firmware) string {
	if f.SecureBoot == "" {
		return ""
	}
	return ", Secure Boot " + f.SecureBoot
}

// writeParts prints disks and network cards.
func writeParts(w io.Writer, h bootspec.Hardware) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nDISK\tSIZE\tKIND\tSECTORS\tBUS\tMODEL\tSERIAL\tWWN")
	for _, d := range h.Disks {
		kind := "solid"
		switch {
		case d.Optical:
			kind = "CD-ROM"
		case d.Rotational:
			kind = "rotating"
		}
		if d.Removable {
			kind += ", removable"
		}
		if d.ReadOnly {
			kind += ", read-only"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d/%d\t%s\t%s\t%s\t%s\n", dash(d.Name), bootspec.DiskSize(d.Size), kind, d.SectorSize, d.PhysicalSector,
			dash(strings.TrimSpace(d.Transport+" "+d.Bus)), dash(d.Model), dash(d.Serial), dash(d.WWN))
	}
	fmt.Fprintln(table, "\nNIC\tMAC\tDRIVER\tPCI\tCABLE\tSPEED")
	for _, n := range h.NICs {
		cable, speed := "no", "-"
		if n.Carrier {
			cable = "yes"
		}
		if n.Speed > 0 {
			speed = fmt.Sprintf("%d Mbit/s", n.Speed)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", dash(n.Name), n.MAC, dash(n.Driver), dash(n.PCI), cable, speed)
	}
	return table.Flush()
}
