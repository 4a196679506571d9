package role_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/document"
	"github.com/slipway-os/slipway/profiles/role"
)

func load(t *testing.T, fsys fs.FS, name string) *role.Role {
	t.Helper()
	r, err := role.Load(fsys, name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func file(r *role.Role, at string) (role.File, bool) {
	i := slices.IndexFunc(r.Files, func(f role.File) bool { return f.Path == at })
	if i < 0 {
		return role.File{}, false
	}
	return r.Files[i], true
}

func TestShippedRoles(t *testing.T) {
	names, err := role.Names(role.Embedded())
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"control-plane", "worker"}; !slices.Equal(names, want) {
		t.Fatalf("shipped roles are %v, want %v", names, want)
	}
	for _, name := range names {
		r := load(t, role.Embedded(), name)
		if r.Target != bootspec.SystemdTarget(name) {
			t.Errorf("%s: target is %s, the agent starts %s", name, r.Target, bootspec.SystemdTarget(name))
		}
		if !slices.Contains(r.Enable, "slipway-agent.service") {
			t.Errorf("%s: the agent isn't enabled: %v", name, r.Enable)
		}
		drop, _ := file(r, "/usr/lib/systemd/system/slipway-images.service.d/10-images.conf")
		for _, image := range r.ContainerImages {
			if !strings.Contains(string(drop.Content), " /usr/share/slipway/container-images/"+image+".tar\n") {
				t.Errorf("%s: nothing gives container image %s to containerd:\n%s", name, image, drop.Content)
			}
		}
		if !slices.IsSortedFunc(r.Files, func(a, b role.File) int { return strings.Compare(a.Path, b.Path) }) {
			t.Errorf("%s: files are not sorted", name)
		}
	}
}

// A role decides the content of its image: what only a control plane may have is not on a worker.
func TestWorkerHoldsNoControlPlane(t *testing.T) {
	r := load(t, role.Embedded(), "worker")
	for _, component := range r.Components {
		if component == "etcd" || component == "kube-control-plane" {
			t.Errorf("the worker role has component %s", component)
		}
	}
	for _, f := range r.Files {
		for _, word := range []string{"etcd", "apiserver", "controller-manager", "scheduler", "addons"} {
			if strings.Contains(f.Path, word) {
				t.Errorf("the worker role has file %s", f.Path)
			}
		}
	}
}

// Everything a role's target waits for is a unit of the role, and each of them tries again without an end.
func TestTargetUnits(t *testing.T) {
	for _, name := range []string{"control-plane", "worker"} {
		r := load(t, role.Embedded(), name)
		target, _ := file(r, "/usr/lib/systemd/system/"+r.Target)
		wants, after := settings(target, "Wants"), settings(target, "After")
		if len(wants) == 0 || !slices.Equal(wants, after) {
			t.Errorf("%s: wants %v but waits for %v", r.Target, wants, after)
		}
		for _, unit := range wants {
			f, ok := file(r, "/usr/lib/systemd/system/"+unit)
			if !ok {
				t.Errorf("%s wants %s, which the role doesn't have", r.Target, unit)
			}
			again := "always"
			if slices.Equal(settings(f, "Type"), []string{"oneshot"}) {
				again = "on-failure"
			}
			for setting, want := range map[string]string{"Restart": again, "RestartMode": "direct", "StartLimitIntervalSec": "0"} {
				if got := settings(f, setting); !slices.Equal(got, []string{want}) {
					t.Errorf("%s: %s=%v, want %s", unit, setting, got, want)
				}
			}
		}
	}
}

// Units know only the variables that the node environment has.
func TestUnitVariables(t *testing.T) {
	known := []string{
		bootspec.EnvNodeName, bootspec.EnvNodeAddress, bootspec.EnvPodAddress, bootspec.EnvPodCIDR, bootspec.EnvServiceCIDR,
		bootspec.EnvClusterName, bootspec.EnvAPIServer, bootspec.EnvEtcdEndpoints, bootspec.EnvEtcdCluster, bootspec.EnvEtcdHeartbeat, bootspec.EnvEtcdElection, bootspec.EnvServiceAccounts,
		"SLIPWAY_NODE_LABELS", "SLIPWAY_ETCD_STATE", // the last is from the etcd guard
	}
	for _, f := range load(t, role.Embedded(), "control-plane").Files {
		for i, rest := range strings.Split(string(f.Content), "${") {
			if variable, _, ok := strings.Cut(rest, "}"); i > 0 && (!ok || !slices.Contains(known, variable)) {
				t.Errorf("%s: unknown variable %s", f.Path, variable)
			}
		}
		if strings.Contains(string(f.Content), "${") && !slices.Contains(settings(f, "EnvironmentFile"), bootspec.NodeEnvironment) {
			t.Errorf("%s uses variables but doesn't read %s", f.Path, bootspec.NodeEnvironment)
		}
	}
}

// settings are the words of a unit file's setting.
func settings(f role.File, name string) []string {
	var words []string
	for line := range strings.Lines(string(f.Content)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			words = append(words, strings.Fields(value)...)
		}
	}
	return words
}

