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
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/archive"
	"github.com/slipway-os/slipway/builder/component"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/builder/rootfs"
	"github.com/slipway-os/slipway/profiles/role"
)

const images = "../../images"

// shippedTree is the root tree of a shipped role, from the shipped definition and lock. It is made only from what the
// user's cache holds already, but for the agent, which is compiled when it changed.
func shippedTree(t *testing.T, name string) *rootfs.Tree {
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
	defer b.end()
	for _, verb := range []func() error{b.buildComponents, b.unpackPackages, b.assembleRoot, b.indexModules, b.finishRoot} {
		if err := verb(); err != nil {
			if ctx.Err() != nil {
				t.Skipf("component %s is not in the cache; a bake puts it there", missing)
			}
			t.Fatal(err)
		}
	}
	return b.tree
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
		tree := shippedTree(t, name)
		programs := binaries(t, tree)
		foreign := controlPlane(programs)
		if name == "worker" && len(foreign) > 0 {
			t.Errorf("a worker's image holds parts of the control plane: %v", foreign)
		}
		if name == "control-plane" && len(foreign) < 4 {
			t.Errorf("a control plane's image holds only %v: this test would find nothing in a worker's", foreign)
		}
		for p, data := range programs {
			for _, l := range missingLibraries(t, tree, p, data) {
				t.Errorf("%s: %s needs %s, which is not there", name, p, l)
			}
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

// missingLibraries is what a binary is linked to and the tree does not have, its interpreter too.
func missingLibraries(t *testing.T, tree *rootfs.Tree, p string, data []byte) []string {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("%s: %v", p, err)
	}
	var missing []string
	for _, part := range f.Progs {
		if part.Type != elf.PT_INTERP {
			continue
		}
		interpreter := make([]byte, part.Filesz)
		if _, err := part.ReadAt(interpreter, 0); err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		if name := strings.Trim(string(interpreter), "/\x00"); !inAny(tree, name, "") {
			missing = append(missing, name)
		}
	}
	libraries, err := f.ImportedLibraries()
	if err != nil {
		t.Fatalf("%s: %v", p, err)
	}
	for _, l := range libraries {
		if !inAny(tree, l, "usr/lib/x86_64-linux-gnu", "usr/lib", "usr/lib64", "usr/lib/systemd", "usr/lib/x86_64-linux-gnu/systemd", path.Dir(p)) {
			missing = append(missing, l)
		}
	}
	return missing
}

func inAny(tree *rootfs.Tree, name string, folders ...string) bool {
	for _, f := range folders {
		if _, ok := tree.Resolve(path.Join(f, name)); ok {
			return true
		}
	}
	return false
}
