// Command figures measures what docs/figures.md keeps, and prints it as that page's table: bakes from warm caches and
// after one changed file, sizes, flashing, memory, and the way from power on to Ready. It is not a test: it judges nothing.
//
// It wants bin/slipway built, and root for racks (without it they are left out). Arguments name what is measured (mkosi, dhcp,
// rack); without any, all is. SLIPWAY_ARTIFACTS names a folder of baked images, which are baked here otherwise.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	if err := measure(); err != nil {
		fmt.Fprintln(os.Stderr, "figures:", err)
		os.Exit(1)
	}
}

// row is one line of the table.
type row struct{ figure, value, command string }

func measure() error {
	work, err := os.MkdirTemp("", "slipway-figures-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	images := filepath.Join(work, "images")
	bake := []string{"bake", "--role", "control-plane,worker", "--out", images}
	if given := os.Getenv("SLIPWAY_ARTIFACTS"); given != "" {
		images = given
	} else if _, err := slipway(bake...); err != nil { // fills the caches
		return err
	}
	var rows []row
	for _, m := range []struct {
		name    string
		measure func() ([]row, error)
	}{
		{"warm", func() ([]row, error) { return warm(bake) }},
		{"changed", func() ([]row, error) { return changed(work) }},
		{"formats", func() ([]row, error) { return formats(work) }},
		{"sizes", func() ([]row, error) { return sizes(images) }},
		{"mkosi", func() ([]row, error) { return mkosi(work) }},
		{"flash", func() ([]row, error) { return flashes(work) }},
		{"thousand", thousand},
		{"dhcp", func() ([]row, error) { return dhcp(work, images) }},
		{"rack", func() ([]row, error) { return rack(work, images) }},
	} {
		if only := os.Args[1:]; len(only) > 0 && !slices.Contains(only, m.name) {
			continue
		}
		more, err := m.measure()
		rows = append(rows, more...)
		if err != nil {
			table(rows) // what was measured until then is worth having
			return err
		}
	}
	table(rows)
	return nil
}

func table(rows []row) {
	machine, date := machineText(), time.Now().UTC().Format(time.DateOnly)
	fmt.Println("| figure | value | command | machine | date |\n|---|---|---|---|---|")
	for _, r := range rows {
		fmt.Printf("| %s | %s | `%s` | %s | %s |\n", r.figure, r.value, r.command, machine, date)
	}
}

// slipway runs the built program and returns its standard output.
func slipway(args ...string) ([]byte, error) {
	var out, words bytes.Buffer
	cmd := exec.Command("bin/slipway", args...)
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("slipway %s: %w\n%s", strings.Join(args, " "), err, words.String())
	}
	return out.Bytes(), nil
}

func timed(args ...string) (string, error) {
	started := time.Now()
	_, err := slipway(args...)
	return fmt.Sprintf("%.1f s", time.Since(started).Seconds()), err
}

// warm bakes both roles again with everything in the caches.
func warm(bake []string) ([]row, error) {
	value, err := timed(bake...)
	return []row{{"both roles, everything cached", value, "slipway bake --role control-plane,worker"}}, err
}

// changed bakes a role of which one file was changed, and both when the bake's own results are gone but packages,
// layers and components are cached.
func changed(work string) ([]row, error) {
	roles := filepath.Join(work, "roles")
	if err := os.CopyFS(roles, os.DirFS("profiles/role/roles")); err != nil {
		return nil, err
	}
	var rows []row
	for _, c := range []struct{ figure, file, roles string }{
		{"worker, after one changed file of the role", "worker/files/usr/lib/systemd/system/slipway-worker.target", "worker"},
		{"both roles, after one changed file that both have", "node/files/usr/lib/systemd/system/kubelet.service", "control-plane,worker"},
	} {
		f, err := os.OpenFile(filepath.Join(roles, c.file), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(f, "# changed %d\n", time.Now().UnixNano())
		if err := f.Close(); err != nil {
			return nil, err
		}
		value, err := timed("bake", "--roles", roles, "--role", c.roles, "--out", filepath.Join(work, "changed"))
		if err != nil {
			return nil, err
		}
		rows = append(rows, row{c.figure, value, "slipway bake --role " + c.roles})
	}
	return rows, nil
}

// formats bakes both roles in every form, from warm caches.
func formats(work string) ([]row, error) {
	const all = "netboot,disk,disk.zst,disk.qcow2,disk-4k,disk-4k.zst,disk-4k.qcow2,iso,iso.zst,iso.qcow2"
	value, err := timed("bake", "--role", "control-plane,worker", "--format", all, "--out", filepath.Join(work, "all"))
	return []row{{"both roles in all formats, from warm caches", value, "slipway bake --format " + all}}, errors.Join(err, os.RemoveAll(filepath.Join(work, "all")))
}

// sizes are those of the artifacts that travel.
func sizes(images string) ([]row, error) {
	var rows []row
	for _, ext := range []string{"efi", "root"} {
		files, err := filepath.Glob(filepath.Join(images, "*."+ext))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				return nil, err
			}
			rows = append(rows, row{filepath.Base(f), fmt.Sprintf("%.1f MB", float64(info.Size())/1e6), "slipway bake"})
		}
	}
	return rows, nil
}

// result is what `slipway rack up --output json` says.
type result struct {
	Nodes []struct {
		Node   string
		Events []struct {
			Event   string
			Seconds float64
		}
	}
	Memory []struct {
		Node                 string
		Given, Working, Host int64
	}
}

func rack(work, images string) ([]row, error) {
	if os.Geteuid() != 0 {
		return []row{{"power on to Ready", "not measured: needs root", "slipway rack up"}}, nil
	}
	identity := filepath.Join(work, "identity")
	if _, err := slipway("identity", "--cluster", "lab", "--identity", identity); err != nil {
		return nil, err
	}
	out, err := slipway("rack", "up", "--cluster", "lab", "--artifacts", images, "--identity", identity, "--output", "json")
	if err != nil {
		return nil, err
	}
	var r result
	if err := json.Unmarshal(out, &r); err != nil {
		return nil, fmt.Errorf("cannot read the rack's result: %w", err)
	}
	return rackRows(r), nil
}

func rackRows(r result) []row {
	const command = "slipway rack up --cluster lab"
	var rows []row
	for _, n := range r.Nodes {
		before, at := "power on", 0.0
		for _, e := range n.Events {
			if e.Event != "power on" {
				rows = append(rows, row{n.Node + ": " + before + " to " + e.Event, fmt.Sprintf("%.1f s", e.Seconds-at), command})
			}
			before, at = e.Event, e.Seconds
		}
		rows = append(rows, row{n.Node + ": power on to " + before, fmt.Sprintf("%.1f s", at), command})
	}
	for _, m := range r.Memory {
		rows = append(rows, row{m.Node + ": memory in use", fmt.Sprintf("%d of %d MiB", m.Working>>20, m.Given>>20), command})
	}
	return rows
}

// machineText is the processor, how many of it, and whether virtual machines are emulated.
func machineText() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	model, count, kvm := "unknown processor", 0, false
	for line := range strings.Lines(string(info)) {
		name, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "processor":
			count++
		case "model name":
			model = strings.TrimSpace(value)
		case "flags":
			kvm = strings.Contains(value, " svm") || strings.Contains(value, " vmx")
		}
	}
	if kvm {
		return fmt.Sprintf("%d x %s", count, model)
	}
	return fmt.Sprintf("%d x %s, QEMU without KVM", count, model)
}