// systemd itself reads the units. Programs that a unit starts are stood in for by empty files.
func TestUnitsVerify(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	for _, name := range []string{"control-plane", "worker"} {
		t.Run(name, func(t *testing.T) {
			root := unpack(t, load(t, role.Embedded(), name))
			units, err := filepath.Glob(filepath.Join(root, "usr/lib/systemd/system/*"))
			if err != nil {
				t.Fatal(err)
			}
			units = slices.DeleteFunc(units, func(u string) bool { return strings.HasSuffix(u, ".d") })
			for i := range units {
				units[i] = filepath.Base(units[i])
			}
			args := append([]string{"verify", "--root=" + root, "--man=no", "--recursive-errors=no", "--generators=no"}, units...)
			output, _ := exec.Command("systemd-analyze", args...).CombinedOutput()
			for line := range strings.Lines(string(output)) {
				if !newer(line) {
					t.Errorf("systemd-analyze: %s", line)
				}
			}
		})
	}
}

// newer says whether a line is about settings that came after systemd 252, which may be what this machine has.
func newer(line string) bool {
	return slices.ContainsFunc([]string{"RestartMode", "RestartSteps", "RestartMaxDelaySec"}, func(s string) bool { return strings.Contains(line, s) })
}

// unpack writes a role's files, and a stand-in for each program that its units start, below a folder.
func unpack(t *testing.T, r *role.Role) string {
	t.Helper()
	root := t.TempDir()
	write := func(at string, content []byte, mode fs.FileMode) {
		at = filepath.Join(root, at)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, content, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range r.Files {
		if f.Link != "" {
			continue
		}
		write(f.Path, f.Content, 0o644)
		if program := settings(f, "ExecStart"); len(program) > 0 {
			write(program[0], nil, 0o755)
		}
	}
	for _, unit := range []string{"sysinit.target", "basic.target", "shutdown.target", "multi-user.target", "local-fs.target", "dbus.socket"} {
		content := "[Unit]\n"
		if unit == "dbus.socket" {
			content += "[Socket]\nListenStream=/run/dbus/system_bus_socket\nAccept=no\n"
			write("/usr/lib/systemd/system/dbus.service", []byte("[Service]\nExecStart=/usr/bin/kube\n"), 0o644)
		}
		write("/usr/lib/systemd/system/"+unit, []byte(content), 0o644)
	}
	write("/usr/bin/kube", nil, 0o755)
	return root
}

// tree is a folder of roles made from path: content pairs.
func tree(files map[string]string) fs.FS {
	fsys := fstest.MapFS{}
	for name, content := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(content), Mode: 0o644}
	}
	return fsys
}

const header = "apiVersion: slipway.dev/v1alpha1\nkind: Role\n"

func TestUserRoleExtendsShippedOne(t *testing.T) {
	fsys := tree(map[string]string{
		"gpu-worker/role.yaml": header + `metadata: {name: gpu-worker}
include: [worker]
packages: [pciutils]
modules: [nvidia]
sysctls: {net.core.somaxconn: "1024", vm.nr_hugepages: "64"}
enable: [rack-beacon.service]
links: {/etc/localtime: /usr/share/zoneinfo/UTC}
executable: [/usr/bin/beacon]
override: [/etc/containerd/config.toml, net.core.somaxconn]
`,
		"gpu-worker/files/etc/containerd/config.toml":                 "version = 4\n",
		"gpu-worker/files/usr/bin/beacon":                             "beacon",
		"gpu-worker/files/usr/lib/systemd/system/rack-beacon.service": "[Service]\nExecStart=/usr/bin/beacon\n[Install]\nWantedBy=multi-user.target\n",
	})
	r := load(t, fsys, "gpu-worker")
	if r.Target != "slipway-worker.target" || !slices.Contains(r.Components, "kube-worker") || !slices.Contains(r.Packages, "pciutils") {
		t.Errorf("the included role is not there: %s %v %v", r.Target, r.Components, r.Packages)
	}
	if r.Sysctls["net.core.somaxconn"] != "1024" || r.Sysctls["vm.nr_hugepages"] != "64" || r.Sysctls["net.ipv4.ip_forward"] != "1" {
		t.Errorf("sysctls are %v", r.Sysctls)
	}
	config, _ := file(r, "/etc/containerd/config.toml")
	beacon, _ := file(r, "/usr/bin/beacon")
	link, _ := file(r, "/etc/localtime")
	got := fmt.Sprintf("%s %o %o %s", config.Content, config.Mode, beacon.Mode, link.Link)
	if want := "version = 4\n 644 755 /usr/share/zoneinfo/UTC"; got != want {
		t.Errorf("files are %q, want %q", got, want)
	}
}

