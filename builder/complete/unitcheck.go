package complete

import (
	"path"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// initrdRelease is there only in an initrd with systemd, which ours isn't: units that ask for it never start (os-release(5)).
const initrdRelease = "/etc/initrd-release"

// checkUnits notes what all units refer to, those that nothing starts too: somebody may start them one day.
func (c *checker) checkUnits() error {
	for _, s := range []*unitSet{c.system, c.user} {
		for _, u := range s.all() {
			if !c.neverStarts(u) {
				c.unitPrograms(u)
				c.unitUnits(s, u)
				c.unitPaths(u)
				c.unitAccounts(u)
			}
		}
		c.wants(s)
	}
	// These two have no file that asks for them.
	for name, how := range map[string]string{"default.target": "starts", c.Target: "is made for a role that starts"} {
		if e, ok := c.Root.Resolve("usr/lib/systemd/systemd"); ok && name != "" {
			c.refer(Unit, e, how, name, c.system.exists(name))
		}
	}
	return nil
}

// conditions are the settings that let a unit start only where a path is (systemd.unit(5)); an assertion makes it fail.
var conditions = []string{"PathExists", "PathIsDirectory", "FileNotEmpty", "FileIsExecutable", "DirectoryNotEmpty"}

// neverStarts says whether a unit has a condition that nothing can meet: a path below /usr, which is as it was baked.
func (c *checker) neverStarts(u *systemdUnit) bool {
	for _, p := range conditional(u, "Condition", "Assert") {
		if p == initrdRelease || strings.HasPrefix(p, "/usr/") && !strings.HasPrefix(p, "/usr/local/") && !c.exists(p).ok() {
			return true
		}
	}
	return false
}

// conditional are the paths that must be there for a unit to start. One of several conditions with | is enough, so none of these
// is needed.
func conditional(u *systemdUnit, kinds ...string) []string {
	var paths []string
	for _, kind := range kinds {
		for _, k := range conditions {
			for _, o := range u.values("Unit", kind+k) {
				if strings.HasPrefix(o.value, "/") && !strings.ContainsAny(o.value, "%*?[") {
					paths = append(paths, path.Clean(o.value))
				}
			}
		}
	}
	return paths
}

var commands = []string{"ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPre", "ExecStopPost"}

// unitPrograms notes a unit's programs, and the paths in their command lines.
func (c *checker) unitPrograms(u *systemdUnit) {
	if u.last("RootDirectory") != "" || u.last("RootImage") != "" {
		return // another tree
	}
	folders := searchPath
	for _, o := range u.values("", "ExecSearchPath") {
		folders = nil
		for f := range strings.SplitSeq(o.value, ":") {
			folders = append(folders, strings.TrimPrefix(f, "/"))
		}
	}
	excused := conditional(u, "Condition")
	for _, key := range commands {
		for _, o := range u.values("", key) {
			for _, line := range commandLines(o.value) {
				if !line.ignored && !strings.ContainsAny(line.program, "%$") && !slices.Contains(excused, line.program) {
					c.refer(Program, o.from, key+"= runs", line.program, program(c.Root, line.program, folders))
				}
				for _, p := range line.paths {
					if !slices.Contains(excused, p) {
						c.refer(File, o.from, key+"= names", p, c.exists(p))
					}
				}
			}
		}
	}
}

// Dependencies without which a unit doesn't start. Wants= and After= name what may be absent (systemd.unit(5)).
var strict = []string{"Requires", "Requisite", "BindsTo"}

// unitUnits notes which units a unit needs: what it requires, what it starts.
func (c *checker) unitUnits(s *unitSet, u *systemdUnit) {
	for _, key := range slices.Concat(strict, []string{"OnFailure", "OnSuccess", "Upholds", "Sockets", "Service", "Unit"}) {
		for _, o := range u.values("", key) {
			for _, name := range strings.Fields(o.value) {
				c.refer(Unit, o.from, key+"= names", name, s.exists(name))
			}
		}
	}
	own := strings.TrimSuffix(u.name, path.Ext(u.name))
	implied := ""
	switch path.Ext(u.name) {
	case ".socket":
		if implied = own + ".service"; u.last("Accept") == "yes" || u.last("Accept") == "true" {
			implied = own + "@.service"
		}
		if u.last("Service") != "" {
			return
		}
	case ".timer", ".path":
		if implied = own + ".service"; u.last("Unit") != "" {
			return
		}
	case ".automount":
		implied = own + ".mount"
	default:
		return
	}
	c.refer(Unit, u.file, "starts", implied, s.exists(implied))
}

// exists is the verdict on a unit by name. Some have no file: systemd makes slices, and devices, scopes and the root's mount come
// by themselves. Of a name with specifiers, only the template can be known.
func (s *unitSet) exists(name string) verdict {
	if strings.Contains(name, "%") {
		prefix, _, instance := strings.Cut(name, "@")
		if !instance || strings.Contains(prefix, "%") {
			return verdict{}
		}
		name = prefix + "@" + path.Ext(name)
	}
	switch path.Ext(name) {
	case ".slice", ".device", ".scope":
		return verdict{}
	}
	u := s.find(name)
	switch {
	case name == "-.mount":
	case u == nil:
		return verdict{"is no unit of the image", advice}
	case u.file == nil:
		return verdict{"is masked", "unmask it (mask in role.yaml), or mask what needs it too"}
	}
	return verdict{}
}

// unitPaths notes paths without which a unit fails: a minus before a path says that it may be absent (systemd.exec(5)).
func (c *checker) unitPaths(u *systemdUnit) {
	for _, key := range []string{"EnvironmentFile", "WorkingDirectory", "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths",
		"NoExecPaths", "BindPaths", "BindReadOnlyPaths", "RootDirectory", "RootImage", "LoadCredential", "LoadCredentialEncrypted"} {
		for _, o := range u.values("", key) {
			for _, word := range strings.Fields(o.value) {
				if strings.HasPrefix(key, "LoadCredential") {
					_, word, _ = strings.Cut(word, ":")
				}
				word = strings.TrimPrefix(word, "+")
				if word, _, _ = strings.Cut(word, ":"); strings.HasPrefix(word, "/") && !strings.ContainsAny(word, "%*?[$") {
					c.refer(File, o.from, key+"= names", word, c.exists(word))
				}
			}
		}
	}
	for _, p := range conditional(u, "Assert") {
		for _, k := range conditions {
			for _, o := range u.values("Unit", "Assert"+k) {
				if path.Clean(o.value) == p {
					c.refer(File, o.from, "Assert"+k+"= asks for", p, c.exists(p))
				}
			}
		}
	}
}

func (c *checker) unitAccounts(u *systemdUnit) {
	if v := u.last("DynamicUser"); v == "yes" || v == "true" || v == "1" {
		return // systemd makes them
	}
	for _, key := range []string{"User", "SocketUser"} {
		for _, o := range u.values("", key) {
			c.account(o.from, key+"= names", o.value, c.users)
		}
	}
	for _, key := range []string{"Group", "SocketGroup", "SupplementaryGroups"} {
		for _, o := range u.values("", key) {
			for _, name := range strings.Fields(o.value) {
				c.account(o.from, key+"= names", name, c.groups)
			}
		}
	}
}

// wants notes the links in UNIT.wants and its like: what is enabled for a unit that isn't there never starts.
func (c *checker) wants(s *unitSet) {
	for _, folder := range s.folders {
		for _, d := range c.in(folder) {
			kind := path.Ext(d.Path)
			if d.Type != rootfs.Directory || kind != ".wants" && kind != ".requires" && kind != ".upholds" {
				continue
			}
			for _, e := range c.in(d.Path) {
				by, name := strings.TrimSuffix(path.Base(d.Path), kind), path.Base(e.Path)
				v := s.exists(name)
				if kind == ".wants" && s.find(name) != nil {
					v = verdict{} // masked: then it is not wanted
				}
				c.refer(Unit, e, "lets "+by+" start", name, v)
				if !strings.ContainsRune(by, '.') {
					continue // it is for all units of a type
				}
				if v = s.exists(by); s.find(by) != nil {
					v = verdict{} // masked: then nothing is wanted
				}
				c.refer(Unit, e, "is wanted by", by, v)
			}
		}
	}
}
