package netboot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/slipway-os/slipway/builder/uki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// A machine with legacy BIOS can't run a UKI. Its PXE ROM gets iPXE (undionly.kpxe) by TFTP; iPXE, which asks again and says
// that it is iPXE, gets a script by HTTP, and by it kernel and initrd, out of the UKI's own sections. A ROM that is iPXE
// already begins with the script. iPXE is never given iPXE, so there is no loop.

// routeIPXE + image + "/" + one of script, linux and initrd is what iPXE boots.
const routeIPXE = "/ipxe/"

// Files of an image for iPXE. The name of the initrd is also what the kernel's command line calls it.
const (
	fileScript = "boot.ipxe"
	fileUEFI   = "uefi.ipxe" // the script for iPXE on UEFI
	fileKernel = "linux"
	fileInitrd = "initrd"
)

// isBIOS says that a client is one of legacy BIOS: it names no other architecture (RFC 4578 section 2.1).
func isBIOS(request *dhcpv4.DHCPv4) bool {
	return !slices.ContainsFunc(architectures(request), func(a iana.Arch) bool { return a != iana.INTEL_X86PC })
}

// bootBIOS adds what a client of legacy BIOS boots and says it in words.
func (d *Decision) bootBIOS(request, reply *dhcpv4.DHCPv4, policy Policy) string {
	image := policy.Site.imageOf(d, func(role string) string { return policy.Image(role, "amd64") })
	if image == "" {
		return fmt.Sprintf(": no boot file, there's no image of %s for amd64", d.roleOf())
	}
	if d.Client == ClientIPXE {
		return scriptFor(request, reply, d.base(policy)+routeIPXE+strings.TrimSuffix(image, bootspec.ExtUKI)+"/"+fileScript)
	}
	loader := policy.Site.imageOf(d, policy.BIOSLoader)
	if loader == "" {
		return ": no boot file, the image has no iPXE for legacy BIOS (bake it with package ipxe in the definition, or set the machine's firmware to UEFI boot)"
	}
	offerPXE(request, reply, d.Server, loader)
	return ", TFTP " + loader
}

// scriptFor answers iPXE.
func scriptFor(request, reply *dhcpv4.DHCPv4, url string) string {
	if lacksHTTP(request.Options.Get(dhcpv4.GenericOptionCode(optionIPXE))) {
		return ": no boot file, this iPXE has no HTTP (let the machine boot by its ROM's own PXE instead)"
	}
	noProxy(reply)
	reply.UpdateOption(dhcpv4.OptBootFileName(url))
	return ", " + url
}

// Encapsulated options by which iPXE says what it can do (its include/ipxe/features.h), and that it has HTTP.
const (
	ipxeFirstFeature = 16
	ipxeLastFeature  = 47
	ipxeHTTP         = 19
)

// lacksHTTP says whether iPXE tells features, and HTTP is none of them. What is cut off tells nothing more.
func lacksHTTP(options []byte) bool {
	told := false
	for len(options) >= 2 && options[0] != endOption {
		switch code := options[0]; {
		case code == 0: // pad
			options = options[1:]
			continue
		case code == ipxeHTTP:
			return false
		case code >= ipxeFirstFeature && code <= ipxeLastFeature:
			told = true
		}
		options = options[min(len(options), 2+int(options[1])):]
	}
	return told
}

// script is what iPXE does with an image: the kernel's whole command line, and the name of the initrd for kernels that are
// started by EFI. When something fails the machine starts anew and asks again: there may be another image by then.
func script(base, image, cmdline string) (string, error) {
	words, err := wordsFor(cmdline)
	if err != nil {
		return "", err
	}
	from := base + routeIPXE + image + "/"
	return fmt.Sprintf(`#!ipxe
echo %s
%s
%s
boot || goto failed
:failed
echo Cannot boot %s. This machine starts anew in 30 seconds.
sleep 30
reboot
`, image, loadLine("kernel", from+fileKernel, strings.Join(words, " "), "initrd="+fileInitrd), loadLine("initrd", from+fileInitrd), image), nil
}

// scriptUEFI is what iPXE does with an image on UEFI: it starts the UKI with its own command line as words. Left alone, iPXE would give it its
// file name as the whole command line, and systemd's stub takes that instead of what is in the image, unless Secure Boot is on.
func scriptUEFI(base, image, cmdline string) (string, error) {
	words, err := wordsFor(cmdline)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(`#!ipxe
echo %s
%s
boot || goto failed
:failed
echo Cannot boot %s. This machine starts anew in 30 seconds.
sleep 30
reboot
`, image, loadLine("kernel", base+bootspec.RouteArtifacts+image+bootspec.ExtUKI, strings.Join(words, " ")), image), nil
}

