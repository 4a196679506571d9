package complete

import (
	"fmt"
	"testing"

	"github.com/slipway-os/slipway/builder/rootfs"
)

const lookedIn = "is not in the image (looked in /usr/local/sbin, /usr/local/bin, /usr/sbin, /usr/bin)"

func TestUnits(t *testing.T) {
	service := func(lines string) func(*image) {
		return func(i *image) { i.unit("x.service", "[Service]\n"+lines) }
	}
	unit := func(lines string) func(*image) {
		return func(i *image) { i.unit("x.target", "[Unit]\n"+lines) }
	}
	at := "/usr/lib/systemd/system/x.service (package demo): "
	target := "/usr/lib/systemd/system/x.target (package demo): "
	const nowhere = "is neither in the image nor known to be made at boot"
	all := map[string]spoiled{
		"a program":           {service("ExecStart=/usr/bin/xd --foreground\n"), at + "ExecStart= runs /usr/bin/xd, which is not in the image"},
		"by name":             {service("ExecStop=xd stop\n"), at + "ExecStop= runs xd, which " + lookedIn},
		"prefixes":            {service("ExecStart=@!!/usr/bin/xd xd\n"), at + "ExecStart= runs /usr/bin/xd, which is not in the image"},
		"it may be absent":    {service("ExecStart=-/usr/bin/xd\n"), ""},
		"continued":           {service("ExecStart=\\\n    /usr/bin/xd \\\n   -f\n"), at + "ExecStart= runs /usr/bin/xd, which is not in the image"},
		"second command":      {service("ExecStart=/usr/lib/systemd/systemd ; /usr/bin/xd\n"), at + "ExecStart= runs /usr/bin/xd, which is not in the image"},
		"taken back":          {service("ExecStart=/usr/bin/xd\nExecStart=\nExecStart=/usr/lib/systemd/systemd\n"), ""},
		"no permission":       {func(i *image) { i.file("usr/bin/xd", "x"); service("ExecStart=/usr/bin/xd\n")(i) }, at + "ExecStart= runs /usr/bin/xd, which is in the image without permission to execute it"},
		"condition on itself": {service("ExecStart=/etc/rc.local\n[Unit]\nConditionFileIsExecutable=/etc/rc.local\n"), ""},
		"never starts":        {service("ExecStart=/usr/bin/xd\n[Unit]\nConditionPathExists=/usr/share/x\n"), ""},
		"a node may have it":  {service("ExecStart=/usr/bin/xd\n[Unit]\nConditionPathExists=/etc/x\n"), at + "ExecStart= runs /usr/bin/xd, which is not in the image"},
		"one of several":      {service("ExecStart=/usr/bin/xd\n[Unit]\nConditionPathExists=|/usr/share/x\n"), at + "ExecStart= runs /usr/bin/xd, which is not in the image"},
		"only in initrds":     {service("ExecStart=/usr/bin/xd\n[Unit]\nAssertPathExists=/etc/initrd-release\n"), ""},
		"drop-in": {func(i *image) {
			service("ExecStart=/usr/lib/systemd/systemd\n")(i)
			i.file("etc/systemd/system/x.service.d/10-own.conf", "[Service]\nExecStartPre=/usr/bin/xd\n")
		}, "/etc/systemd/system/x.service.d/10-own.conf (package demo): ExecStartPre= runs /usr/bin/xd, which is not in the image"},
		"masked": {func(i *image) {
			service("ExecStart=/usr/bin/xd\n")(i)
			i.link("etc/systemd/system/x.service", "/dev/null")
		}, ""},
		"a user's": {func(i *image) { i.file("usr/lib/systemd/user/x.service", "[Service]\nExecStart=/usr/bin/xd\n") },
			"/usr/lib/systemd/user/x.service (package demo): ExecStart= runs /usr/bin/xd, which is not in the image"},
		"another tree": {service("RootDirectory=/run/systemd/x\nExecStart=/usr/bin/xd\n"), ""},

		"flag":         {service("ExecStart=/usr/lib/systemd/systemd --config=/etc/x.yaml,/etc/y.yaml --node=${X} -d %t/x\n"), at + "ExecStart= names /etc/x.yaml, which " + nowhere + "\n" + at + "ExecStart= names /etc/y.yaml, which " + nowhere},
		"argument":     {service("ExecStart=/usr/lib/systemd/systemd read '/etc/x y'\n"), at + "ExecStart= names /etc/x y, which " + nowhere},
		"in /run":      {service("ExecStart=/usr/lib/systemd/systemd --out=/run/x/out\n"), at + "ExecStart= names /run/x/out, which " + nowhere},
		"the kernel's": {service("ExecStart=/usr/lib/systemd/systemd --map=/proc/self/maps --dev=/dev/kmsg\n"), ""},
		"state folder": {service("StateDirectory=x/y\nExecStart=/usr/lib/systemd/systemd --data=/var/lib/x/y --more=/var/lib/x\n"), ""},
		"below it":     {service("StateDirectory=x\nExecStart=/usr/lib/systemd/systemd --data=/var/lib/x/z\n"), at + "ExecStart= names /var/lib/x/z, which " + nowhere},
		"tmpfiles.d": {func(i *image) {
			i.file("usr/lib/tmpfiles.d/x.conf", "d /var/lib/x 0755 - - -\n")
			service("ExecStart=/usr/lib/systemd/systemd --data=/var/lib/x\n")(i)
		}, ""},
		"declared": {func(i *image) {
			i.AtBoot = []AtBoot{{"the agent", []string{"/etc/x.yaml"}}}
			service("ExecStart=/usr/lib/systemd/systemd --config=/etc/x.yaml\n")(i)
		}, ""},
		"search path":      {service("ExecStart=/usr/lib/systemd/systemd --listed-in /etc/fstab:/proc/self/mountinfo\n"), ""},
		"environment":      {service("EnvironmentFile=/etc/x.env\n"), at + "EnvironmentFile= names /etc/x.env, which " + nowhere},
		"environment with": {service("EnvironmentFile=-/etc/x.env\n"), ""},
		"writable":         {service("ReadWritePaths=/srv/x -/srv/y\n"), at + "ReadWritePaths= names /srv/x, which " + nowhere},
		"credential":       {service("LoadCredential=key:/etc/x.key\n"), at + "LoadCredential= names /etc/x.key, which " + nowhere},
		"assertion":        {unit("AssertPathExists=/etc/x.yaml\n"), target + "AssertPathExists= asks for /etc/x.yaml, which " + nowhere},
		"condition":        {unit("ConditionPathExists=/etc/x.yaml\n"), ""},

		"user":    {service("User=nobody-knows\n"), at + "User= names nobody-knows, which is no account of the image"},
		"group":   {service("SupplementaryGroups=disk nobody-knows\n"), at + "SupplementaryGroups= names nobody-knows, which is no account of the image"},
		"dynamic": {service("DynamicUser=yes\nUser=nobody-knows\n"), ""},
		"numbers": {service("User=65534\nGroup=%i\n"), ""},

		"requires":          {unit("Requires=y.service sysinit-x.slice dev-sda.device\n"), target + "Requires= names y.service, which is no unit of the image"},
		"binds to":          {unit("BindsTo=y.mount -.mount\n"), target + "BindsTo= names y.mount, which is no unit of the image"},
		"wants":             {unit("Wants=y.service\nAfter=y.service\nPartOf=y.service\n"), ""},
		"on failure":        {unit("OnFailure=y.service\n"), target + "OnFailure= names y.service, which is no unit of the image"},
		"requires a masked": {func(i *image) { unit("Requires=y.service\n")(i); i.link("etc/systemd/system/y.service", "/dev/null") }, target + "Requires= names y.service, which is masked"},
		"instance":          {func(i *image) { unit("Requires=y@1.service z@1.service\n")(i); i.unit("y@.service", "[Service]\n") }, target + "Requires= names z@1.service, which is no unit of the image"},
		"alias": {func(i *image) {
			unit("Requires=y.service\n")(i)
			i.unit("z.service", "[Service]\n")
			i.link("etc/systemd/system/y.service", "/usr/lib/systemd/system/z.service")
		}, ""},
		"socket":           {func(i *image) { i.unit("x.socket", "[Socket]\nListenStream=/run/x\nSocketGroup=no-such\n") }, "/usr/lib/systemd/system/x.socket (package demo): starts x.service, which is no unit of the image\n/usr/lib/systemd/system/x.socket (package demo): SocketGroup= names no-such, which is no account of the image"},
		"accepting socket": {func(i *image) { i.unit("x.socket", "[Socket]\nAccept=yes\n"); i.unit("x.service", "[Service]\n") }, "/usr/lib/systemd/system/x.socket (package demo): starts x@.service, which is no unit of the image"},
		"timer":            {func(i *image) { i.unit("x.timer", "[Timer]\nUnit=y.service\n") }, "/usr/lib/systemd/system/x.timer (package demo): Unit= names y.service, which is no unit of the image"},
		"path":             {func(i *image) { i.unit("x.path", "[Path]\nPathExists=/run/x\n") }, "/usr/lib/systemd/system/x.path (package demo): starts x.service, which is no unit of the image"},

		"enabled for nobody": {func(i *image) {
			service("ExecStart=/usr/lib/systemd/systemd\n")(i)
			i.link("etc/systemd/system/graphical.target.wants/x.service", "/usr/lib/systemd/system/x.service")
		}, "/etc/systemd/system/graphical.target.wants/x.service (package demo): is wanted by graphical.target, which is no unit of the image"},
		"enabled and gone": {func(i *image) {
			i.link("etc/systemd/system/slipway-worker.target.requires/x.service", "/usr/lib/systemd/system/x.service")
		}, "/etc/systemd/system/slipway-worker.target.requires/x.service (package demo): lets slipway-worker.target start x.service, which is no unit of the image\n" +
			"/etc/systemd/system/slipway-worker.target.requires/x.service (package demo): is a link to /usr/lib/systemd/system/x.service, which is not in the image"},
		"enabled and masked": {func(i *image) {
			i.link("etc/systemd/system/slipway-worker.target.wants/x.service", "/usr/lib/systemd/system/x.service")
			service("ExecStart=/usr/bin/xd\n")(i)
			i.link("etc/systemd/system/x.service", "/dev/null")
		}, ""},
		"no default": {func(i *image) { i.Root.Remove("etc/systemd/system/default.target") }, "/usr/lib/systemd/systemd (package demo): starts default.target, which is no unit of the image"},
		"no target":  {func(i *image) { i.Target = "slipway-etcd.target" }, "/usr/lib/systemd/systemd (package demo): is made for a role that starts slipway-etcd.target, which is no unit of the image"},
	}
	try(t, all)
}

