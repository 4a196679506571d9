package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/slipway-os/slipway/builder/flash"
)

// listed is a device of the list.
type listed struct {
	flash.Device
	Refused []string `json:"refused,omitempty"`
}

// list shows the devices that could be meant.
func (j *flashJob) list() error {
	devices, err := flash.Devices()
	if err != nil {
		return err
	}
	list := []listed{}
	for _, d := range devices {
		list = append(list, listed{d, d.Refusals(j.want())})
	}
	return j.print(list, func(w io.Writer) error {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "DEVICE\tMODEL\tSERIAL\tSIZE\tBY\tMAY BE WRITTEN")
		for _, d := range list {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", d.Path, orDash(d.Model), orDash(d.Serial), bytesText(d.Size), d.Transport, verdict(d.Refused))
		}
		if err := table.Flush(); err != nil {
			return err
		}
		_, err := fmt.Fprintln(w, "\nNothing was written. Name the device to write it: slipway flash IMAGE DEVICE ...")
		return err
	})
}

func verdict(refused []string) string {
	if len(refused) == 0 {
		return "yes"
	}
	return "no: " + strings.Join(refused, "; ")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// flashPlan is what is going to be done.
type flashPlan struct {
	Image   string        `json:"image,omitempty"`
	Size    int64         `json:"size,omitempty"` // of the image in bytes
	SHA256  string        `json:"sha256,omitempty"`
	Target  string        `json:"target"`
	Device  *flash.Device `json:"device,omitempty"` // none: a file
	Cluster string        `json:"cluster,omitempty"`
	Node    string        `json:"node,omitempty"`
}

func (j *flashJob) plan() flashPlan {
	p := flashPlan{Target: j.flags.device, Device: j.device, Node: j.flags.node}
	if j.image != nil {
		p.Image, p.Size, p.SHA256 = j.image.Name, j.image.Size, j.image.SHA256
	}
	if j.cluster != nil {
		p.Cluster = j.cluster.Metadata.Name
	}
	return p
}

func (j *flashJob) printPlan(w io.Writer) error {
	p := j.plan()
	if j.image != nil {
		fmt.Fprintf(w, "image:  %s, %s, to be verified (SHA-256 %s)\n", p.Image, bytesText(p.Size), p.SHA256)
		fmt.Fprintln(w, "boots:  with UEFI only; a machine with legacy BIOS boots from the network")
	}
	switch {
	case p.Node != "":
		fmt.Fprintf(w, "node:   %s of cluster %s\n", p.Node, p.Cluster)
	default:
		fmt.Fprintln(w, "node:   none, the machine asks the boot server")
	}
	if j.device == nil {
		_, err := fmt.Fprintf(w, "target: the file %s\n", p.Target)
		return err
	}
	fmt.Fprintf(w, "target: %s: %s, serial number %s, %s, by %s\n", p.Target, orDash(j.device.Model), orDash(j.device.Serial), bytesText(j.device.Size), j.device.Transport)
	if len(j.device.Content) == 0 {
		fmt.Fprintln(w, "        it is empty")
	}
	for _, line := range j.device.Content {
		fmt.Fprintf(w, "        now on it: %s\n", line)
	}
	return nil
}

// flashing shows how far a flash is, how fast, and how long it takes still.
func (p *progress) flashing(started time.Time) func(flash.Progress) {
	var phase flash.Phase
	return func(s flash.Progress) {
		now := time.Now()
		if s.Phase != phase {
			phase, started = s.Phase, now
		}
		rate, left := 0.0, ""
		if took := now.Sub(started).Seconds(); took > 0.2 {
			rate = float64(s.Done) / took
			left = fmt.Sprintf("  %s left", time.Duration(float64(s.Total-s.Done)/rate*float64(time.Second)).Round(time.Second))
		}
		p.line(s.Done == s.Total, "%s  %s  %s of %s  %s/s%s", s.Phase, bar(s.Done, s.Total), bytesText(s.Done), bytesText(s.Total), bytesText(int64(rate)), left)
	}
}