// ipxePatience is after how many milliseconds without a byte iPXE gives a transfer up. Left alone it waits for ever for a server that was
// switched off.
const ipxePatience = 30000

// loadLine is a line of a script that loads a file. iPXE that doesn't know --timeout (https://ipxe.org/cmd/kernel) goes by its second half; for others
// that is another try.
func loadLine(command string, words ...string) string {
	what := strings.Join(words, " ")
	return fmt.Sprintf("%s --timeout %d %s || %s %s || goto failed", command, ipxePatience, what, command, what)
}

// wordsFor are the words of a kernel's command line, for a script of iPXE's.
func wordsFor(cmdline string) ([]string, error) {
	words := strings.Fields(cmdline)
	if slices.ContainsFunc(words, func(w string) bool { return w == "||" || w == "&&" || strings.ContainsAny(w, "${}\x00") }) {
		return nil, errors.New("its command line has what means something else to iPXE: ||, &&, $, { or }")
	}
	return words, nil
}

// serveIPXE serves a script, or a part of a UKI.
func (h *handler) serveIPXE(w http.ResponseWriter, r *http.Request) {
	image, name := r.PathValue("image"), r.PathValue("file")
	file, artifact, err := h.artifacts.open(image + bootspec.ExtUKI)
	section, ok := map[string]string{fileScript: ".cmdline", fileUEFI: ".cmdline", fileKernel: ".linux", fileInitrd: ".initrd"}[name]
	if err == nil {
		defer file.Close()
	}
	if errors.Is(err, fs.ErrNotExist) || !ok || err == nil && artifact.Kind != manifest.KindUKI {
		http.NotFound(w, r)
		return
	}
	var part *io.SectionReader
	if err == nil {
		part, err = sectionOf(file, artifact.Size, section)
	}
	if make := map[string]func(base, image, cmdline string) (string, error){fileScript: script, fileUEFI: scriptUEFI}[name]; err == nil && make != nil {
		err = h.serveScript(w, r, part, make, image)
	} else if err == nil {
		h.servePart(w, r, part, artifact, name)
	}
	if err != nil {
		h.log.Error("http: cannot serve an image to iPXE", "to", r.RemoteAddr, "image", image, "file", name, "error", err)
		http.Error(w, "the server cannot serve this; its log says why", http.StatusInternalServerError)
	}
}

func sectionOf(file *os.File, size int64, name string) (*io.SectionReader, error) {
	parts, err := uki.Locate(file, size)
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		if p.Name == name {
			return io.NewSectionReader(file, p.At, p.Size), nil
		}
	}
	return nil, fmt.Errorf("it has no section %s", name)
}

// maxCmdline bounds a kernel's command line in bytes: twice of what Linux takes on x86.
const maxCmdline = 4096

// maxKernelWords is how long a command line may be that a kernel takes whole, in bytes (COMMAND_LINE_SIZE of x86 and arm64, less its end).
const maxKernelWords = 2047

// serveScript serves the script for the machine that asks: where its boot server is reached over bonds or VLANs only, they are on its command
// line.
func (h *handler) serveScript(w http.ResponseWriter, r *http.Request, cmdline *io.SectionReader, make func(base, image, cmdline string) (string, error), image string) error {
	if cmdline.Size() > maxCmdline {
		return fmt.Errorf("a command line of %d bytes", cmdline.Size())
	}
	text, err := io.ReadAll(cmdline)
	if err != nil {
		return err
	}
	words := strings.TrimSpace(string(text))
	if m, ok := h.states.nodeAt(h.site, remote(r)); ok && m.NetworkArgument != "" {
		words += " " + bootspec.ArgNetwork + "=" + m.NetworkArgument
		if len(words) > maxKernelWords {
			return fmt.Errorf("the command line with the network of %s has %d bytes, a kernel takes %d", m.Name, len(words), maxKernelWords)
		}
	}
	out, err := make(h.baseFor(r), image, words)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.WriteString(w, out)
	return nil
}

// servePart serves kernel or initrd. The initrd is the last that iPXE takes.
func (h *handler) servePart(w http.ResponseWriter, r *http.Request, part *io.SectionReader, artifact manifest.Artifact, name string) {
	w.Header().Set("Content-Type", "application/octet-stream")
	if !serveWhole(w, r, part, part.Size(), artifact.SHA256+"-"+name) {
		return
	}
	h.log.Info("http: sent", "client", r.RemoteAddr, "file", artifact.Name, "part", name, "bytes", part.Size())
	if name == fileInitrd {
		h.states.kernelSent(remote(r), "HTTP for iPXE", artifact.Name, artifact.Size)
	}
}
