package bootspec

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Kernel arguments that the builder writes into the UKI and the agent's first stage reads.
const (
	ArgImage      = "slipway.image"       // artifact base name: slipway-worker-0.1.0-amd64
	ArgRootHash   = "slipway.root.hash"   // dm-verity root hash, SHA-256, 64 hexadecimal digits
	ArgRootData   = "slipway.root.data"   // bytes of squashfs data, a multiple of 4096; the verity tree starts there
	ArgRootSize   = "slipway.root.size"   // bytes of the whole root image file
	ArgRootDigest = "slipway.root.sha256" // SHA-256 of the whole root image file
	ArgUKI        = "slipway.uki.sha256"  // SHA-256 of the unified kernel image, these 64 digits taken as zeros (SealUKI)
	ArgReleaseKey = "slipway.release-key" // optional: public keys of which one must have signed what is installed (images/checksums)
	ArgServer     = "slipway.server"      // optional: base URL of the boot server, instead of asking by DHCP
	ArgNetwork    = "slipway.network"     // optional: links to make before the boot server is asked for (Network.Argument)
	ArgSource     = "slipway.source"      // optional: SourceDisk or SourceNetwork, instead of what the boot loader tells
	ArgBreak      = "slipway.break"       // optional, for debugging: stop before a step
)

// Where the root image comes from (ArgSource).
const (
	SourceDisk    = "disk"    // the medium that the machine booted from: disk, USB stick, CD-ROM
	SourceNetwork = "network" // the boot server
)

// VerityBlockSize is the data and hash block size of root images in bytes.
const VerityBlockSize = 4096

// Root is what the kernel command line says about the root image.
type Root struct {
	Image  string // artifact base name; the file is Image + ExtRoot
	Hash   string // dm-verity root hash, hexadecimal
	Data   int64  // bytes of squashfs data
	Size   int64  // bytes of the file
	Digest string // SHA-256 of the file, hexadecimal
}

// Args is Root as kernel arguments, in a fixed order.
func (r Root) Args() []string {
	return []string{
		ArgImage + "=" + r.Image,
		ArgRootHash + "=" + r.Hash,
		ArgRootData + "=" + strconv.FormatInt(r.Data, 10),
		ArgRootSize + "=" + strconv.FormatInt(r.Size, 10),
		ArgRootDigest + "=" + r.Digest,
	}
}

var imageName = regexp.MustCompile(`^slipway-[a-z0-9]([a-z0-9.+~-]*[a-z0-9])?$`)

// ParseRoot reads Root from a kernel command line (the content of /proc/cmdline). The last of repeated arguments wins,
// as in the kernel. The error names the argument that is missing or wrong.
func ParseRoot(cmdline string) (Root, error) {
	args := ParseArgs(cmdline)
	r := Root{Image: args[ArgImage], Hash: args[ArgRootHash], Digest: args[ArgRootDigest]}
	if !imageName.MatchString(r.Image) {
		return Root{}, fmt.Errorf("kernel argument %s: %q is not an image name", ArgImage, r.Image)
	}
	for _, a := range []string{ArgRootHash, ArgRootDigest} {
		if b, err := hex.DecodeString(args[a]); err != nil || len(b) != 32 {
			return Root{}, fmt.Errorf("kernel argument %s: %q is not a SHA-256 value", a, args[a])
		}
	}
	var err error
	if r.Data, err = blocks(args, ArgRootData); err != nil {
		return Root{}, err
	}
	if r.Size, err = blocks(args, ArgRootSize); err != nil {
		return Root{}, err
	}
	if r.Size <= r.Data {
		return Root{}, fmt.Errorf("kernel argument %s: %d leaves no room for the verity tree after %d bytes of data", ArgRootSize, r.Size, r.Data)
	}
	return r, nil
}

func blocks(args map[string]string, name string) (int64, error) {
	n, err := strconv.ParseInt(args[name], 10, 64)
	if err != nil || n <= 0 || n%VerityBlockSize != 0 {
		return 0, fmt.Errorf("kernel argument %s: %q is not a positive multiple of %d", name, args[name], VerityBlockSize)
	}
	return n, nil
}

// ParseArgs splits a kernel command line into name=value pairs; a bare word has an empty value; double quotes hold
// white space together (Documentation/admin-guide/kernel-parameters.rst).
func ParseArgs(cmdline string) map[string]string {
	args := map[string]string{}
	quoted := false
	words := strings.FieldsFunc(cmdline, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r == ' ' || r == '\t' || r == '\n' || r == 0)
	})
	for _, w := range words {
		name, value, _ := strings.Cut(strings.ReplaceAll(w, `"`, ""), "=")
		args[name] = value
	}
	return args
}