func TestOtherFilesOfSystemd(t *testing.T) {
	rule := func(text string) func(*image) {
		return func(i *image) { i.file("usr/lib/udev/rules.d/60-x.rules", text+"\n") }
	}
	udev := "/usr/lib/udev/rules.d/60-x.rules (package demo): "
	bus := func(text string) func(*image) {
		return func(i *image) { i.file("usr/share/dbus-1/system-services/x.service", "[D-BUS Service]\nName=x\n"+text) }
	}
	x := "/usr/share/dbus-1/system-services/x.service (package demo): "
	try(t, map[string]spoiled{
		"udev program":             {rule(`KERNEL=="x", RUN+="/usr/bin/xd $name"`), udev + "RUN runs /usr/bin/xd, which is not in the image"},
		"udev program by name":     {rule(`IMPORT{program}="x_id --export $devnode", SYMLINK+="x"`), udev + "IMPORT{program} runs x_id, which is not in the image (looked in /usr/lib/udev)"},
		"udev program there":       {func(i *image) { i.program("usr/lib/udev/x_id", "x"); rule(`PROGRAM=="x_id 'a b'"`)(i) }, ""},
		"udev built in":            {rule(`IMPORT{builtin}="blkid", RUN{builtin}+="kmod load x", RUN+="$env{CMD}"`), ""},
		"udev group":               {rule(`KERNEL=="x", GROUP="disk", OWNER="nobody-knows", MODE="0660"`), udev + "OWNER names nobody-knows, which is no account of the image"},
		"udev comment":             {rule(`# RUN+="/usr/bin/xd"`), ""},
		"udev continued":           {rule("KERNEL==\"x\", \\\n  RUN+=\"/usr/bin/xd\""), udev + "RUN runs /usr/bin/xd, which is not in the image"},
		"udev rule for who has it": {rule(`TEST=="/usr/bin/xd", RUN+="/usr/bin/xd"`), ""},
		"udev rules hidden":        {func(i *image) { rule(`RUN+="/usr/bin/xd"`)(i); i.link("etc/udev/rules.d/60-x.rules", "/dev/null") }, ""},

		"bus unit": {bus("Exec=/bin/false\nSystemdService=dbus-x.service\n"), x + "SystemdService= starts dbus-x.service, which is no unit of the image"},
		"bus masked": {func(i *image) {
			bus("SystemdService=dbus-x.service\n")(i)
			i.link("etc/systemd/system/dbus-x.service", "/dev/null")
		}, ""},
		"bus program": {bus("Exec=/usr/bin/xd --system\nUser=root\n"), x + "Exec= runs /usr/bin/xd, which is not in the image"},
		"bus user":    {bus("Exec=/bin/false\nUser=nobody-knows\n"), x + "User= names nobody-knows, which is no account of the image"},
		"session's unit": {func(i *image) {
			i.file("usr/share/dbus-1/services/x.service", "[D-BUS Service]\nSystemdService=x.service\n")
			i.unit("x.service", "[Service]\n")
		}, "/usr/share/dbus-1/services/x.service (package demo): SystemdService= starts x.service, which is no unit of the image"},

		"tmpfiles user":    {func(i *image) { i.file("usr/lib/tmpfiles.d/x.conf", "d /run/x 0755 nobody-knows :disk -\n") }, "/usr/lib/tmpfiles.d/x.conf (package demo): /run/x is for user nobody-knows, which is no account of the image"},
		"tmpfiles link":    {func(i *image) { i.file("etc/tmpfiles.d/x.conf", "L+ /etc/x - - - - ../usr/share/x\n") }, "/etc/tmpfiles.d/x.conf (package demo): makes /etc/x, a link to /usr/share/x, which is neither in the image nor known to be made at boot"},
		"tmpfiles factory": {func(i *image) { i.file("etc/tmpfiles.d/x.conf", "L /etc/x\nC /etc/y\nL? /etc/z\n") }, "/etc/tmpfiles.d/x.conf (package demo): makes /etc/x, a link to /usr/share/factory/etc/x, which is neither in the image nor known to be made at boot"},
		"sysusers":         {func(i *image) { i.file("usr/lib/sysusers.d/x.conf", "u messagebus - \"bus\"\ng xgroup 77\n") }, "/usr/lib/sysusers.d/x.conf (package demo): wants group xgroup, which is no account of the image"},
		"modules": {func(i *image) {
			i.file("usr/lib/modules-load.d/x.conf", "# comment\nbr-netfilter\next4\n")
			i.Builtin = func(m string) bool { return m == "ext4" }
		}, "/usr/lib/modules-load.d/x.conf (package demo): loads br-netfilter, which is neither in the image nor built into its kernel"},
		"modprobe's command": {func(i *image) {
			i.file("usr/lib/modprobe.d/x.conf", "install x /usr/bin/xd\ninstall y /bin/true\noptions z a=1\n")
		}, "/usr/lib/modprobe.d/x.conf (package demo): install x needs /bin/sh, which is not in the image"},
		"modprobe": {func(i *image) { i.KernelConfig = []byte("CONFIG_X=y\nCONFIG_MODPROBE_PATH=\"/sbin/modprobe\"\n") }, "/the kernel: loads modules with /sbin/modprobe, which is not in the image"},
		"core dumps": {func(i *image) {
			i.file("usr/lib/sysctl.d/x.conf", "-kernel/core_pattern = |/usr/bin/xd %P\nkernel.core_uses_pid=1\n")
		}, "/usr/lib/sysctl.d/x.conf (package demo): has core dumps taken by /usr/bin/xd, which is not in the image"},
		"binfmt": {func(i *image) { i.file("usr/lib/binfmt.d/x.conf", "# qemu\n:x:M::\\x7fELF::/usr/bin/qemu-x:F\n") }, "/usr/lib/binfmt.d/x.conf (package demo): has programs run by /usr/bin/qemu-x, which is not in the image"},
		"runs": {func(i *image) {
			i.Runs = []Runs{{"/usr/lib/systemd/systemd", []string{"mount", "/usr/lib/systemd/systemd"}, "role node"}}
		}, "/usr/lib/systemd/systemd (package demo): starts (role node, runs) mount, which " + lookedIn},
		"runs, and isn't there": {func(i *image) { i.Runs = []Runs{{"/usr/bin/kubelet", []string{"mount"}, "role node"}} },
			"/usr/bin/kubelet (role node): is declared (runs) to start mount, which it can't, because it is not in the image itself"},
	})
}

