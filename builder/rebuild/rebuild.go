// Package rebuild compares an image with what baking its plan again has given, and says what differs in words that lead to
// the cause: the first file that differs in the root image, the initrd, a section or a partition, and its first byte.
//
// Words: given is what was handed to us, perhaps long ago; again is what was baked now. A node is something with bytes
// and a name that may have parts (a disk image its partitions, a partition its files).
//
// It does not bake (builder/bake) and believes nothing of what was given. It is not for telling two versions apart, whose
// differences are wanted.
package rebuild

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/images/manifest"
)

// ErrDiffers is what an error wraps when what was given is not what baking again gives.
var ErrDiffers = errors.New("baking again gives something else")

// Report is what comparing an image gave.
type Report struct {
	Image     string     `json:"image"`     // slipway-worker-0.1.0-amd64
	Plan      string     `json:"plan"`      // SHA-256 of the plan that was baked again
	Same      bool       `json:"same"`      // all that was compared
	Sources   []string   `json:"sources"`   // where definition, lock or role would give another plan today; such an image can be the same
	Inputs    []string   `json:"inputs"`    // components that were made of something else
	Artifacts []Artifact `json:"artifacts"` // those that were compared
}

// Artifact is how one of them compares.
type Artifact struct {
	Name       string      `json:"name"`
	Kind       string      `json:"kind"`
	Same       bool        `json:"same"`
	Difference *Difference `json:"difference,omitempty"`
}

// Difference is the first one that was found.
type Difference struct {
	Within  []string `json:"within"`            // from the outside to the inside: partition slipway-esp, EFI/Linux/x.efi, section .initrd, init
	What    string   `json:"what"`              // byte, or what else of it differs: mode, time, there at all
	Given   string   `json:"given"`             // 0x7f, 0644
	Again   string   `json:"again"`             // when baked again
	Offset  *int64   `json:"offset,omitempty"`  // of the byte in the innermost, from 0
	Comment string   `json:"comment,omitempty"` // such as why it was not looked into further
}

// First is the artifact whose difference explains most, nil when all are the same.
func (r *Report) First() *Artifact {
	for i, a := range r.Artifacts {
		if !a.Same {
			return &r.Artifacts[i]
		}
	}
	return nil
}

// String is the difference as a line for people.
func (d *Difference) String() string {
	var b strings.Builder
	for _, w := range d.Within {
		b.WriteString(w + ": ")
	}
	if d.Offset != nil {
		fmt.Fprintf(&b, "byte %d (%#x) is %s, and %s when baked again", *d.Offset, *d.Offset, d.Given, d.Again)
	} else {
		fmt.Fprintf(&b, "%s is %s, and %s when baked again", d.What, d.Given, d.Again)
	}
	if d.Comment != "" {
		b.WriteString(" (" + d.Comment + ")")
	}
	return b.String()
}

// Compare compares the artifacts of a manifest, or those of them that names lists, in two folders. Scratch is a folder for
// temporary files. Again's manifest is that of what was baked now. Errors are about what can't be read; a difference is none.
func Compare(ctx context.Context, given *os.Root, m *manifest.Manifest, again *os.Root, baked *manifest.Manifest, names []string, scratch string) (*Report, error) {
	r := &Report{Plan: baked.Plan, Same: true, Sources: []string{}, Inputs: inputs(m, baked), Artifacts: []Artifact{}}
	for _, a := range order(m.Artifacts) {
		if len(names) > 0 && !slices.Contains(names, a.Name) {
			continue
		}
		c := &comparison{ctx: ctx, scratch: scratch}
		d, err := c.artifact(given, again, a, baked)
		c.end()
		if err != nil {
			return nil, fmt.Errorf("cannot compare %s: %w", a.Name, err)
		}
		r.Artifacts = append(r.Artifacts, Artifact{Name: a.Name, Kind: a.Kind, Same: d == nil, Difference: d})
		r.Same = r.Same && d == nil
	}
	return r, nil
}

// order puts what others are made of before them, so that the first difference is the cause of more.
func order(list []manifest.Artifact) []manifest.Artifact {
	first := []string{manifest.KindPlan, manifest.KindConfig, manifest.KindKernel, manifest.KindBIOS, manifest.KindInitrd,
		manifest.KindRoot, manifest.KindInventory, manifest.KindSBOM, manifest.KindCmdline, manifest.KindUKI}
	rank := func(a manifest.Artifact) int {
		if i := slices.Index(first, a.Kind); i >= 0 {
			return i
		}
		return len(first)
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b manifest.Artifact) int { return rank(a) - rank(b) })
	return list
}

// inputs are the components that two manifests say were made of different things.
func inputs(given, again *manifest.Manifest) []string {
	list := []string{}
	now := map[string]manifest.Component{}
	for _, c := range again.Components {
		now[c.Name] = c
	}
	for _, c := range given.Components {
		other, ok := now[c.Name]
		switch {
		case !ok:
			list = append(list, fmt.Sprintf("component %s %s is no longer in the image", c.Name, c.Version))
		case other.Version != c.Version:
			list = append(list, fmt.Sprintf("component %s: version %s, and %s when baked again", c.Name, c.Version, other.Version))
		case other.Key != c.Key:
			list = append(list, fmt.Sprintf("component %s %s: made of other sources, or by another Go, C compiler or C library (key %.12s, and %.12s when baked again)", c.Name, c.Version, c.Key, other.Key))
		}
		delete(now, c.Name)
	}
	for _, c := range again.Components {
		if _, new := now[c.Name]; new {
			list = append(list, fmt.Sprintf("component %s %s is in the image only when baked again", c.Name, c.Version))
		}
	}
	return list
}

// artifact compares one. Nil: it is the same.
func (c *comparison) artifact(given, again *os.Root, a manifest.Artifact, baked *manifest.Manifest) (*Difference, error) {
	i := slices.IndexFunc(baked.Artifacts, func(b manifest.Artifact) bool { return b.Kind == a.Kind })
	if i < 0 {
		return &Difference{Within: []string{}, What: "it", Given: "there", Again: "not there"}, nil
	}
	g, err := c.open(given, a.Name)
	if err != nil {
		return nil, err
	}
	n, err := c.open(again, baked.Artifacts[i].Name)
	if err != nil {
		return nil, err
	}
	d, err := c.compare(c.typed(g, a.Kind), c.typed(n, a.Kind))
	if d != nil && d.Within == nil {
		d.Within = []string{}
	}
	return d, err
}
