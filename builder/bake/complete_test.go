package bake

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/complete"
	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/role"
)

// spoil has two packages refer to what nobody brings, and a module that lacks firmware.
func (k *kitchen) spoil() {
	k.pack("one", "", fixture.File{Path: "usr/bin/one", Mode: 0o755, Content: "#!/bin/sh\n"})
	k.pack("two", "", fixture.File{Path: "usr/lib/systemd/system/two.service", Content: "[Service]\nExecStart=/usr/bin/twod\n"},
		fixture.File{Path: "lib/modules/" + release + "/kernel/drivers/nic.ko", Content: string(fixture.Module("depends=", "firmware=nic.fw"))})
}

// TestIncompleteImage: nothing is packed or written, and all that is missing is told at once.
func TestIncompleteImage(t *testing.T) {
	k := newKitchen(t)
	k.spoil()
	_, err := Bake(context.Background(), k.options())
	var faults complete.Faults
	if !errors.As(err, &faults) || len(faults) != 3 {
		t.Fatalf("want three faults: %v", err)
	}
	for _, want := range []string{
		"cannot bake role worker: the image is not complete, 3 things are missing or wrong:\n",
		"\n  /usr/bin/one (package one): is a script for /bin/sh, which is not in the image\n",
		"\n  /usr/lib/systemd/system/two.service (package two): ExecStart= runs /usr/bin/twod, which is not in the image\n",
		"\n  /usr/lib/modules/" + release + "/kernel/drivers/nic.ko (kernel module nic): may ask for nic.fw, which is not in the image\n",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant %q", err, want)
		}
	}
	if left, err := os.ReadDir(k.out); err != nil || len(left) > 0 {
		t.Errorf("left behind in the output folder: %v, %v", left, err)
	}
	if slices.ContainsFunc(k.steps, func(s Step) bool { return strings.HasPrefix(s.Name, "pack ") }) {
		t.Errorf("packed all the same: %v", k.steps)
	}
}

// TestAllowedToBeAbsent: with reasons the image is baked, and the reasons lie beside it.
func TestAllowedToBeAbsent(t *testing.T) {
	k := newKitchen(t)
	k.spoil()
	k.plan.Absent = []plan.Absence{{From: "usr/bin/one", To: []string{"/bin/sh"}, Reason: "nobody calls it", By: "definition.yaml, absent[0]"}}
	k.plan.Firmware = []plan.Firmware{{Modules: []string{"nic"}, Reason: "works without"}}
	k.role.Absent = []role.Absence{{From: "usr/lib/systemd/system/two.service", To: []string{"/usr/bin/twod"}, Reason: "nothing starts it"}}
	m := k.bake()
	if err := m.VerifyFolder(k.out); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(filepath.Join(k.out, base+bootspec.ExtProof))
	if err != nil {
		t.Fatal(err)
	}
	var proof struct {
		Kind, Image, Root string
		Proven            map[string]int
		Absent            []complete.Reference
	}
	if err := json.Unmarshal(text, &proof); err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, a := range proof.Absent {
		reasons = append(reasons, a.To+": "+a.Reason)
	}
	if got := strings.Join(reasons, ", "); got != "/bin/sh: nobody calls it, nic.fw: works without, /usr/bin/twod: nothing starts it" {
		t.Errorf("absent: %s", got)
	}
	if proof.Kind != "Proof" || proof.Image != base || proof.Root != m.Root.Hash || proof.Proven["programs"] != 1 || proof.Proven["processors"] == 0 {
		t.Errorf("the proof says %+v", proof)
	}

	k.role.Files = k.role.Files[:len(k.role.Files)-1]
	k.plan.Packages = slices.DeleteFunc(k.plan.Packages, func(p plan.Package) bool { return p.Name == "one" })
	if _, err := Bake(context.Background(), k.options()); err == nil ||
		!strings.Contains(err.Error(), "/usr/bin/one: is allowed (definition.yaml, absent[0]) to lack /bin/sh, which it doesn't refer to") {
		t.Errorf("an absence that nothing needs any more: %v", err)
	}
}

// TestProve proves, tells what it proved, and writes nothing.
func TestProve(t *testing.T) {
	k := newKitchen(t)
	proof, err := Prove(context.Background(), k.options())
	if err != nil || proof.Count() == 0 {
		t.Fatalf("%+v, %v", proof, err)
	}
	k.spoil()
	if _, err := Prove(context.Background(), k.options()); err == nil || !strings.Contains(err.Error(), "runs /usr/bin/twod") {
		t.Errorf("something is missing: %v", err)
	}
	if _, err := os.Stat(k.out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it made the output folder: %v", err)
	}
}

// TestDamageIsNotMissing: what is damaged in the cache is made anew, and not taken for what it seems to say.
func TestDamageIsNotMissing(t *testing.T) {
	k := newKitchen(t)
	k.pack("script", "", fixture.File{Path: "usr/bin/script", Mode: 0o755, Content: "#!/usr/lib/systemd/systemd\n"})
	want := k.bake()
	layers, err := filepath.Glob(filepath.Join(k.cache, "layers", "*.data"))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		data, err := os.ReadFile(l)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(l, []byte(strings.Replace(string(data), "#!/usr/lib/systemd/systemd\n", "#!/usr/lib/systemd/system9\n", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if m := k.bake(); m.Root != want.Root {
		t.Errorf("root image %+v, was %+v", m.Root, want.Root)
	}
	if !slices.Contains(k.steps, Step{Name: "look for damage in the cache"}) {
		t.Error("the damage was not noticed")
	}
}
