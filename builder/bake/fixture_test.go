package bake

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/slipway-os/slipway/builder/component"
	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/builder/provenance"
	"github.com/slipway-os/slipway/images/disk"
	"github.com/slipway-os/slipway/profiles/role"
)

const release = "6.12.1-test"

// kitchen is everything a small bake needs, in folders of its own.
type kitchen struct {
	t       *testing.T
	dir     string
	plan    *plan.Plan
	role    *role.Role
	cache   string
	out     string
	formats []string
	origin  provenance.Origin
	disk    disk.Sizes
	missing map[string]bool // components that fail to build
	steps   []Step
	warned  []string
}

// newKitchen has a worker's small image: a base system, a kernel with two modules, an agent and three components.
func newKitchen(t *testing.T) *kitchen {
	k := &kitchen{t: t, dir: t.TempDir()}
	k.cache, k.out = filepath.Join(k.dir, "cache"), filepath.Join(k.dir, "out")
	k.role = &role.Role{
		Name: "worker", Target: "slipway-worker.target", Components: []string{"kube-worker", agent}, ContainerImages: []string{"pause"},
		Modules: []string{"overlay"}, Enable: []string{"kubelet.service"}, Mask: []string{"getty.target"}, Sysctls: map[string]string{"net.ipv4.ip_forward": "1"},
		Files: []role.File{
			{Path: "/usr/lib/systemd/system/kubelet.service", Mode: 0o644, Content: []byte("[Service]\nExecStart=/usr/bin/kube-worker\n[Install]\nWantedBy=slipway-worker.target\n")},
			{Path: "/usr/lib/systemd/system/slipway-worker.target", Mode: 0o644, Content: []byte("[Unit]\nDescription=a worker\n")},
			{Path: "/etc/motd", Mode: 0o644, Content: []byte("the role's\n")},
		},
	}
	k.plan = &plan.Plan{
		APIVersion: plan.APIVersion, Kind: "Plan", Role: "worker", Version: "0.1.0", Arch: "amd64", Epoch: 1700000000, KernelRelease: release,
		KernelArguments: []string{"console=ttyS0"}, Modules: k.role.Modules, PruneModules: []string{"sound"}, Exclude: []string{"usr/share/man"},
		Components:      k.role.Components,
		ContainerImages: []plan.ContainerImage{{Name: "pause", Reference: "slipway.local/pause:0.1.0", Component: "pause", Entrypoint: []string{"/pause"}, User: "65535:65535"}},
		Initrd:          plan.Initrd{Modules: []string{"squashfs", "virtio-blk"}, Components: []string{"ignition"}},
		Compression:     plan.Compression{Algorithm: "zstd", Level: 3, BlockSize: 128 << 10},
	}
	k.basePackages()
	return k
}

func (k *kitchen) basePackages() {
	k.pack("base-files", "", fixture.File{Path: "usr/bin/"}, fixture.File{Path: "usr/lib/"}, fixture.File{Path: "bin", Link: "usr/bin"},
		fixture.File{Path: "lib", Link: "usr/lib"}, fixture.File{Path: "usr/lib/os-release", Content: "ID=debian\nDEBIAN_VERSION_FULL=13.8\n"}, fixture.File{Path: "etc/motd", Content: "the package's\n"})
	k.pack("base-passwd", "", fixture.File{Path: "usr/share/base-passwd/passwd.master", Content: "root:*:0:0:root:/root:/bin/bash\n"},
		fixture.File{Path: "usr/share/base-passwd/group.master", Content: "root:*:0:\nshadow:*:42:\n"})
	k.pack("systemd", "", fixture.File{Path: "lib/systemd/systemd", Mode: 0o755, Content: "ELF systemd"}, fixture.File{Path: "usr/share/man/man1/systemd.1", Content: "left out"},
		fixture.File{Path: "lib/systemd/system/multi-user.target", Content: "[Unit]\n"})
	k.pack("systemd-boot-efi", "", fixture.File{Path: "usr/lib/systemd/boot/efi/linuxx64.efi.stub", Content: string(fixture.Stub(3))})
	modules := "lib/modules/" + release + "/"
	k.plan.Kernel = k.packageFile("linux-image", "",
		fixture.File{Path: "boot/vmlinuz-" + release, Content: string(fixture.Stub(1))},
		fixture.File{Path: modules + "kernel/fs/overlay.ko", Content: string(fixture.Module("depends="))},
		fixture.File{Path: modules + "kernel/fs/squashfs.ko", Content: string(fixture.Module("alias=fs-squashfs", "depends="))},
		fixture.File{Path: modules + "kernel/drivers/virtio_blk.ko", Content: string(fixture.Module("alias=virtio:d00000002v*", "depends=virtio_ring"))},
		fixture.File{Path: modules + "kernel/drivers/virtio_ring.ko", Content: string(fixture.Module("depends="))},
		fixture.File{Path: modules + "kernel/sound/snd.ko", Content: string(fixture.Module("depends="))},
		fixture.File{Path: modules + "modules.order", Content: "kernel/fs/squashfs.ko\n"},
		fixture.File{Path: modules + "modules.builtin", Content: "kernel/fs/ext4/ext4.ko\n"},
		fixture.File{Path: modules + "modules.builtin.modinfo", Content: "ext4.license=GPL\x00"},
	)
}

// pack adds a package to the plan.
func (k *kitchen) pack(name, fields string, files ...fixture.File) {
	k.plan.Packages = append(k.plan.Packages, k.packageFile(name, fields, files...))
}

func (k *kitchen) packageFile(name, fields string, files ...fixture.File) plan.Package {
	data := fixture.Deb("Package: "+name+"\nVersion: 1.0-1\nArchitecture: amd64\n"+fields, files...)
	p := plan.Package{Name: name, Version: "1.0-1", Arch: "amd64", Size: int64(len(data)), SHA256: fmt.Sprintf("%x", sha256.Sum256(data))}
	k.write(p.SHA256, data)
	return p
}

func (k *kitchen) write(name string, data []byte) string {
	k.t.Helper()
	path := filepath.Join(k.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		k.t.Fatal(err)
	}
	return path
}

// component is one of the plan's components: a binary that names itself, in /usr/bin, or in / for container images.
func (k *kitchen) component(_ context.Context, name string) (component.Component, error) {
	if k.missing[name] {
		return component.Component{}, fmt.Errorf("cannot build component %s", name)
	}
	data := []byte("ELF of " + name)
	for seed := sha256.Sum256(data); len(data) < 200<<10; seed = sha256.Sum256(seed[:]) {
		data = append(data, seed[:]...) // does not compress, as little of a real binary does
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	path := "/usr/bin/" + name
	if name == "pause" {
		path = "/pause"
	}
	return component.Component{Name: name, Version: "1.2.3", Arch: "amd64", Key: sum, Files: []component.File{
		{Path: path, Mode: 0o755, Source: k.write(name, data), SHA256: sum, Size: int64(len(data))},
		{Path: path + ".alias", Mode: 0o777, Link: name},
	}}, nil
}

func (k *kitchen) options() Options {
	k.steps, k.warned = nil, nil
	var mu sync.Mutex
	return Options{
		Plan: k.plan, Role: k.role, Component: k.component, Out: k.out, Cache: k.cache, Formats: k.formats, Origin: k.origin, Disk: k.disk,
		Package:  func(digest string) string { return filepath.Join(k.dir, digest) },
		Progress: func(s Step) { k.steps = append(k.steps, s) },
		Warn: func(text string) {
			mu.Lock()
			defer mu.Unlock()
			k.warned = append(k.warned, text)
		},
	}
}
