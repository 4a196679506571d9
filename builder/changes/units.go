package changes

import (
	"path"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/inventory"
)

// unit is what systemd finds of a unit in an image (systemd.unit(5), "Unit File Load Path").
type unit struct {
	fragment string            // digest, or the target of an alias; empty: there is none, as of an instance
	masked   bool              //
	dropins  map[string]string // digest by file name
	wanted   map[string]bool   // multi-user.target (wants)
}

// unitFolders in their order: the first wins.
var unitFolders = []string{"etc/systemd/system/", "usr/lib/systemd/system/"}

var unitTypes = []string{".service", ".socket", ".target", ".timer", ".mount", ".automount", ".path", ".slice", ".swap", ".scope", ".device"}

// readUnits finds the units of a root image.
func readUnits(list []inventory.Entry) map[string]*unit {
	all := map[string]*unit{}
	decided := map[string]bool{} // links and drop-ins that a folder before has
	for _, folder := range unitFolders {
		for _, e := range list {
			name, ok := strings.CutPrefix(e.Path, folder)
			if !ok || e.Type != inventory.File && e.Type != inventory.Link {
				continue
			}
			dir, base := path.Split(name)
			if dir == "" {
				get(all, base).load(e)
				continue
			}
			if !decided[name] {
				decided[name] = true
				lies(all, strings.TrimSuffix(dir, "/"), base, e)
			}
		}
	}
	for name := range all {
		if !slices.Contains(unitTypes, path.Ext(name)) {
			delete(all, name)
		}
	}
	return all
}

func get(all map[string]*unit, name string) *unit {
	if all[name] == nil {
		all[name] = &unit{dropins: map[string]string{}, wanted: map[string]bool{}}
	}
	return all[name]
}

func masks(e inventory.Entry) bool {
	return e.Type == inventory.Link && e.Link == "/dev/null" || e.Type == inventory.File && e.Size == 0
}

// load takes a unit's file. A mask stays one, whatever lies in the later folders.
func (u *unit) load(e inventory.Entry) {
	switch {
	case masks(e):
		u.masked = u.masked || u.fragment == ""
	case u.fragment == "":
		u.fragment = content(e)
	}
}

func content(e inventory.Entry) string {
	if e.Type == inventory.Link {
		return "-> " + path.Base(e.Link) // /usr/lib/systemd/system/x and ../x are the same
	}
	return e.SHA256
}

// lies takes what lies in a folder beside units: x.target.wants/y.service, x.service.d/10.conf.
func lies(all map[string]*unit, dir, base string, e inventory.Entry) {
	owner, kind := strings.TrimSuffix(dir, path.Ext(dir)), strings.TrimPrefix(path.Ext(dir), ".")
	switch kind {
	case "wants", "requires", "upholds":
		if !masks(e) {
			get(all, base).wanted[owner+" ("+kind+")"] = true
		}
	case "d":
		if path.Ext(base) == ".conf" {
			get(all, owner).dropins[base] = content(e)
		}
	}
}

// units compares units.
func units(a, b []inventory.Entry) []Unit {
	list := []Unit{}
	before, after := readUnits(a), readUnits(b)
	for _, name := range bothKeys(before, after) {
		for _, c := range unitChanges(get(before, name), get(after, name)) {
			list = append(list, Unit{Name: name, How: c.How, Detail: c.Name})
		}
	}
	return list
}

// unitChanges is what became of a unit; a change's name is the detail.
func unitChanges(a, b *unit) []Change {
	var list []Change
	add := func(how, detail string) { list = append(list, Change{Name: detail, How: how}) }
	switch {
	case a.fragment == b.fragment:
	case a.fragment == "":
		add(Added, "")
	case b.fragment == "":
		add(Removed, "")
	default:
		add(Changed, "")
	}
	if a.masked != b.masked {
		add(map[bool]string{true: Masked, false: Unmasked}[b.masked], "")
	}
	for _, name := range bothKeys(a.dropins, b.dropins) {
		x, before := a.dropins[name]
		y, after := b.dropins[name]
		if before != after || x != y {
			add(sizeHow(before, after), "drop-in "+name)
		}
	}
	for _, by := range bothKeys(a.wanted, b.wanted) {
		if a.wanted[by] != b.wanted[by] {
			add(map[bool]string{true: Enabled, false: Disabled}[b.wanted[by]], by)
		}
	}
	return list
}
