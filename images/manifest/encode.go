package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// MaxSize bounds a manifest in bytes.
const MaxSize = 8 << 20

// Kinds of artifacts.
const (
	KindUKI     = "uki"
	KindRoot    = "root"
	KindKernel  = "kernel"
	KindInitrd  = "initrd"
	KindCmdline = "cmdline"
	KindBIOS    = "bios"    // iPXE for the PXE ROMs of legacy BIOS
	KindDisk    = "disk"    // disk image for devices with sectors of 512 bytes
	KindDisk4K  = "disk-4k" // and of 4096
	KindISO     = "iso"     // disk image that boots from CD-ROM too
	KindSBOM    = "sbom"    // bill of materials: SPDX 2.3, JSON
)

// Kinds of what tells about an image.
const (
	KindInventory = "files"         // list of all files of root image and initrd (builder/inventory)
	KindProof     = "proof"         // proof that nothing is missing (builder/complete)
	KindConfig    = "kernel-config" // the kernel's configuration, as its package has it
	KindPlan      = "plan"          // the plan it was baked from (builder/plan); its SHA-256 is the manifest's Plan
)

// Forms of a disk image follow its kind: disk.zst.
const (
	FormZstd     = ".zst"   // compressed
	FormBlockMap = ".bmap"  // no image, but which blocks of it hold data (bmap 2.0)
	FormQCOW2    = ".qcow2" // for QEMU
)

// Encode is the manifest's canonical form.
func (m *Manifest) Encode() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(m); err != nil {
		panic("manifest: " + err.Error()) // plain structs always encode
	}
	return b.Bytes()
}

// Decode reads a manifest strictly: unknown fields, another version, anything after it, file names with a path and
// values that are no digests are errors.
func Decode(data []byte) (*Manifest, error) {
	m, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("cannot read manifest: %w", err)
	}
	return m, nil
}

func decode(data []byte) (*Manifest, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%d bytes are over the limit of %d", len(data), MaxSize)
	}
	m := &Manifest{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something comes after it")
	}
	if m.APIVersion != Version || m.Kind != Kind {
		return nil, fmt.Errorf("apiVersion %q and kind %q are not %q and %q", m.APIVersion, m.Kind, Version, Kind)
	}
	if m.Role == "" || m.Version == "" || m.Arch == "" || !digest(m.Plan) || !digest(m.Root.Hash) || m.Root.Data <= 0 {
		return nil, errors.New("role, version, arch, plan and root must be set")
	}
	names, kinds := map[string]bool{}, map[string]bool{}
	for _, a := range m.Artifacts {
		switch {
		case a.Name == "" || a.Name != filepath.Base(a.Name) || strings.HasPrefix(a.Name, ".") || strings.ContainsAny(a.Name, `/\`):
			return nil, fmt.Errorf("artifact %q is not a plain file name", a.Name)
		case !digest(a.SHA256) || a.Size < 0:
			return nil, fmt.Errorf("artifact %s: size %d, sha256 %q", a.Name, a.Size, a.SHA256)
		case names[a.Name] || kinds[a.Kind]:
			return nil, fmt.Errorf("artifact %s (%s) comes twice", a.Name, a.Kind)
		}
		names[a.Name], kinds[a.Kind] = true, true
	}
	return m, nil
}

func digest(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// IsName tells whether a file's name is one of a manifest: slipway-ROLE-VERSION-ARCH.json, and no other JSON of an image.
func IsName(name string) bool {
	base, ok := strings.CutSuffix(name, ".json")
	arch := base[strings.LastIndexByte(base, '-')+1:]
	return ok && strings.HasPrefix(name, "slipway-") && arch != "" && !strings.Contains(arch, ".")
}

// Artifact finds an artifact by its kind.
func (m *Manifest) Artifact(kind string) (Artifact, bool) {
	for _, a := range m.Artifacts {
		if a.Kind == kind {
			return a, true
		}
	}
	return Artifact{}, false
}
