package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// flashes writes a worker's disk image to a loop device, with dd and with slipway flash in turn, and changes its node.
func flashes(work string) ([]row, error) {
	if os.Geteuid() != 0 {
		return []row{{"flash", "not measured: needs root", "slipway flash"}}, nil
	}
	images, stick, identity := filepath.Join(work, "disks"), filepath.Join(work, "stick"), filepath.Join(work, "flash-identity")
	if _, err := slipway("bake", "--role", "worker", "--format", "disk,disk.zst", "--out", images); err != nil {
		return nil, err
	}
	if _, err := slipway("identity", "--cluster", "lab", "--identity", identity); err != nil {
		return nil, err
	}
	if err := os.WriteFile(stick, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(stick, 4e9); err != nil {
		return nil, err
	}
	out, err := exec.Command("losetup", "--find", "--show", stick).Output()
	if err != nil {
		return nil, fmt.Errorf("cannot make a loop device: %w", err)
	}
	device := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "--detach", device).Run()
	return flashRows(images, device, []string{"--cluster", "lab", "--node", "worker-1", "--identity", identity, "--yes"})
}

func flashRows(images, device string, node []string) ([]row, error) {
	found, err := filepath.Glob(filepath.Join(images, "*.disk.raw"))
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("%d disk images: %w", len(found), err)
	}
	raw := found[0]
	started := time.Now()
	if out, err := exec.Command("dd", "if="+raw, "of="+device, "bs=4M", "conv=fsync").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("dd: %w: %s", err, out)
	}
	rows := []row{{"a worker's image (1.7 GB, 138 MB of it data) to a loop device, dd", seconds(time.Since(started)), "dd bs=4M conv=fsync"}}
	for _, f := range []struct {
		figure string
		args   []string
	}{
		{"the same, verified and read back", []string{"flash", raw, device}},
		{"the same, from the compressed image", []string{"flash", raw + ".zst", device}},
		{"another node on the same stick", []string{"flash", "--configure", device}},
	} {
		started := time.Now()
		out, err := slipway(append(append(f.args, "--output", "json"), node...)...)
		if err != nil {
			return rows, err
		}
		var result struct{ Seconds float64 }
		if err := json.Unmarshal(out, &result); err != nil {
			return rows, fmt.Errorf("cannot read the result of flash: %w", err)
		}
		if result.Seconds == 0 {
			result.Seconds = time.Since(started).Seconds()
		}
		rows = append(rows, row{f.figure, fmt.Sprintf("%.2f s", result.Seconds), "slipway " + strings.Join(f.args[:1], " ")})
	}
	return rows, nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
