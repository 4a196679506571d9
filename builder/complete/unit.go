package complete

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/unit"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// Folders of units, the first hides the others (systemd.unit(5)).
var (
	systemFolders = []string{"etc/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system"}
	userFolders   = []string{"etc/systemd/user", "usr/local/lib/systemd/user", "usr/lib/systemd/user"}
)

// unitSuffixes are the types of units that have files.
var unitSuffixes = []string{".service", ".socket", ".target", ".timer", ".path", ".mount", ".automount", ".swap", ".slice", ".scope", ".device"}

// unitSet is all units of a manager: the system's, or a user's.
type unitSet struct {
	folders []string
	units   map[string]*systemdUnit // by name; aliases are names too
}

// systemdUnit is a unit with its drop-ins.
type systemdUnit struct {
	name    string
	file    *rootfs.Entry // nil: masked
	options []option
}

// option is one assignment of a unit.
type option struct {
	section, name, value string
	from                 *rootfs.Entry
}

func (c *checker) readUnits() (err error) {
	if c.system, err = c.unitSet(systemFolders); err != nil {
		return err
	}
	c.user, err = c.unitSet(userFolders)
	return err
}

func (c *checker) unitSet(folders []string) (*unitSet, error) {
	s := &unitSet{folders: folders, units: map[string]*systemdUnit{}}
	files := map[string]*systemdUnit{} // by path: an alias is the same unit
	for _, folder := range folders {
		for _, e := range c.in(folder) {
			name := path.Base(e.Path)
			if s.units[name] != nil || !slices.Contains(unitSuffixes, path.Ext(name)) || e.Type == rootfs.Directory {
				continue
			}
			to, ok := c.Root.Resolve(e.Path)
			if !ok || to.Type != rootfs.Regular || to.Content.Size == 0 {
				if end, _ := c.Root.Follow(e.Path); end == "dev/null" || ok {
					s.units[name] = &systemdUnit{name: name}
				}
				continue // a link that leads nowhere is checkLinks' business
			}
			if files[to.Path] == nil {
				u, err := c.unit(path.Base(to.Path), to, folders)
				if err != nil {
					return nil, err
				}
				files[to.Path] = u
			}
			s.units[name] = files[to.Path]
		}
	}
	// An alias of what is masked under its own name is masked as well.
	for name, u := range s.units {
		if own := s.units[u.name]; own != nil && own.file == nil {
			s.units[name] = own
		}
	}
	return s, nil
}

// unit reads a unit's file and its drop-ins.
func (c *checker) unit(name string, file *rootfs.Entry, folders []string) (*systemdUnit, error) {
	u := &systemdUnit{name: name, file: file}
	var dropIns []string
	for _, folder := range folders {
		dropIns = append(dropIns, path.Join(folder, name+".d"))
	}
	drops := c.files([]string{".conf"}, dropIns...)
	slices.SortFunc(drops, func(a, b *rootfs.Entry) int { return strings.Compare(path.Base(a.Path), path.Base(b.Path)) })
	for _, e := range append([]*rootfs.Entry{file}, drops...) {
		options, err := c.options(e)
		if err != nil {
			return nil, err
		}
		u.options = append(u.options, options...)
	}
	return u, nil
}

// options reads a file in the syntax of systemd.syntax(7).
func (c *checker) options(e *rootfs.Entry) ([]option, error) {
	text, err := c.text(e)
	if err != nil {
		return nil, err
	}
	read, err := unit.DeserializeOptions(strings.NewReader(text + "\n"))
	if err != nil {
		return nil, fmt.Errorf("cannot read /%s of %s: %w", e.Path, e.Origin, err)
	}
	options := make([]option, len(read))
	for i, o := range read {
		options[i] = option{o.Section, o.Name, strings.TrimSpace(strings.ReplaceAll(o.Value, "\\\n", " ")), e}
	}
	return options, nil
}

// all is each unit once that isn't masked, by name.
func (s *unitSet) all() []*systemdUnit {
	seen := map[*systemdUnit]bool{}
	var list []*systemdUnit
	for _, name := range slices.Sorted(maps.Keys(s.units)) {
		if u := s.units[name]; u.file != nil && !seen[u] {
			seen[u] = true
			list = append(list, u)
		}
	}
	return list
}

// find is the unit of a name; of an instance without a file of its own, the template.
func (s *unitSet) find(name string) *systemdUnit {
	if u := s.units[name]; u != nil {
		return u
	}
	if prefix, _, ok := strings.Cut(name, "@"); ok {
		return s.units[prefix+"@"+path.Ext(name)]
	}
	return nil
}

// values are the assignments of a key, of one section or (empty) of any; an empty one takes back those before it.
func (u *systemdUnit) values(section, key string) []option {
	var list []option
	for _, o := range u.options {
		switch {
		case o.name != key || section != "" && o.section != section:
		case o.value == "":
			list = nil
		default:
			list = append(list, o)
		}
	}
	return list
}

// last is the value of a key that counts, empty when there is none.
func (u *systemdUnit) last(key string) string {
	if all := u.values("", key); len(all) > 0 {
		return all[len(all)-1].value
	}
	return ""
}