func TestKubernetes(t *testing.T) {
	const pod = "apiVersion: v1\nkind: ConfigMap\n---\napiVersion: apps/v1\nkind: Deployment\nspec:\n  template:\n    spec:\n" +
		"      initContainers: [{name: a, image: \"slipway.local/coredns:1\"}]\n      containers: [{name: b, image: %s}]\n"
	const config = "version = 4\n[plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = \"slipway.local/coredns:1\"\n" +
		"[plugins.\"io.containerd.cri.v1.runtime\".cni]\nbin_dirs = [\"/usr/libexec/cni\"]\nconf_dir = \"/etc/cni/net.d\"\n"
	whole := func(i *image) {
		i.program("usr/libexec/cni/bridge", "x")
		i.file("usr/lib/tmpfiles.d/cni.conf", "d /etc/cni/net.d 0755 root root -\n")
	}
	toml := func(text string) func(*image) {
		return func(i *image) { whole(i); i.file("etc/containerd/config.toml", text) }
	}
	runtimes := "[plugins.\"io.containerd.cri.v1.runtime\".containerd]\ndefault_runtime_name = \"runc\"\n"
	at := "/etc/containerd/config.toml (package demo): "
	have := " (it has slipway.local/coredns:1)"
	try(t, map[string]spoiled{
		"add-on": {func(i *image) { i.file("usr/share/slipway/addons/x.yaml", fmt.Sprintf(pod, "example.com/x:1")) }, "/usr/share/slipway/addons/x.yaml (package demo): has a pod of example.com/x:1, which is not in the image" + have},
		"whole":  {func(i *image) { i.file("usr/share/slipway/addons/x.yaml", fmt.Sprintf(pod, "slipway.local/coredns:1")) }, ""},
		"pod": {func(i *image) {
			i.file("etc/kubernetes/manifests/x.json", `{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"image":"x:1"}]}}`)
		}, "/etc/kubernetes/manifests/x.json (package demo): has a pod of x:1, which is not in the image" + have},
		"kubelet": {func(i *image) {
			i.file("etc/kubernetes/kubelet.yaml", "apiVersion: a/v1\nkind: KubeletConfiguration\nstaticPodPath: /etc/pods\n")
		}, "/etc/kubernetes/kubelet.yaml (package demo): staticPodPath names /etc/pods, which is neither in the image nor known to be made at boot"},
		"other": {func(i *image) { i.file("etc/x.yaml", "containers: [{image: x}]\n"); i.file("etc/y.yaml", "[1, 2]\n") }, ""},

		"containerd":       {toml(config), ""},
		"sandbox":          {toml("version = 4\n[plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = \"registry.k8s.io/pause:3.10\"\n"), at + "makes pods' sandboxes of registry.k8s.io/pause:3.10, which is not in the image" + have},
		"sandbox, old":     {toml("version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"pause:3\"\n"), at + "makes pods' sandboxes of pause:3, which is not in the image" + have},
		"sandbox not said": {toml("version = 4\n"), at + "makes pods' sandboxes of containerd's own choice, which is not in the image"},
		"sandbox in an import": {func(i *image) {
			toml("imports = [\"/etc/containerd/conf.d/*.toml\"]\n")(i)
			i.file("etc/containerd/conf.d/x.toml", config)
		}, ""},
		"runtime not described": {toml(config + runtimes), at + "by default runs pods with runc, which the configuration doesn't describe"},
		"shim":                  {toml(config + runtimes + "[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n"), at + "runtime runc is started by containerd-shim-runc-v2, which " + lookedIn},
		"runtime's program":     {toml(config + runtimes + "[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.runc.options]\nBinaryName = \"/usr/bin/runc\"\n"), at + "runtime runc runs /usr/bin/runc, which is not in the image"},
		"folders":               {func(i *image) { i.file("etc/containerd/config.toml", config) }, at + "conf_dir names /etc/cni/net.d, which is neither in the image nor known to be made at boot\n" + at + "has plugins in /usr/libexec/cni, which is neither in the image nor known to be made at boot"},
		"network plugin": {func(i *image) {
			toml(config)(i)
			i.file("etc/cni/net.d/10-x.conflist", `{"plugins":[{"type":"bridge","ipam":{"type":"host-local"}}]}`)
		}, "/etc/cni/net.d/10-x.conflist (package demo): has pods' network made by host-local, which is not in the image (looked in /usr/libexec/cni)"},
		"network without config": {func(i *image) { i.file("etc/cni/net.d/10-x.conf", `{"type":"bridge"}`) }, "/etc/cni/net.d/10-x.conf (package demo): has pods' network made by bridge, which is not in the image (looked in /opt/cni/bin)"},
	})
}

