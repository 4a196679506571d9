package netboot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/slipway-os/slipway/builder/tftp"
	"github.com/slipway-os/slipway/images/bootspec"
)

// A board's U-Boot asks DHCP in its own name. Its command "pxe get" then looks for a configuration file as PXELINUX has it, named after
// the MAC address, on the server that the answer names (U-Boot, doc/README.pxe); it says which kernel, initrd and command line. They are the UKI's
// own sections. U-Boot that starts EFI programs asks as PXEClient besides, and needs none of this.

// ubootArm64 is U-Boot's architecture for arm64 (IANA, "Processor Architecture Types": arm 64-bit uboot).
const ubootArm64 iana.Arch = 0x16

const (
	pxelinuxFolder = "pxelinux.cfg/01-" // 01: Ethernet
	ubootFolder    = "uboot/"           // + image + "/" + linux or initrd
)

// bootUBoot names this server to a U-Boot, and says it in words.
func (d *Decision) bootUBoot(request, reply *dhcpv4.DHCPv4, policy Policy) string {
	if !slices.Contains(architectures(request), ubootArm64) {
		return noImage(request)
	}
	if policy.Image(d.Machine.Role, "arm64") == "" {
		return fmt.Sprintf(": no boot file, there's no image of role %s for arm64", d.Machine.Role)
	}
	reply.ServerIPAddr = d.Server.AsSlice()
	return ", TFTP " + pxelinuxFolder + strings.ReplaceAll(request.ClientHWAddr.String(), ":", "-")
}

// openUBoot opens what a U-Boot boots; fs.ErrNotExist: name is no such file, or the node boots something else.
func (s *Server) openUBoot(name string, client netip.Addr) (tftp.File, error) {
	if mac, ok := strings.CutPrefix(name, pxelinuxFolder); ok {
		hardware, err := net.ParseMAC(mac)
		m, known := s.live.Load().site.machine(hardware)
		if err != nil || !known || !s.states.at(m, client) || s.states.bootFrom(hardware) == FromDisk {
			return nil, fs.ErrNotExist
		}
		return s.pxelinux(m)
	}
	folder, part, _ := strings.Cut(strings.TrimPrefix(name, ubootFolder), "/")
	section, ok := map[string]string{fileKernel: ".linux", fileInitrd: ".initrd"}[part]
	if !ok || !strings.HasPrefix(name, ubootFolder) {
		return nil, fs.ErrNotExist
	}
	return s.section(folder, section)
}

// section is a section of an image's UKI.
func (s *Server) section(image, name string) (tftp.File, error) {
	file, artifact, err := s.live.Load().artifacts.open(image + bootspec.ExtUKI)
	if err != nil {
		return nil, err
	}
	part, err := sectionOf(file, artifact.Size, name)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return ubootFile{part, file}, nil
}

// ubootFile is a part of an open file, or a text.
type ubootFile struct {
	*io.SectionReader
	io.Closer
}

// pxelinux is the configuration file of a node (U-Boot, doc/README.pxe).
func (s *Server) pxelinux(m Machine) (tftp.File, error) {
	image := strings.TrimSuffix(s.image(m.Role, "arm64"), bootspec.ExtUKI)
	if image == "" {
		return nil, fs.ErrNotExist
	}
	cmdline, err := s.section(image, ".cmdline")
	if err != nil {
		return nil, err
	}
	defer cmdline.Close()
	words := make([]byte, min(cmdline.Size(), maxCmdline))
	if _, err := cmdline.ReadAt(words, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	from := ubootFolder + image + "/"
	text := fmt.Sprintf("default slipway\nlabel slipway\n\tkernel %s%s\n\tinitrd %s%s\n\tappend %s\n",
		from, fileKernel, from, fileInitrd, strings.Join(strings.Fields(string(words)), " "))
	return ubootFile{io.NewSectionReader(bytes.NewReader([]byte(text)), 0, int64(len(text))), io.NopCloser(nil)}, nil
}
