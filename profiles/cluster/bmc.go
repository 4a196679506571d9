package cluster

import (
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// BMCs is what all management controllers have in common.
type BMCs struct {
	// Credentials is a file with their users and passwords (builder/power), which are never in a document. Its path is relative to the
	// document, or absolute.
	Credentials string `yaml:"credentials"`
}

// BMC is a machine's management controller: `slipway power` asks it. One of Redfish and IPMI is set.
type BMC struct {
	Redfish     string `yaml:"redfish"`     // https://10.1.9.11
	System      string `yaml:"system"`      // redfish: the machine's id, where a controller has several
	Fingerprint string `yaml:"fingerprint"` // redfish: SHA-256 of its certificate; default: an authority that the system knows
	IPMI        string `yaml:"ipmi"`        // address or name, with a port unless it is 623
	CipherSuite int    `yaml:"cipherSuite"` // ipmi: 3 or 17; default: the best that both know
	BIOS        bool   `yaml:"bios"`        // ipmi: the machine boots by legacy BIOS
}

var fingerprint = regexp.MustCompile(`^([0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}$`)

// bmc checks a node's controller.
func (k *check) bmc(path string, b *BMC, credentials string) {
	if b == nil {
		return
	}
	switch {
	case (b.Redfish == "") == (b.IPMI == ""):
		k.fault(path, "write redfish: https://10.1.9.11, or ipmi: 10.1.9.11", "a controller speaks Redfish or IPMI: one of them is named")
	case b.Redfish != "":
		u, err := url.Parse(b.Redfish)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/")+u.RawQuery+u.Fragment != "" {
			k.fault(path+".redfish", "write it like https://10.1.9.11; the password goes into the file that bmc.credentials names", "%q is not the address of a controller", strip(b.Redfish))
		}
		if b.CipherSuite != 0 || b.BIOS {
			k.fault(path, "leave cipherSuite and bios out", "they are for IPMI")
		}
	case !isHostPort(b.IPMI):
		k.fault(path+".ipmi", "write it like 10.1.9.11 or bmc-1.example.com:623", "%q is not the address of a controller", b.IPMI)
	case b.System != "" || b.Fingerprint != "":
		k.fault(path, "leave system and fingerprint out", "they are for Redfish")
	}
	if f := b.Fingerprint; f != "" && !fingerprint.MatchString(f) {
		k.fault(path+".fingerprint", "write 64 hexadecimal digits, as `slipway power status` tells them", "%q is not a SHA-256", f)
	}
	if c := b.CipherSuite; c != 0 && c != 3 && c != 17 {
		k.fault(path+".cipherSuite", "use 17, or 3 with old controllers", "%d is none that keeps a password safe", c)
	}
	if credentials == "" {
		k.fault("bmc.credentials", "name a file with users and passwords: default: {user: ..., password: ...}", "nodes have controllers, and nothing says how to get in")
	}
}

// strip takes a password out of an address.
func strip(address string) string {
	scheme, rest, ok := strings.Cut(address, "://")
	if i := strings.LastIndex(rest, "@"); ok && i >= 0 {
		return scheme + "://...@" + rest[i+1:]
	}
	return address
}

// isHostPort says whether a text is an address or a DNS name, with a port or without.
func isHostPort(text string) bool {
	if host, port, err := net.SplitHostPort(text); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
		text = host
	}
	_, err := netip.ParseAddr(text)
	return err == nil || isDomain(text)
}
