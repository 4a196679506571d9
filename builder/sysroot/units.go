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
