package sysroot

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/rootfs"
)

const unitFolder = "etc/systemd/system"

// unitFolders are where units of an image lie, the first hides the others (systemd.unit(5)).
var unitFolders = []string{unitFolder, "usr/local/lib/systemd/system", "usr/lib/systemd/system"}

// enableUnits makes the links that `systemctl enable` would make, by the units' [Install] sections.
func (f *finisher) enableUnits() error {
	done := map[string]bool{}
	for _, name := range slices.Sorted(slices.Values(f.settings.Enable)) {
		if err := f.enable(name, done); err != nil {
			return fmt.Errorf("cannot enable unit %s: %w", name, err)
		}
	}
	return nil
}

func (f *finisher) enable(name string, done map[string]bool) error {
	if done[name] {
		return nil
	}
	done[name] = true
	file, err := f.unit(name)
	if err != nil {
		return err
	}
	text, err := f.tree.ReadFile(file)
	if err != nil {
		return err
	}
	install := section(string(text), "Install")
	if len(install) == 0 {
		return fmt.Errorf("%s has no [Install] section, so it cannot be enabled; something else must want it", file)
	}
	if instance := install["DefaultInstance"]; len(instance) == 1 && strings.HasSuffix(stem(name), "@") {
		name = stem(name) + instance[0] + path.Ext(name)
	}
	for key, suffix := range map[string]string{"WantedBy": ".wants", "RequiredBy": ".requires", "UpheldBy": ".upholds"} {
		for _, target := range install[key] {
			if err := f.link(path.Join(unitFolder, specifiers(target, name)+suffix, name), "/"+file); err != nil {
				return err
			}
		}
	}
	for _, alias := range install["Alias"] {
		if err := f.link(path.Join(unitFolder, specifiers(alias, name)), "/"+file); err != nil {
			return err
		}
	}
	for _, also := range install["Also"] {
		if err := f.enable(specifiers(also, name), done); err != nil {
			return err
		}
	}
	return nil
}

func stem(name string) string { return strings.TrimSuffix(name, path.Ext(name)) }

// specifiers replaces the ones that [Install] sections use: %i, %p and %n.
func specifiers(s, name string) string {
	prefix, instance, _ := strings.Cut(stem(name), "@")
	return strings.NewReplacer("%i", instance, "%p", prefix, "%n", name, "%%", "%").Replace(s)
}

// unit is the file of a unit, an instance's template if it has none of its own.
func (f *finisher) unit(name string) (string, error) {
	names := []string{name}
	if prefix, instance, ok := strings.Cut(stem(name), "@"); ok && instance != "" {
		names = append(names, prefix+"@"+path.Ext(name))
	}
	for _, n := range names {
		for _, folder := range unitFolders {
			if e, ok := f.tree.Resolve(path.Join(folder, n)); ok && e.Type == rootfs.Regular {
				return e.Path, nil
			}
		}
	}
	return "", fmt.Errorf("no such unit in the image (looked in %s)", strings.Join(unitFolders, ", "))
}

// section is the assignments of one section of a unit file; list values are split at white space and an empty
// assignment clears what was before (systemd.syntax(7)).
func section(text, name string) map[string][]string {
	out := map[string][]string{}
	inside := false
	text = strings.ReplaceAll(text, "\\\n", " ")
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[':
			inside = line == "["+name+"]"
		case inside:
			key, value, _ := strings.Cut(line, "=")
			key, value = strings.TrimSpace(key), strings.TrimSpace(value)
			if value == "" {
				delete(out, key)
			} else {
				out[key] = append(out[key], strings.Fields(value)...)
			}
		}
	}
	return out
}

// maskUnits links units to /dev/null. A unit that is not there is masked too: a package may bring it one day.
func (f *finisher) maskUnits() error {
	for _, name := range f.settings.Mask {
		if slices.Contains(f.settings.Enable, name) {
			return fmt.Errorf("unit %s is both enabled and masked", name)
		}
		if err := f.link(path.Join(unitFolder, name), "/dev/null"); err != nil {
			return fmt.Errorf("cannot mask unit %s: %w", name, err)
		}
	}
	return nil
}

const presetFolder = "usr/lib/systemd/system-preset"

// preset replaces the packages' presets by ours: what is enabled stays so when systemd applies presets on a first boot,
// and nothing else is. The name sorts last, so that a node's configuration may enable more.
func (f *finisher) preset() error {
	f.tree.Remove(presetFolder)
	var b strings.Builder
	for _, name := range slices.Sorted(slices.Values(f.settings.Enable)) {
		b.WriteString("enable " + name + "\n")
	}
	b.WriteString("disable *\n")
	if _, ok := f.tree.Lookup(path.Join(unitFolder, "default.target")); !ok {
		if err := f.link(path.Join(unitFolder, "default.target"), "/usr/lib/systemd/system/multi-user.target"); err != nil {
			return err
		}
	}
	return f.file(path.Join(presetFolder, "99-slipway.preset"), 0o644, b.String())
}

// generators takes away systemd's generators: programs that make units at each boot, from things an image has not (SysV
// scripts, rc.local, a TPM's disk, consoles to log in on). Each costs a process at each boot. What reads /etc/fstab stays.
func (f *finisher) generators() error {
	const folder = "usr/lib/systemd/system-generators"
	for _, e := range f.tree.All() {
		if path.Dir(e.Path) == folder && path.Base(e.Path) != "systemd-fstab-generator" {
			f.tree.Remove(e.Path)
		}
	}
	return nil
}

// staticNodes says in tmpfiles.d(5) which device nodes load a module when they are opened, which kmod-static-nodes.service
// would find out at each boot from modules.devname.
func (f *finisher) staticNodes() error {
	const unit = "kmod-static-nodes.service"
	var b strings.Builder
	folders := map[string]bool{".": true}
	for _, e := range f.tree.All() {
		if path.Base(e.Path) != "modules.devname" || e.Type != rootfs.Regular {
			continue
		}
		text, err := f.tree.ReadFile(e.Path)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			c := strings.Fields(line)
			if len(c) != 3 || c[0] == "#" {
				continue
			}
			if dir := path.Dir(c[1]); !folders[dir] {
				folders[dir] = true
				fmt.Fprintf(&b, "d /dev/%s 0755 - - -\n", dir)
			}
			fmt.Fprintf(&b, "%s! /dev/%s 0600 - - - %s\n", c[2][:1], c[1], c[2][1:])
		}
	}
	if b.Len() == 0 {
		return nil
	}
	if err := f.file("usr/lib/tmpfiles.d/slipway-static-nodes.conf", 0o644, b.String()); err != nil {
		return err
	}
	return f.link(path.Join(unitFolder, unit), "/dev/null")
}
