package pipelines

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/builder/rebuild"
	"github.com/slipway-os/slipway/images/manifest"
)

const (
	formats = "netboot,disk,disk.zst,disk.qcow2,disk-4k,iso"
	image   = "slipway-worker-0.1.0-amd64"
)

// TestOtherConditionsGiveTheSameBytes bakes a role in all formats as anybody does, and once more under conditions where nothing
// is as it was: ten years later, as an ordinary user without any capability, in a container's bare root without /etc, network,
// loop devices and KVM, with one CPU, another umask, time zone, language, host name, folder, cache and order of directories. Of
// the cache only packages and components are shared; everything else is made anew, twice.
func TestOtherConditionsGiveTheSameBytes(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the image is one for amd64")
	}
	program := build(t)
	cache := userCache(t, program, "worker")
	plain := t.TempDir()
	here := exec.Command(program, "bake", "--role", "worker", "--out", plain, "--format", formats, "--cache", linkCache(t, cache))
	here.Dir, here.Env = unpack(t, checkout(t, 0, 9)), append(os.Environ(), "SLIPWAY_MIRROR=http://127.0.0.1:1/")
	var said bytes.Buffer
	here.Stdout, here.Stderr = &said, &said
	if err := here.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- here.Wait() }()
	t.Cleanup(func() { here.Process.Kill() })
	other := elsewhere(t, cache)
	if err := <-done; err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	same(t, plain, other)
}

// same compares two folders of an image by the manifest, byte by byte.
func same(t *testing.T, plain, other string) {
	t.Helper()
	var roots [2]*os.Root
	var manifests [2]*manifest.Manifest
	for i, dir := range []string{plain, other} {
		data, err := os.ReadFile(filepath.Join(dir, image+".json"))
		if err != nil {
			t.Fatal(err)
		}
		if manifests[i], err = manifest.Decode(data); err != nil {
			t.Fatal(err)
		}
		if roots[i], err = os.OpenRoot(dir); err != nil {
			t.Fatal(err)
		}
		defer roots[i].Close()
	}
	r, err := rebuild.Compare(t.Context(), roots[1], manifests[1], roots[0], manifests[0], nil, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range r.Artifacts {
		if !a.Same {
			t.Errorf("under other conditions %s differs: %s", a.Name, a.Difference)
		}
	}
	if !bytes.Equal(manifests[0].Encode(), manifests[1].Encode()) {
		t.Error("the manifests differ")
	}
	if len(r.Artifacts) < 15 {
		t.Errorf("only %d artifacts were compared", len(r.Artifacts))
	}
	a, b := listing(t, plain), listing(t, other)
	if !slices.Equal(a, b) {
		t.Errorf("files and modes:\n%q\n%q", a, b)
	}
}

func listing(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, info.Mode().String()+" "+e.Name())
	}
	return list
}

// later is how much later it is elsewhere, in seconds: ten years.
const later = 3653 * 24 * 3600

// laterClock gives the flag of `go build` that makes programs whose clock is wrong: their time.Now is another.
func laterClock(t *testing.T) string {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	original := filepath.Join(strings.TrimSpace(string(root)), "src/time/time.go")
	text, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	const start = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	changed := strings.Replace(string(text), start, start+"\tsec += "+strconv.Itoa(later)+"\n", 1)
	if changed == string(text) {
		t.Fatalf("%s has another time.Now than this test knows: change it here", original)
	}
	dir := t.TempDir()
	replaced, overlay := filepath.Join(dir, "time.go"), filepath.Join(dir, "overlay.json")
	list, err := json.Marshal(map[string]map[string]string{"Replace": {original: replaced}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{replaced: []byte(changed), overlay: list} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return "-overlay=" + overlay
}

// elsewhere bakes under other conditions and gives the folder of the artifacts.
func elsewhere(t *testing.T, cache string) string {
	t.Helper()
	overlay := laterClock(t)
	own, out, bin := linkCache(t, cache), t.TempDir(), t.TempDir()
	program := filepath.Join(bin, "slipway")
	if err := os.Rename(build(t, overlay), program); err != nil {
		t.Fatal(err)
	}
	clock := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(clock, []byte("package main\n\nimport \"time\"\n\nfunc main() { println(time.Now().Year()) }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, exec.Command("go", "build", overlay, "-o", filepath.Join(bin, "clock"), clock))
	if err := os.WriteFile(filepath.Join(bin, "checkout.tar"), checkout(t, 7, 9), 0o600); err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("testdata/elsewhere.sh")
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "sh", "-eu", script)
	c.Env = append(os.Environ(), "BIN="+bin, "CACHE="+own, "OUT="+out, "FORMATS="+formats, "WHERE="+t.TempDir(), "CPU="+strconv.Itoa(someCPU(t)))
	for name, variable := range map[string]string{"GOROOT": "GO", "GOMODCACHE": "MODULES"} {
		value, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		c.Env = append(c.Env, variable+"="+strings.TrimSpace(string(value)))
	}
	if os.Geteuid() != 0 { // then it is an ordinary user's bake anyway, and there is no way to make another root
		c.Args = append([]string{"sh", "-eu", script}, "plain")
		c.Path, err = exec.LookPath("sh")
		if err != nil {
			t.Fatal(err)
		}
	}
	said := run(t, c)
	conditions(t, said, os.Geteuid() == 0)
	return out
}

// someCPU is one that this process may run on.
func someCPU(t *testing.T) int {
	t.Helper()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	for i := range 1024 {
		if set.IsSet(i) {
			return i
		}
	}
	t.Fatal("no CPU")
	return 0
}

// conditions holds the bake's own account of where it was against what was wanted: a condition that isn't one shows nothing.
func conditions(t *testing.T, said string, root bool) {
	t.Helper()
	have := map[string]string{}
	for line := range strings.Lines(said) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			have[name] = value
		}
	}
	year := func(name string) int { n, _ := strconv.Atoi(have[name]); return n }
	if now := year("real-year"); now == 0 || year("go-year") < now+9 || year("c-year") < now+9 {
		t.Errorf("it is %s, to Go %s, and to other programs %s", have["real-year"], have["go-year"], have["c-year"])
	}
	want := map[string]string{"umask": "0077", "cpus": "1", "no-new-privs": "1"}
	if root {
		for name, value := range map[string]string{
			"uid": "65534", "capabilities": "0000000000000000", "bounding": "0000000000000000", "devices": "null random urandom zero",
			"etc": "", "network": "lo", "host": "elsewhere", "folder": "/somewhere/else",
		} {
			want[name] = value
		}
	}
	for name, value := range want {
		if have[name] != value {
			t.Errorf("%s is %q, not %q", name, have[name], value)
		}
	}
	if plain := exec.Command("ls", "-U", filepath.Join(repository, "images", "components")); root {
		out, err := plain.Output()
		if err != nil || strings.Join(strings.Fields(string(out)), " ") == have["order"] {
			t.Errorf("directories have the same order as here: %s (%v)", have["order"], err)
		}
	}
}
