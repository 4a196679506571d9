package pipelines

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// page is the page that pipelines' people read.
const page = repository + "/docs/pipelines.md"

// script takes the script out of the page: the indented lines from #!/bin/sh on.
func script(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const indent = "    "
	_, rest, ok := strings.Cut(string(text), "\n"+indent+"#!/bin/sh\n")
	if !ok {
		t.Fatalf("%s has no script", page)
	}
	var b strings.Builder
	b.WriteString("#!/bin/sh\n")
	for line := range strings.Lines(rest) {
		line, ok := strings.CutPrefix(line, indent)
		if !ok {
			break
		}
		b.WriteString(line)
	}
	return b.String()
}

// TestThePagesScript runs the script as it stands on the page, in a checkout, with both roles of the shipped definition.
func TestThePagesScript(t *testing.T) {
	program := build(t)
	cache := userCache(t, program, "worker", "control-plane")
	text := script(t)
	for _, command := range []string{"lock --check", "bake", "verify", "sign", "publish ", "pull", "publish move", "publish prune"} {
		if !strings.Contains(text, "\nslipway "+command) {
			t.Errorf("the script has no `slipway %s`", command)
		}
	}
	dir, bin := unpack(t, checkout(t, 0, 1)), filepath.Dir(program)
	file := filepath.Join(t.TempDir(), "run.sh")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	slipway := func(args ...string) *exec.Cmd {
		c := exec.Command(filepath.Join(bin, "slipway"), args...)
		c.Dir, c.Env = dir, append(os.Environ(), "SLIPWAY_CACHE="+filepath.Join(dir, ".cache"), "SLIPWAY_TRUST="+filepath.Join(dir, "key.pub"))
		return c
	}
	if err := os.Rename(linkCache(t, cache), filepath.Join(dir, ".cache")); err != nil {
		t.Fatal(err)
	}
	run(t, slipway("keygen", "key", "--no-password"))
	place := filepath.Join(dir, "site")
	c := exec.Command("sh", file)
	c.Dir = dir
	c.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "SLIPWAY_CACHE="+filepath.Join(dir, ".cache"), "SLIPWAY_MIRROR=http://127.0.0.1:1/",
		"RUN=57", "PLACE="+place, "KEY=key.key", "TRUST=key.pub", "BUILDER=https://ci.example.com/slipway")
	said := run(t, c)
	for _, want := range []string{
		"slipway-worker-0.1.0+ci.57-amd64: baked again, and all ", "slipway-control-plane-0.1.0+ci.57-amd64: baked again, and all ",
		"channel candidate names 0.1.0+ci.57 now", "channel stable names 0.1.0+ci.57 now",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("it did not say %q:\n%s", want, said)
		}
	}
	run(t, slipway("inspect", "--verify", "images-57-pulled/slipway-worker-0.1.0+ci.57-amd64.json"))
	if list := run(t, slipway("publish", "list", place, "--output", "json")); !strings.Contains(list, `"stable": "0.1.0+ci.57"`) {
		t.Errorf("published: %s", list)
	}
	changed(t, filepath.Join(dir, "images-57-pulled", "slipway-worker-0.1.0+ci.57-amd64.efi"))
	out, err := slipway("verify", "images-57-pulled/slipway-worker-0.1.0+ci.57-amd64.efi", "--output", "json").CombinedOutput()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 8 {
		t.Errorf("verify of a changed file: %v", err)
	}
	for _, want := range []string{`"section .osrel"`, `"offset": 15`, `"given": "0x4e"`, `"again": "0x45"`, "baking again gives something else"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("verify of a changed file says no %s:\n%s", want, out)
		}
	}
}

// changed changes a byte of the os-release in a kernel image, whose first line is NAME=Slipway.
func changed(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(data), "NAME=Slipway\nPRETTY_NAME=")
	if at < 0 {
		t.Fatal("no os-release in the kernel image")
	}
	data[at+15] = 'N'
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
