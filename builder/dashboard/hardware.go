package dashboard

import (
	"fmt"
	"strings"

	"github.com/slipway-os/slipway/images/bootspec"
)

// hardware is what the page shows of a machine that was discovered.
type hardware struct {
	MAC     string
	Summary string
	Facts   []fact
	Parts   []fact // disks and network cards
}

type fact struct{ Name, Value string }

// describe says hardware for people.
func describe(h bootspec.Hardware) *hardware {
	out := &hardware{MAC: h.MAC, Summary: h.Summary()}
	add := func(list *[]fact, name string, words ...string) {
		if value := strings.Join(strings.Fields(strings.Join(words, " ")), " "); value != "" {
			*list = append(*list, fact{name, value})
		}
	}
	firmware := h.Firmware.Kind()
	if h.Firmware.SecureBoot != "" {
		firmware += ", Secure Boot " + h.Firmware.SecureBoot + ","
	}
	add(&out.Facts, "board", h.System.Board)
	add(&out.Facts, "firmware", firmware, h.Firmware.Vendor, h.Firmware.Version, h.Firmware.Date)
	add(&out.Facts, "TPM", h.TPM)
	add(&out.Facts, "processor flags", strings.Join(h.CPU.Flags, " "))
	for _, d := range h.Disks {
		kind := ""
		if d.Rotational {
			kind = "rotating"
		}
		if d.Removable {
			kind += " removable"
		}
		add(&out.Parts, d.Name, bootspec.DiskSize(d.Size), d.Model, kind, label("serial", d.Serial), label("WWN", d.WWN), d.Transport, d.Bus)
	}
	for _, n := range h.NICs {
		cable := "no cable"
		if n.Carrier {
			cable = "cable"
		}
		if n.Speed > 0 {
			cable = fmt.Sprintf("%d Mbit/s", n.Speed)
		}
		add(&out.Parts, n.Name, n.MAC, n.Driver, n.PCI, cable)
	}
	return out
}

func label(name, value string) string {
	if value == "" {
		return ""
	}
	return name + " " + value
}
