package bake

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/archive"
	"github.com/slipway-os/slipway/builder/component"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/builder/rootfs"
	"github.com/slipway-os/slipway/profiles/role"
)

const images = "../../images"

// shippedBaker is a bake of a shipped role, from the shipped definition and lock, just before it packs: it has proven that nothing
// is missing. It is made only from what the user's cache holds already, but for the agent, which is compiled when it changed.
func shippedBaker(t *testing.T, name string) *baker {
	t.Helper()
	p, r := shippedPlan(t, name)
	cache := os.Getenv("SLIPWAY_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			t.Skip(err)
		}
		cache = filepath.Join(dir, "slipway")
	}
	packages := archive.NewCache(cache)
	for _, q := range append(p.Packages, p.Kernel) {
		if _, err := os.Stat(packages.Path(q.SHA256)); err != nil {
			t.Skipf("package %s is not in the cache; a bake puts it there", q.Name)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var missing string
	builder, err := component.New(component.Options{ImagesDir: images, CacheDir: cache, Progress: func(p component.Progress) {
		if p.Component != agent && (p.Step == "compiling" || p.Step == "downloading") {
			missing = p.Component
			cancel()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := begin(ctx, Options{
		Plan: p, Role: r, Package: packages.Path, Out: t.TempDir(), Cache: filepath.Join(cache, "bake"),
		Component: func(ctx context.Context, name string) (component.Component, error) {
			return builder.Build(ctx, name, p.Arch)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.end)
	for _, verb := range b.prepare() {
		if err := verb(); err != nil {
			if ctx.Err() != nil {
				t.Skipf("component %s is not in the cache; a bake puts it there", missing)
			}
			t.Fatal(err)
		}
	}
	return b
}

func shippedPlan(t *testing.T, name string) (*plan.Plan, *role.Role) {
	t.Helper()
	def, err := plan.LoadDefinition(os.DirFS(images), plan.DefinitionName, images)
	if err != nil {
		t.Fatal(err)
	}
	var lock plan.Lock
	text, err := os.ReadFile(filepath.Join(images, plan.LockName))
	if err == nil {
		err = json.Unmarshal(text, &lock)
	}
	if err != nil {
		t.Fatal(err)
	}
	r, err := role.Load(role.Embedded(), name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Make(def, &lock, r, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	return p, r
}

// TestShippedImages looks into the root trees of the shipped roles.
func TestShippedImages(t *testing.T) {
	for _, name := range []string{"worker", "control-plane"} {
		tree := shippedBaker(t, name).tree
		programs := binaries(t, tree)
		foreign := controlPlane(programs)
		if name == "worker" && len(foreign) > 0 {
			t.Errorf("a worker's image holds parts of the control plane: %v", foreign)
		}
		if name == "control-plane" && len(foreign) < 4 {
			t.Errorf("a control plane's image holds only %v: this test would find nothing in a worker's", foreign)
		}
		for _, e := range tree.All() {
			if e.Type == rootfs.Regular && e.Mode&0o6000 != 0 {
				t.Errorf("%s: %s (%04o) of %s would gain rights, and nobody logs in", name, e.Path, e.Mode, e.Origin)
			}
		}
	}
}

// controlPlane is where parts of the control plane are found: by name, and inside every binary.
func controlPlane(programs map[string][]byte) []string {
	var found []string
	for p, data := range programs {
		for _, program := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
			if bytes.Contains(data, []byte("k8s.io/kubernetes/cmd/"+program+"/app")) {
				found = append(found, p+" has "+program)
			}
		}
		if info, err := buildinfo.Read(bytes.NewReader(data)); err == nil {
			for _, m := range info.Deps {
				if strings.HasPrefix(m.Path, "go.etcd.io/etcd/server") {
					found = append(found, p+" has etcd")
				}
			}
		}
		if base := path.Base(p); base == "etcd" || base == "kube-apiserver" {
			found = append(found, p)
		}
	}
	return found
}

// binaries are the ELF files of a tree.
func binaries(t *testing.T, tree *rootfs.Tree) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	for _, e := range tree.All() {
		if e.Type != rootfs.Regular || e.Content.Size < 64 || strings.HasPrefix(e.Path, "usr/lib/modules/") {
			continue
		}
		data, err := e.Content.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasPrefix(data, []byte(elf.ELFMAG)) {
			found[e.Path] = data
		}
	}
	return found
}

// TestShippedImagesAreProven takes things away from the shipped control plane, each of which somebody must miss.
func TestShippedImagesAreProven(t *testing.T) {
	b := shippedBaker(t, "control-plane")
	for path, want := range map[string]string{
		"usr/lib64/ld-linux-x86-64.so.2":                   "/usr/bin/mount (package mount): is started by /lib64/ld-linux-x86-64.so.2, which is not in the image",
		"usr/lib/x86_64-linux-gnu/libmount.so.1":           "/usr/bin/mount (package mount): is linked to libmount.so.1, which is not in the image",
		"usr/sbin/nft":                                     "/usr/bin/kube-proxy (component kube-control-plane): starts (role control-plane, runs) nft, which is not in the image",
		"usr/libexec/cni/portmap":                          "/usr/bin/flanneld (component kube-control-plane): starts (role control-plane, runs) /usr/libexec/cni/portmap, which is not in the image",
		"usr/bin/containerd-shim-runc-v2":                  "/etc/containerd/config.toml (role control-plane): runtime runc is started by containerd-shim-runc-v2, which is not in the image",
		"usr/bin/kmod":                                     "/the kernel: loads modules with /sbin/modprobe, which is not in the image",
		"usr/bin/etcd":                                     "/usr/lib/systemd/system/etcd.service (role control-plane): ExecStart= runs /usr/bin/etcd, which is not in the image",
		"usr/lib/systemd/system/dbus.socket":               "/usr/lib/systemd/system/slipway-agent.service (role control-plane): Requires= names dbus.socket, which is no unit of the image",
		"usr/lib/udev/ata_id":                              "/usr/lib/udev/rules.d/60-persistent-storage.rules (package udev): IMPORT{program} runs ata_id, which is not in the image",
		"usr/share/slipway/kubernetes/authentication.yaml": "/usr/lib/systemd/system/kube-apiserver.service (role control-plane): ExecStart= names /usr/share/slipway/kubernetes/authentication.yaml, which",
		"usr/share/slipway/container-images/pause.tar":     "/usr/lib/systemd/system/slipway-images.service.d/10-images.conf (role control-plane): ExecStart= names /usr/share/slipway/container-images/pause.tar, which",
	} {
		e, ok := b.tree.Lookup(path)
		if !ok {
			t.Errorf("%s is not in the image", path)
			continue
		}
		b.tree.Remove(path)
		if err := b.proveComplete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without %s: %v\nwant %s", path, err, want)
		}
		if err := b.tree.Add(*e); err != nil {
			t.Fatal(err)
		}
	}
	for want, spoil := range map[string]func(){
		"/etc/containerd/config.toml (role control-plane): makes pods' sandboxes of slipway.local/pause:0.1.0, which is not in the image": func() {
			b.Plan.ContainerImages = slices.DeleteFunc(slices.Clone(b.Plan.ContainerImages), func(i plan.ContainerImage) bool { return i.Name == "pause" })
		},
		"/usr/share/slipway/addons/20-coredns.yaml (role control-plane): has a pod of slipway.local/coredns:0.1.0, which is not in the image": func() { b.Plan.ContainerImages = nil },
		"kube-scheduler.service (role control-plane): ExecStart= names /etc/kubernetes/pki/ca.crt, which is neither":                          func() { b.Role.AtBoot = nil },
		"/usr/lib/systemd/system/debug-shell.service (package systemd): ExecStart= runs /usr/bin/bash, which":                                 func() { b.Plan.Absent = nil },
		"drivers/net/ethernet/broadcom/bnx2.ko (kernel module bnx2): may ask for bnx2/":                                                       func() { b.Plan.Firmware = nil },
	} {
		before, role := *b.Plan, *b.Role
		spoil()
		if err := b.proveComplete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
		*b.Plan, *b.Role = before, role
	}
}
