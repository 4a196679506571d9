package netboot

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/slipway-os/slipway/images/bootspec"
)

// enterpriseIntel is whose classes PXEClient and HTTPClient are (option 16; UEFI 2.10 section 24.3.1 and 24.7.2.4).
const enterpriseIntel = 343

// client6 tells a client by its user class (option 15), vendor class (16) and architecture (61).
func client6(message *dhcpv6.Message) Client {
	for _, class := range message.Options.UserClasses() {
		switch {
		case string(class) == bootspec.VendorClass:
			return ClientAgent
		case bytes.Contains(class, []byte("iPXE")):
			return ClientIPXE
		}
	}
	switch class := vendorClass6(message); {
	case strings.HasPrefix(class, "HTTPClient"):
		return ClientHTTP
	case !strings.HasPrefix(class, "PXEClient"):
		return ClientPlain
	case platformOf(architectures6(message)) != "":
		return ClientPXE
	}
	return ClientOther // a BIOS has no PXE over IPv6
}

// vendorClass6 is the first vendor class that is firmware's; empty: none.
func vendorClass6(message *dhcpv6.Message) string {
	for _, class := range message.Options.VendorClasses() {
		for _, data := range class.Data {
			if text := string(data); strings.HasPrefix(text, "PXEClient") || strings.HasPrefix(text, "HTTPClient") {
				return text
			}
		}
	}
	return ""
}

// architectures6 are those of option 61 (RFC 5970 section 3.3); without it the one in the vendor class.
func architectures6(message *dhcpv6.Message) []iana.Arch {
	if list := message.Options.ArchTypes(); len(list) > 0 {
		return list
	}
	_, rest, _ := strings.Cut(vendorClass6(message), ":Arch:")
	number, _, _ := strings.Cut(rest, ":")
	if arch, err := strconv.ParseUint(number, 10, 16); err == nil {
		return []iana.Arch{iana.Arch(arch)}
	}
	return nil
}

// bootFile6 adds the URL of what the client boots (option 59, RFC 5970 section 3.1) and says it in words.
//
// A PXE client isn't told that the answer is one for PXE: EDK2 would ask port 4011 for the rest (PxeBcParseDhcp6Packet). To go on
// with its disk, firmware gets a URL of nothing: there is no boot menu in DHCPv6, and without a URL it would wait for other servers.
func (d *Decision6) bootFile6(message, reply *dhcpv6.Message, policy Policy6) string {
	disk := policy.BootFrom != nil && policy.BootFrom(d.Machine.MAC) == FromDisk
	tftp := "tftp://[" + policy.Site.IPv6.Server.String() + "]/"
	http := policy.HTTPBase + bootspec.RouteArtifacts
	switch {
	case d.Client == ClientAgent:
		reply.AddOption(dhcpv6.OptBootFileURL(policy.HTTPBase))
		return ", server " + policy.HTTPBase
	case d.Client == ClientPlain:
		return ""
	case disk:
		d.bootURL(reply, map[bool]string{true: tftp, false: http}[d.Client == ClientPXE]+"boot-from-disk")
		return ", boots from its disk"
	}
	arch, script := platformOf(architectures6(message)), fileUEFI
	if d.Client == ClientIPXE && biosOnly(architectures6(message)) {
		arch, script = "amd64", fileScript
	}
	if arch == "" {
		return fmt.Sprintf(": no boot file, there are no images for its architectures %v (option 61)", numbers(architectures6(message)))
	}
	image := policy.Image(d.Machine.Role, arch)
	if image == "" {
		return fmt.Sprintf(": no boot file, there's no image of role %s for %s", d.Machine.Role, arch)
	}
	url := http + image
	switch d.Client {
	case ClientPXE:
		url = tftp + image
	case ClientIPXE:
		url = policy.HTTPBase + routeIPXE + strings.TrimSuffix(image, bootspec.ExtUKI) + "/" + script
	}
	d.bootURL(reply, url)
	return ", " + url
}

// bootURL adds a URL, and for HTTP Boot the class that makes the answer one for it.
func (d *Decision6) bootURL(reply *dhcpv6.Message, url string) {
	if d.Client == ClientHTTP {
		reply.AddOption(&dhcpv6.OptVendorClass{EnterpriseNumber: enterpriseIntel, Data: [][]byte{[]byte("HTTPClient")}})
	}
	reply.AddOption(dhcpv6.OptBootFileURL(url))
}

// biosOnly says that a client names no other architecture than legacy BIOS.
func biosOnly(list []iana.Arch) bool {
	for _, a := range list {
		if a != iana.INTEL_X86PC {
			return false
		}
	}
	return true
}

func numbers(list []iana.Arch) []uint16 {
	var out []uint16
	for _, a := range list {
		out = append(out, uint16(a))
	}
	return out
}
