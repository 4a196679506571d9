package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// mkosi bakes a worker's root image with Debian's mkosi, of the same packages and with the same other files, and compares. Both
// have the packages on disk already, and each runs as it has to: mkosi as root.
func mkosi(work string) ([]row, error) {
	const figure = "a worker's root image, mkosi / slipway"
	if _, err := exec.LookPath("mkosi"); err != nil || os.Geteuid() != 0 {
		return []row{{figure, "not measured: needs root and Debian's packages mkosi, debootstrap, systemd-container", "mkosi"}}, nil
	}
	ours := filepath.Join(work, "ours")
	mine, err := bakeFromPackages(work, ours)
	if err != nil {
		return nil, err
	}
	m := &mkosiBake{dir: filepath.Join(work, "mkosi")}
	if err := m.prepare(ours); err != nil {
		return nil, err
	}
	if _, err := m.run(); err != nil { // fetches the packages
		return nil, err
	}
	theirs, err := m.run()
	if err != nil {
		return nil, err
	}
	rows := compared(figure, theirs, mine)
	if theirs, err = m.again(); err != nil {
		return rows, err
	}
	if mine, err = bakeAgain(work, ours); err != nil {
		return rows, err
	}
	return append(rows, compared(figure+" after one changed unit", theirs, mine)[:2]...), nil
}

// changedUnit is the unit that is another one in the second image.
const changedUnit = "usr/lib/systemd/system/slipway-worker.target"

// again makes the image after a change. mkosi keeps packages only: its --incremental doesn't know squashfs.
func (m *mkosiBake) again() (effort, error) {
	if err := appendTo(filepath.Join(m.dir, "extra", changedUnit), "# changed\n"); err != nil {
		return effort{}, err
	}
	return m.run()
}

// bakeAgain bakes the worker after the same change.
func bakeAgain(work, out string) (effort, error) {
	roles := filepath.Join(work, "roles-changed")
	if err := os.CopyFS(roles, os.DirFS("profiles/role/roles")); err != nil {
		return effort{}, err
	}
	if err := appendTo(filepath.Join(roles, "worker/files", changedUnit), "# changed\n"); err != nil {
		return effort{}, err
	}
	cmd := exec.Command("bin/slipway", "bake", "--roles", roles, "--role", "worker", "--out", out)
	cmd.Env = append(os.Environ(), "SLIPWAY_CACHE="+filepath.Join(work, "fresh-cache"))
	return measured(cmd)
}

func appendTo(file, text string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// effort is what making an image took: time, time of processors, the most memory of one of its processes; and the image's size.
type effort struct {
	took   time.Duration
	work   time.Duration
	memory int64 // bytes
	size   int64 // bytes
}

func compared(figure string, theirs, ours effort) []row {
	line := func(what string, a, b float64, unit string) row {
		return row{figure + ": " + what, fmt.Sprintf("%.1f / %.1f %s, %.1f times", a, b, unit, a/b), "mkosi build, slipway bake"}
	}
	return []row{
		line("time from packages and components that are on disk", theirs.took.Seconds(), ours.took.Seconds(), "s"),
		line("the same, processor time", theirs.work.Seconds(), ours.work.Seconds(), "s"),
		line("memory, its largest process", float64(theirs.memory)/1e6, float64(ours.memory)/1e6, "MB"),
		line("size (mkosi: squashfs; slipway: that, with verity)", float64(theirs.size)/1e6, float64(ours.size)/1e6, "MB"),
	}
}

// measured runs a command and tells what it took. The kernel counts the memory of what it starts too.
func measured(cmd *exec.Cmd) (effort, error) {
	var words strings.Builder
	cmd.Stdout, cmd.Stderr = &words, &words
	started := time.Now()
	if err := cmd.Run(); err != nil {
		said := words.String()
		return effort{}, fmt.Errorf("%s: %w\n%s", cmd.Args[0], err, said[max(0, len(said)-2000):])
	}
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return effort{took: time.Since(started), work: time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), memory: usage.Maxrss << 10}, nil
}

// bakeFromPackages bakes a worker with a cache that has nothing but downloads and components, without root.
func bakeFromPackages(work, out string) (effort, error) {
	cache := os.Getenv("SLIPWAY_CACHE")
	if cache == "" {
		home, err := os.UserCacheDir()
		if err != nil {
			return effort{}, err
		}
		cache = filepath.Join(home, "slipway")
	}
	fresh := filepath.Join(work, "fresh-cache")
	if err := os.Mkdir(fresh, 0o755); err != nil {
		return effort{}, err
	}
	for _, part := range []string{"packages", "components"} {
		if err := os.Symlink(filepath.Join(cache, part), filepath.Join(fresh, part)); err != nil {
			return effort{}, err
		}
	}
	cmd := exec.Command("bin/slipway", "bake", "--role", "worker", "--out", out)
	cmd.Env = append(os.Environ(), "SLIPWAY_CACHE="+fresh)
	e, err := measured(cmd)
	if err != nil {
		return e, err
	}
	e.size, err = sizeOf(filepath.Join(out, "*.root"))
	return e, err
}

