// Package complete proves that an image lacks nothing: each thing that something in it refers to is in it. Libraries and
// interpreters of programs, programs of units, udev rules and D-Bus services, units, accounts, files in command lines, container
// images of manifests, plugins of the container runtime, kernel modules, firmware.
//
// Words: a reference is one thing that names another one; who makes it is the file that has it; a fault is a reference to what
// is not there; an absence is a reference that may stay without its thing, with a reason somebody wrote down; what is made at
// boot is not in the image and will be there all the same.
//
// It reads trees in memory, decides, and changes nothing. It can't know what programs do when they run: what they start by name
// is declared (Image.Runs). Dependencies of kernel modules are builder/kmod's, which fails without them.
package complete

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/kmod"
	"github.com/slipway-os/slipway/builder/rootfs"
)

// Image is what is proven complete, and what is known of it besides its files.
type Image struct {
	Arch         string // Go's name: amd64, arm64
	Root         *rootfs.Tree
	Initrd       *rootfs.Tree
	Modules      []kmod.Module // all kernel modules of the root tree
	ModuleFolder string        // that they are below: usr/lib/modules/6.12.117+deb13-amd64
	Builtin      func(module string) bool
	KernelConfig []byte // as its package has it; nil: unknown
	Containers   []Container
	Target       string // systemd unit that the agent starts

	Runs     []Runs
	AtBoot   []AtBoot
	Absent   []Absence
	Firmware []Firmware
}

// Container is a container image that is in the root tree.
type Container struct {
	Name      string // coredns
	Reference string // slipway.local/coredns:0.1.0
	Files     *rootfs.Tree
}

// Runs is what a program starts by name, which no file says.
type Runs struct {
	Program string   // absolute path
	Names   []string // absolute paths, or names to be found in PATH
	By      string   // who declares it: role node
}

// AtBoot are paths that something makes at each boot.
type AtBoot struct {
	By    string   `json:"by"`    // who makes them
	Paths []string `json:"paths"` // absolute; one with a slash at its end stands for all that is below it
}

// Absence are references of one file whose things may be absent.
type Absence struct {
	From   string   // path of who refers, without the slash at its beginning; may have * as path.Match has it
	To     []string // what it refers to, as the fault says it; may have * too
	Reason string
	By     string // who declares it: definition.yaml, absent[0]
}

// Firmware are modules that may lack firmware files.
type Firmware struct {
	Modules []string // names
	Reason  string
	By      string
}

// Kind is what sort of thing is referred to.
type Kind string

// The kinds of references.
const (
	Library        Kind = "libraries"
	Interpreter    Kind = "interpreters"
	Program        Kind = "programs"
	Unit           Kind = "units"
	Account        Kind = "accounts"
	File           Kind = "files and folders"
	Link           Kind = "links"
	Processor      Kind = "processors"
	ContainerImage Kind = "container images"
	Plugin         Kind = "plugins"
	Module         Kind = "kernel modules"
	FirmwareFile   Kind = "firmware files"
)

// Kinds are all of them, in the order in which they are told.
func Kinds() []Kind {
	return []Kind{Processor, Library, Interpreter, Program, Unit, Account, File, Link, ContainerImage, Plugin, Module, FirmwareFile}
}

// Proof is what was found.
type Proof struct {
	Proven map[Kind]int `json:"proven"` // references whose thing is there, each counted once for who makes it
	Absent []Reference  `json:"absent"` // those without, that an absence or Firmware allows; sorted
	AtBoot []AtBoot     `json:"atBoot"` // paths that count as there because something makes them
}

// Count is the number of references that were proven.
func (p *Proof) Count() int {
	n := 0
	for _, k := range p.Proven {
		n += k
	}
	return n
}

// Summary is a sentence for people.
func (p *Proof) Summary() string {
	return fmt.Sprintf("nothing is missing: %d references proven, %d may lead nowhere", p.Count(), len(p.Absent))
}

// Reference is one thing that names another.
type Reference struct {
	Kind   Kind   `json:"kind"`
	Where  string `json:"where,omitempty"`  // the tree: empty for the root image, else initrd, container image coredns
	From   string `json:"from"`             // path of who refers
	Origin string `json:"origin,omitempty"` // who brought that: package systemd
	How    string `json:"how"`              // ExecStart= runs
	To     string `json:"to"`
	Reason string `json:"reason,omitempty"` // of the absence
}

func (r Reference) String() string {
	from := "/" + r.From
	if r.Where != "" {
		from = r.Where + ": " + from
	}
	if r.Origin != "" {
		from += " (" + r.Origin + ")"
	}
	return fmt.Sprintf("%s: %s %s", from, r.How, r.To)
}

// Fault is a reference to what is not there.
type Fault struct {
	Reference
	Why  string // what is wrong with it: is not in the image
	Hint string // what to do
}

func (f Fault) String() string { return f.Reference.String() + ", which " + f.Why }

// Faults are all faults of an image.
type Faults []Fault

// Error has a line for each fault, and what to do below those that need the same.
func (f Faults) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the image is not complete, %d things are missing or wrong:", len(f))
	if len(f) == 1 {
		b.Reset()
		b.WriteString("the image is not complete:")
	}
	for i, one := range f {
		fmt.Fprintf(&b, "\n  %s", one)
		if one.Hint != "" && (i+1 == len(f) || f[i+1].Hint != one.Hint) {
			fmt.Fprintf(&b, "\n      %s", one.Hint)
		}
	}
	return b.String()
}

// Check proves an image complete. The error is Faults, all of them, when it is not; another one when something can't be read.
func Check(image Image) (*Proof, error) {
	c := &checker{
		Image: image, proof: &Proof{Proven: map[Kind]int{}, Absent: []Reference{}, AtBoot: image.AtBoot},
		used: map[allowance]bool{}, seen: map[Reference]bool{},
	}
	for _, verb := range []func() error{
		c.readAccounts,
		c.readUnits,
		c.readMadeAtBoot,
		c.checkPrograms,
		c.checkLinks,
		c.checkUnits,
		c.checkBus,
		c.checkUdev,
		c.checkTmpfiles,
		c.checkSysusers,
		c.checkManifests,
		c.checkRuntime,
		c.checkKernel,
		c.checkFirmware,
		c.checkRuns,
	} {
		if err := verb(); err != nil {
			return nil, fmt.Errorf("cannot prove the image complete: %w", err)
		}
	}
	c.deadAbsences()
	if len(c.faults) > 0 {
		slices.SortStableFunc(c.faults, func(a, b Fault) int {
			return cmp.Or(cmp.Compare(order(a.Kind), order(b.Kind)), cmp.Compare(a.Hint, b.Hint), compare(a.Reference, b.Reference))
		})
		return nil, c.faults
	}
	slices.SortFunc(c.proof.Absent, compare)
	return c.proof, nil
}

func order(k Kind) int { return slices.Index(Kinds(), k) }

func compare(a, b Reference) int {
	return cmp.Or(cmp.Compare(a.Where, b.Where), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.How, b.How))
}
