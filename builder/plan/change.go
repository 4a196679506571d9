package plan

import (
	"fmt"
	"slices"
	"strings"
)

// Change is how one package, or container image, moved from one lock to the next.
type Change struct {
	Arch    string `json:"arch"`
	Kind    string `json:"kind"`              // package, containerImage
	Name    string `json:"name"`              //
	OldName string `json:"oldName,omitempty"` // of a kernel whose package has another name now
	Was     string `json:"was,omitempty"`     // version or digest; "" if it was not there
	Now     string `json:"now,omitempty"`     // "" if it is no longer there
	WasSize int64  `json:"wasSize,omitempty"` // bytes of the file
	NowSize int64  `json:"nowSize,omitempty"` // bytes
	Why     string `json:"why,omitempty"`     // which package it had to move with, if it was not asked for
}

// String is a line for people: "libc6 2.41-12 -> 2.41-13".
func (c Change) String() string {
	name := c.Name
	if c.OldName != "" {
		name = c.OldName + " -> " + c.Name
	}
	switch {
	case c.Was == "":
		return "+ " + name + " " + c.Now
	case c.Now == "":
		return "- " + name + " " + c.Was
	case c.Was == c.Now:
		return "  " + name + " " + c.Now + " (another file of the same version)"
	default:
		return "  " + name + " " + c.Was + " -> " + c.Now
	}
}

// thing is what a lock has one of, with what tells it from another.
type thing struct {
	version, digest string
	size            int64
}

// Changes lists what moved between two locks, by architecture and name. The old one may be nil.
func Changes(was, now *Lock) []Change {
	var changes []Change
	for _, arch := range architectures(was, now) {
		old, new := of(was, arch), of(now, arch)
		renamed := old.Kernel != new.Kernel && old.Kernel != "" && new.Kernel != ""
		a, b := old.packages(), new.packages()
		if renamed {
			a[new.Kernel] = a[old.Kernel]
			delete(a, old.Kernel)
		}
		for _, c := range compare(arch, "package", a, b) {
			if renamed && c.Name == new.Kernel {
				c.OldName = old.Kernel
			}
			c.Why = new.why[c.Name]
			changes = append(changes, c)
		}
		changes = append(changes, compare(arch, "containerImage", old.imageDigests(), new.imageDigests())...)
	}
	return changes
}

func architectures(locks ...*Lock) []string {
	var names []string
	for _, l := range locks {
		if l != nil {
			for arch := range l.Architectures {
				names = append(names, arch)
			}
		}
	}
	return union(names, nil)
}

func of(l *Lock, arch string) *ArchLock {
	if l == nil || l.Architectures[arch] == nil {
		return &ArchLock{}
	}
	return l.Architectures[arch]
}

func (l *ArchLock) packages() map[string]thing {
	all := map[string]thing{}
	for _, p := range l.Packages {
		all[p.Name] = thing{p.Version, p.SHA256, p.Size}
	}
	return all
}

func (l *ArchLock) imageDigests() map[string]thing {
	all := map[string]thing{}
	for name, i := range l.Images {
		all[name] = thing{i.Digest, i.Digest, i.Size}
	}
	return all
}

func compare(arch, kind string, was, now map[string]thing) []Change {
	var changes []Change
	names := map[string]bool{}
	for _, m := range []map[string]thing{was, now} {
		for name := range m {
			names[name] = true
		}
	}
	for name := range names {
		a, b := was[name], now[name]
		if a != b {
			changes = append(changes, Change{Arch: arch, Kind: kind, Name: name, Was: a.version, Now: b.version, WasSize: a.size, NowSize: b.size})
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Name, b.Name) })
	return changes
}

// Summary counts changes.
type Summary struct {
	Moved   int   `json:"moved"`
	Added   int   `json:"added"`
	Removed int   `json:"removed"`
	Kept    int   `json:"kept"`    // packages and images that are as before
	Bytes   int64 `json:"bytes"`   // by how much the files are larger now, all together
	Fetched int64 `json:"fetched"` // bytes of the files that are other ones now
}

// Summarize counts what moved to a lock.
func Summarize(changes []Change, now *Lock) Summary {
	var s Summary
	for _, arch := range architectures(now) {
		s.Kept += len(of(now, arch).Packages) + len(of(now, arch).Images)
	}
	for _, c := range changes {
		s.Bytes += c.NowSize - c.WasSize
		s.Fetched += c.NowSize
		switch {
		case c.Was == "":
			s.Added++
		case c.Now == "":
			s.Removed++
			continue
		default:
			s.Moved++
		}
		s.Kept--
	}
	return s
}

// SizeText is a difference in bytes for people: "+1.2 MB".
func (c Change) SizeText() string {
	switch n := float64(c.NowSize - c.WasSize); {
	case n == 0:
		return ""
	case n > -1e5 && n < 1e5:
		return fmt.Sprintf("%+.1f kB", n/1e3)
	default:
		return fmt.Sprintf("%+.1f MB", n/1e6)
	}
}