func TestCommandLines(t *testing.T) {
	for line, want := range map[string]string{
		`/bin/a -b c`:                         "[{/bin/a false []}]",
		`-@/bin/a a /x`:                       "[{/bin/a true [/x]}]",
		`:+!"/bin/with space" --f=/x,/y "/z"`: "[{/bin/with space false [/x /y /z]}]",
		`a ; b /x`:                            "[{a false []} {b false [/x]}]",
		`a --url=https://b/c --addr=/ip:80`:   "[{a false []}]",
		``:                                    "[]",
		`"`:                                   "[{ false []}]",
	} {
		if got := fmt.Sprint(commandLines(line)); got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
}

// FuzzFiles has everything that is parsed say something or fail, whatever is in it.
func FuzzFiles(f *testing.F) {
	f.Add(`KERNEL=="x", RUN+="a \"b\" c", e`)
	f.Add("[Service]\nExecStart=@-/bin/a 'b c' ; d\n[D-BUS Service]\nExec=\"\n")
	f.Add("L+ /a - - :b - \"c\nd")
	f.Add("apiVersion: a\nkind: b\ncontainers: [{image: c}, d]\n---\n")
	f.Add("imports = ['*']\n[plugins.x.cni]\nbin_dirs = ['']\n")
	f.Add(`{"plugins":[{"type":"a"}]}`)
	f.Add("#! /usr/bin/env -S")
	f.Add("kernel.core_pattern=| \n:x:M::\\x7fELF::/a:F")
	f.Add(binaryFile{interpreter: loader, needed: []string{"x"}, dlopen: `[{"soname":["a"],"priority":"required"}]`, wants: [][2]string{{"x", "1"}}}.String())
	f.Fuzz(func(t *testing.T, text string) {
		for _, path := range []string{
			"usr/lib/udev/rules.d/x.rules", "usr/lib/systemd/system/x.service", "usr/share/dbus-1/system-services/x.service", "usr/lib/tmpfiles.d/x.conf",
			"usr/lib/sysusers.d/x.conf", "etc/x.yaml", "etc/containerd/config.toml", "etc/cni/net.d/x.conf", "etc/modules-load.d/x.conf", "etc/modprobe.d/x.conf", "etc/sysctl.d/x.conf", "etc/binfmt.d/x.conf", "usr/bin/x",
		} {
			root := rootfs.New()
			for p, content := range map[string]string{"etc/passwd": "", "etc/group": "", path: text} {
				put(t, root, rootfs.Entry{Path: p, Type: rootfs.Regular, Mode: 0o755, Content: rootfs.Inline([]byte(content))})
			}
			Check(Image{Arch: "amd64", Root: root})
		}
	})
}
