package netboot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Client is what asks, told by its options 60, 77, 93 and 175.
type Client string

// Clients.
const (
	ClientPlain Client = "plain client" // an operating system, a DHCP client by hand
	ClientPXE   Client = "UEFI PXE"     // option 60 PXEClient, a UEFI of 64 bits
	ClientHTTP  Client = "UEFI HTTP"    // option 60 HTTPClient
	ClientBIOS  Client = "BIOS PXE"     // option 60 PXEClient, architecture 0
	ClientOther Client = "PXE of another architecture"
	ClientIPXE  Client = "iPXE"
	ClientUBoot Client = "U-Boot" // in its own name; it may also call itself PXEClient
	ClientAgent Client = "slipway-agent"
)

// optionIPXE is iPXE's encapsulated options (unassigned by IANA).
const optionIPXE = 175

// clientOf tells the client. iPXE comes first: it also calls itself PXEClient.
func clientOf(request *dhcpv4.DHCPv4) Client {
	class := request.ClassIdentifier()
	switch {
	case class == bootspec.VendorClass:
		return ClientAgent
	case bytes.Contains(request.Options.Get(dhcpv4.OptionUserClassInformation), []byte("iPXE")),
		request.Options.Has(dhcpv4.GenericOptionCode(optionIPXE)):
		return ClientIPXE
	case strings.HasPrefix(class, "HTTPClient"):
		return ClientHTTP
	case strings.HasPrefix(class, "U-Boot"):
		return ClientUBoot
	case !strings.HasPrefix(class, "PXEClient"):
		return ClientPlain
	case platform(request) != "":
		return ClientPXE
	}
	for _, a := range architectures(request) {
		if a != iana.INTEL_X86PC {
			return ClientOther
		}
	}
	return ClientBIOS
}

// firmware says that the client is what a machine boots with, so that its DISCOVER begins a boot.
func (c Client) firmware() bool { return c != ClientPlain && c != ClientAgent }

// platform is Go's name of the architecture of a UEFI client that can run a UKI; empty for BIOS and all others. Of
// several (option 93 is a list) the first that fits counts.
func platform(request *dhcpv4.DHCPv4) string { return platformOf(architectures(request)) }

func platformOf(list []iana.Arch) string {
	for _, a := range list {
		switch a {
		case iana.EFI_X86_64, iana.EFI_BC, iana.EFI_X86_64_HTTP: // some x64 firmware calls itself 9, EFI byte code
			return "amd64"
		case iana.EFI_ARM64, iana.EFI_ARM64_HTTP:
			return "arm64"
		}
	}
	return ""
}

// architectures are those of option 93 (RFC 4578 section 2.1: a list of 16-bit numbers); without the option it's the one
// in the class identifier, PXEClient:Arch:00007:UNDI:003016. Empty: the client says none, which is a BIOS.
func architectures(request *dhcpv4.DHCPv4) []iana.Arch {
	var list []iana.Arch
	for value := request.Options.Get(dhcpv4.OptionClientSystemArchitectureType); len(value) >= 2; value = value[2:] {
		list = append(list, iana.Arch(binary.BigEndian.Uint16(value)))
	}
	if len(list) > 0 {
		return list
	}
	_, rest, _ := strings.Cut(request.ClassIdentifier(), ":Arch:")
	number, _, _ := strings.Cut(rest, ":")
	if arch, err := strconv.ParseUint(number, 10, 16); err == nil {
		list = append(list, iana.Arch(arch))
	}
	return list
}

// bootFile adds what the client boots and says it in words.
func (d *Decision) bootFile(request, reply *dhcpv4.DHCPv4, policy Policy) string {
	switch {
	case d.Client == ClientAgent:
		reply.UpdateOption(dhcpv4.OptBootFileName(d.base(policy)))
		policy.tellOthers(reply)
		return ", server " + d.base(policy)
	case d.Client == ClientPlain:
		return ""
	case !d.Known && !policy.Site.Discover:
		return ": no boot file, not in the cluster document"
	case d.Known && policy.fromDisk(d.Machine):
		return fromDisk(d, reply, policy)
	}
	if d.Client == ClientUBoot {
		return d.bootUBoot(request, reply, policy)
	}
	if isBIOS(request) && d.Client != ClientHTTP {
		return d.bootBIOS(request, reply, policy)
	}
	arch := platform(request)
	if arch == "" {
		return noImage(request)
	}
	file := policy.Site.imageOf(d, func(role string) string { return policy.Image(role, arch) })
	if file == "" {
		return fmt.Sprintf(": no boot file, there's no image of %s for %s", d.roleOf(), arch)
	}
	url := d.base(policy) + bootspec.RouteArtifacts + file
	switch d.Client {
	case ClientPXE:
		offerPXE(request, reply, d.Server, file)
		return ", TFTP " + file
	case ClientHTTP:
		// UEFI 2.10 section 24.7.2.4: the class is answered with exactly this, the URL is option 67.
		reply.UpdateOption(dhcpv4.OptClassIdentifier("HTTPClient"))
	case ClientIPXE:
		return scriptFor(request, reply, d.base(policy)+routeIPXE+strings.TrimSuffix(file, bootspec.ExtUKI)+"/"+fileUEFI)
	}
	reply.UpdateOption(dhcpv4.OptBootFileName(url))
	return ", " + url
}

// tellOthers tells the agent of further boot servers (bootspec.OptionServers in option 43).
func (p Policy) tellOthers(reply *dhcpv4.DHCPv4) {
	if p.Others == nil {
		return
	}
	var list []byte
	for _, a := range p.Others() {
		list = append(list, a.AsSlice()...)
	}
	if list = list[:min(len(list), 4*bootspec.MaxServers)]; len(list) > 0 {
		reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, append([]byte{bootspec.OptionServers, byte(len(list))}, list...)))
	}
}

// offerPXE offers a PXE client a file by TFTP. Option 43 with PXE discovery control 8: boot from this offer, ask no other boot
// server (PXE 2.1 table 2-3).
func offerPXE(request, reply *dhcpv4.DHCPv4, server netip.Addr, file string) {
	reply.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient"))
	reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, []byte{6, 1, 8, 255}))
	setBootFile(request, reply, server, file)
}

// noProxy tells iPXE not to wait for proxyDHCP offers: encapsulated option 176, no-pxedhcp.
func noProxy(reply *dhcpv4.DHCPv4) {
	reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(optionIPXE), []byte{176, 1, 1, 255}))
}

// noImage says why there's nothing for a client's architecture.
func noImage(request *dhcpv4.DHCPv4) string {
	for _, a := range architectures(request) {
		if a != iana.INTEL_X86PC_HTTP {
			return fmt.Sprintf(": no boot file, there are no images for architecture %d (option 93)", uint16(a))
		}
	}
	return ": no boot file, HTTP boot needs UEFI (let a legacy BIOS boot by PXE)"
}

// setBootFile sets the boot file in the header, and in options 66 and 67 where the client asks for them.
func setBootFile(request, reply *dhcpv4.DHCPv4, server netip.Addr, file string) {
	reply.ServerIPAddr = server.AsSlice()
	if len(file) < headerFile {
		reply.BootFileName = file
	}
	if wants(request, dhcpv4.OptionTFTPServerName) {
		reply.UpdateOption(dhcpv4.OptTFTPServerName(server.String()))
	}
	if wants(request, dhcpv4.OptionBootfileName) || len(file) >= headerFile {
		reply.UpdateOption(dhcpv4.OptBootFileName(file))
	}
}