func sizeOf(pattern string) (int64, error) {
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		return 0, fmt.Errorf("%d files %s: %w", len(found), pattern, err)
	}
	info, err := os.Stat(found[0])
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// mkosiBake is a folder with mkosi's configuration and the files that don't come from packages.
type mkosiBake struct{ dir string }

// prepare writes the configuration: the packages of an image of ours by name, and what else is in it as an extra tree.
func (m *mkosiBake) prepare(ours string) error {
	mirror, err := aptMirror("/etc/apt")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(m.dir, "cache"), 0o755); err != nil {
		return err
	}
	names, err := packageNames(ours)
	if err != nil {
		return err
	}
	if err := m.extraTree(ours); err != nil {
		return err
	}
	config := fmt.Sprintf(`[Distribution]
Distribution=debian
Release=trixie
Mirror=%s
[Output]
Format=plain_squashfs
Bootable=no
Compress=zstd
Output=image.raw
[Packages]
Packages=%s
ExtraTrees=extra
[Host]
NspawnKeepUnit=yes
`, mirror, strings.Join(names, ","))
	return os.WriteFile(filepath.Join(m.dir, "mkosi.conf"), []byte(config), 0o644)
}

// run makes the image again. systemd-nspawn, which mkosi runs, refuses a /run that isn't in memory: it gets a place that is.
func (m *mkosiBake) run() (effort, error) {
	const nspawn = "/run/systemd/nspawn"
	if err := os.MkdirAll(nspawn, 0o755); err != nil {
		return effort{}, err
	}
	cmd := exec.Command("unshare", "--mount", "sh", "-ec", "mount -t tmpfs none "+nspawn+"; exec mkosi --cache cache --force build")
	cmd.Dir = m.dir
	e, err := measured(cmd)
	if err != nil {
		return e, err
	}
	e.size, err = sizeOf(filepath.Join(m.dir, "image.raw"))
	return e, err
}

// aptMirror is where this machine's apt takes Debian from.
func aptMirror(apt string) (string, error) {
	files, err := filepath.Glob(filepath.Join(apt, "sources.list*"))
	if err != nil {
		return "", err
	}
	more, err := filepath.Glob(filepath.Join(apt, "sources.list.d", "*"))
	if err != nil {
		return "", err
	}
	for _, file := range append(files, more...) {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // a folder
		}
		for word := range strings.FieldsSeq(string(text)) {
			if address := strings.TrimSuffix(word, "/"); strings.HasPrefix(address, "http") && strings.HasSuffix(address, "/debian") {
				return address, nil
			}
		}
	}
	return "", fmt.Errorf("there is no Debian in the sources of %s", apt)
}

// packageNames are the packages in a worker's image, from its manifest.
func packageNames(images string) ([]string, error) {
	var m struct{ Packages []struct{ Name string } }
	if err := decode(filepath.Join(images, "*[0-9a-z].json"), &m); err != nil {
		return nil, err
	}
	var names []string
	for _, p := range m.Packages {
		if strings.HasPrefix(p.Name, "linux-image-") { // a mirror has the newest only
			p.Name = "linux-image-" + runtime.GOARCH
		}
		names = append(names, p.Name)
	}
	return names, nil
}

// decode reads the only file of a pattern; those whose name has a second ending don't count.
func decode(pattern string, into any) error {
	found, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	for _, f := range found {
		if strings.HasSuffix(f, ".files.json") != strings.HasSuffix(pattern, ".files.json") || strings.HasSuffix(f, ".spdx.json") {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		return json.Unmarshal(text, into)
	}
	return fmt.Errorf("there is no file %s", pattern)
}

// extraTree unpacks an image of ours and leaves what no package has brought.
func (m *mkosiBake) extraTree(ours string) error {
	tree := filepath.Join(m.dir, "extra")
	found, err := filepath.Glob(filepath.Join(ours, "*.root"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("%d root images: %w", len(found), err)
	}
	if out, err := exec.Command("unsquashfs", "-quiet", "-no-progress", "-dest", tree, found[0]).CombinedOutput(); err != nil {
		return fmt.Errorf("unsquashfs: %w: %s", err, out)
	}
	var list struct {
		Root []struct{ Path, Type, Origin string }
	}
	if err := decode(filepath.Join(ours, "*.files.json"), &list); err != nil {
		return err
	}
	for i := len(list.Root) - 1; i >= 0; i-- { // what is in a folder before the folder
		e := list.Root[i]
		if !strings.HasPrefix(e.Origin, "component ") && !strings.HasPrefix(e.Origin, "container image ") && !strings.HasPrefix(e.Origin, "role ") {
			os.Remove(filepath.Join(tree, e.Path)) // a folder that still holds something stays
		}
	}
	return nil
}