// A folder of one's own may replace a shipped role by its name.
func TestUserRoleReplacesShippedOne(t *testing.T) {
	r := load(t, tree(map[string]string{
		"worker/role.yaml": header + "metadata: {name: worker}\ntarget: mine.target\n",
		"worker/files/usr/lib/systemd/system/mine.target":   "[Unit]\n",
		"worker/files/usr/lib/systemd/system/other.service": "[Service]\n",
	}), "worker")
	if r.Target != "mine.target" || len(r.Components) != 0 || len(r.Files) != 2 {
		t.Errorf("got %+v", r)
	}
}

func TestFaults(t *testing.T) {
	good := header + "metadata: {name: mine}\ninclude: [worker]\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"no such role": {nil, []string{`mine/role.yaml: there is no role "mine" (there are: control-plane, node, worker)`}},
		"several at once": {map[string]string{"mine/role.yaml": "apiVersion: v2\nkind: Rolle\nmetadata: {name: yours}\ncolour: red\nmodules: [overlay, overlay, a b]\n"}, []string{
			`mine/role.yaml:1:13: apiVersion: is "v2" (write slipway.dev/v1alpha1)`,
			`mine/role.yaml:2:7: kind: is "Rolle" (write Role)`,
			`mine/role.yaml:3:18: metadata.name: is "yours" in the folder mine (name and folder must be the same)`,
			`mine/role.yaml:4:1: colour: unknown field (known fields: absent, apiVersion, atBoot, components, containerImages, enable, executable, include, kind, links, mask, metadata, modules, override, packageUnits, packages, runs, sysctls, target)`,
			`mine/role.yaml:5:20: modules[1]: "overlay" stands here twice (remove one)`,
			`mine/role.yaml:5:29: modules[2]: "a b" is not a kernel module's name`,
		}},
		"unknown include": {map[string]string{"mine/role.yaml": header + "metadata: {name: mine}\ninclude: [master]\n"}, []string{
			`mine/role.yaml:4:11: include[0]: there is no role "master" (there are: control-plane, mine, node, worker)`,
		}},
		"includes itself": {map[string]string{"worker/role.yaml": header + "metadata: {name: worker}\ninclude: [worker]\n", "mine/role.yaml": good}, []string{
			`worker/role.yaml:4:11: include[0]: includes role "worker", which includes this one (a role of your own that extends a shipped one needs another name)`,
		}},
		"no target": {map[string]string{"mine/role.yaml": header + "metadata: {name: mine}\ninclude: [node]\n"}, []string{
			`mine/role.yaml: the role has no target, so it can only be included (give it a target: slipway-mine.target, and that unit in its files)`,
		}},
		"target without a unit": {map[string]string{"mine/role.yaml": good + "target: mine.target\n"}, []string{
			`mine/role.yaml: target mine.target is not among the role's files (add files/usr/lib/systemd/system/mine.target)`,
		}},
		"same file, same sysctl": {map[string]string{"mine/role.yaml": good + "sysctls: {vm.overcommit_memory: \"2\"}\n", "mine/files/etc/containerd/config.toml": ""}, []string{
			`mine/role.yaml:5:33: sysctls["vm.overcommit_memory"]: role node sets this too (name it under override to win)`,
			`mine/files/etc/containerd/config.toml: role node has this file too (name its path under override to win)`,
		}},
		"overrides nothing": {map[string]string{"mine/role.yaml": good + "override: [/etc/motd]\n", "mine/files/etc/motd": "hello"}, []string{
			`mine/role.yaml:5:12: override[0]: "/etc/motd" overrides nothing (it must be in this role and in an included one)`,
		}},
		"places": {map[string]string{"mine/role.yaml": good + "links: {../up: x, /etc/motd: \"\"}\nexecutable: [/usr/bin/none]\n", "mine/files/run/x": "", "mine/files/bin/x": ""}, []string{
			`mine/role.yaml:5:16: links["../up"]: "../up" is not a clean absolute path`,
			`mine/role.yaml:5:19: links["/etc/motd"]: has no target (write path: target)`,
		}},
		"places of files": {map[string]string{"mine/role.yaml": good + "executable: [/usr/bin/none]\n", "mine/files/run/x": "", "mine/files/bin/x": ""}, []string{
			`mine/files/bin/x: /bin is a link: put it into /usr/bin`,
			`mine/files/run/x: /run is made anew at each boot: what is there in the image is never seen`,
			`mine/role.yaml:5:14: executable[0]: /usr/bin/none is not among this role's files`,
		}},
		"what may be missing": {map[string]string{"mine/role.yaml": good + "runs: {kubelet: [mount], /usr/bin/x: [], /usr/bin/y: [\"a b\"]}\n" +
			"atBoot: [{by: \"\", paths: [/etc/x/, etc/y, /etc/x/]}]\nabsent: [{from: /usr/bin/x, to: [\"\"]}]\n"}, []string{
			`mine/role.yaml:5:17: runs.kubelet: "kubelet" is not a clean absolute path (write it like /usr/bin/kubelet: [mount, umount])`,
			`mine/role.yaml:5:38: runs["/usr/bin/x"]: it runs nothing (name the programs, or take it out)`,
			`mine/role.yaml:5:55: runs["/usr/bin/y"][0]: "a b" is not a program's name or absolute path`,
			`mine/role.yaml:6:11: atBoot[0].by: is empty (say who makes them)`,
			`mine/role.yaml:6:36: atBoot[0].paths[1]: "etc/y" is not a clean absolute path (a slash at its end makes it stand for all below it)`,
			`mine/role.yaml:6:43: atBoot[0].paths[2]: "/etc/x/" stands here twice (remove one)`,
			`mine/role.yaml:7:10: absent[0].reason: is empty (say why nobody misses it)`,
			`mine/role.yaml:7:17: absent[0].from: "/usr/bin/x" is not a path without a slash at its beginning (who refers, such as usr/bin/ldd)`,
			`mine/role.yaml:7:34: absent[0].to[0]: "" is nothing that can be referred to`,
		}},
		"units": {map[string]string{
			"mine/role.yaml": good + "enable: [none.service, idle.service, both.service, twin@a.service]\nmask: [both.service, kubelet.service]\n",
			"mine/files/usr/lib/systemd/system/idle.service":  "[Service]\n",
			"mine/files/usr/lib/systemd/system/both.service":  "[Install]\n",
			"mine/files/usr/lib/systemd/system/twin@.service": "[Unit]\n[Install]\nWantedBy=multi-user.target\n",
		}, []string{
			`mine/role.yaml: unit both.service is both enabled and masked (remove one)`,
			`mine/role.yaml: unit idle.service is enabled but has no [Install] section (say there what wants it: WantedBy=multi-user.target)`,
			`mine/role.yaml: unit none.service is enabled but not among the role's files (if a package brings it, name it under packageUnits too)`,
			`mine/role.yaml: unit both.service is masked but among the role's files (remove one)`,
			`mine/role.yaml: unit kubelet.service is masked but among the role's files (remove one)`,
		}},
		"a file that is a folder": {map[string]string{"mine/role.yaml": good + "links: {/etc/containerd: /usr/share/containerd}\n"}, []string{
			`mine/role.yaml: /etc/containerd is a file or link, and /etc/containerd/config.toml is below it`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := role.Load(tree(c.files), "mine")
			var faults document.Faults
			if !errors.As(err, &faults) {
				t.Fatalf("no faults: %v", err)
			}
			got := faults.Error()
			if want := strings.Join(c.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestSymbolicLinkInFolder(t *testing.T) {
	folder := t.TempDir()
	if err := os.MkdirAll(path.Join(folder, "mine/files/etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path.Join(folder, "mine/role.yaml"), []byte(header+"metadata: {name: mine}\ninclude: [worker]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/shadow", path.Join(folder, "mine/files/etc/secret")); err != nil {
		t.Fatal(err)
	}
	_, err := role.Load(os.DirFS(folder), "mine")
	if err == nil || !strings.Contains(err.Error(), "mine/files/etc/secret: is a symbolic link (name it under links in the role's document)") {
		t.Fatalf("got %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(header + "metadata: {name: mine}\ninclude: [worker]\n")
	f.Add("include: [mine]\nlinks: {/a: b}\nsysctls: {a.b: c}\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := role.Load(tree(map[string]string{"mine/role.yaml": text}), "mine")
		if (r == nil) == (err == nil) {
			t.Fatalf("got %v and %v", r, err)
		}
	})
}
