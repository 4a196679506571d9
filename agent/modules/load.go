package modules

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Loader loads modules of one index, each at most once.
type Loader struct {
	index  *Index
	insert func(file string) error
	log    *slog.Logger
	done   map[string]bool
	asked  map[string]bool // modaliases looked up
	names  []string
}

// NewLoader loads from dir (/lib/modules/RELEASE).
func NewLoader(dir string, log *slog.Logger) (*Loader, error) {
	x, err := ReadIndex(os.DirFS(dir))
	if err != nil {
		return nil, err
	}
	return newLoader(x, func(file string) error { return insert(filepath.Join(dir, file)) }, log), nil
}

func newLoader(x *Index, insert func(string) error, log *slog.Logger) *Loader {
	return &Loader{index: x, insert: insert, log: log, done: map[string]bool{}, asked: map[string]bool{}}
}

// Loaded is the names of the modules that went into the kernel, in order.
func (l *Loader) Loaded() []string { return l.names }

// Load loads a module by name with what it depends on. A module that is built in or loaded already is no error; one that
// the index doesn't know is.
func (l *Loader) Load(name string) error {
	name = canonical(name)
	if l.done[name] || l.index.builtin[name] {
		return nil
	}
	file, ok := l.index.files[name]
	if !ok {
		return fmt.Errorf("cannot load kernel module %s: it is not in the modules folder", name)
	}
	l.done[name] = true
	l.loadSoft(l.index.soft[name].pre)
	for _, d := range l.index.deps[name] {
		if err := l.Load(d); err != nil {
			return fmt.Errorf("%s needs %s: %w", name, d, err)
		}
	}
	err := l.insert(file)
	switch {
	case errors.Is(err, unix.EEXIST): // loaded by somebody else
	case err != nil:
		return fmt.Errorf("cannot load kernel module %s: %w", name, err)
	default:
		l.names = append(l.names, name)
	}
	l.loadSoft(l.index.soft[name].post)
	return nil
}

// loadSoft loads what would be good to have: modules, or all that have such an alias, as kmod does. ext4's crypto-crc32c is
// one, and without a module of it ext4 can't be mounted.
func (l *Loader) loadSoft(names []string) {
	for _, n := range names {
		modules := []string{n}
		if found := l.index.Lookup(n); len(found) > 0 && l.index.files[canonical(n)] == "" {
			modules = found
		}
		for _, m := range modules {
			if err := l.Load(m); err != nil {
				l.log.Debug("soft dependency left out", "module", m, "cause", err)
			}
		}
	}
}

// Coldplug loads the modules of all devices below sys (/sys/devices), and of the devices that appear through them. A
// driver that finds its device unusable is not an error of the boot: it is logged.
func (l *Loader) Coldplug(sys string) error {
	for range 8 { // a bus behind a bus behind a bus: PCI, virtio, its device
		fresh, err := l.modaliases(sys)
		if err != nil {
			return fmt.Errorf("cannot look for devices: %w", err)
		}
		if len(fresh) == 0 {
			return nil
		}
		for _, m := range fresh {
			for _, name := range l.index.Lookup(m) {
				if err := l.Load(name); err != nil {
					l.log.Warn("no driver for a device", "device", m, "cause", err)
				}
			}
		}
	}
	return nil
}

// modaliases is those that were not seen before.
func (l *Loader) modaliases(sys string) ([]string, error) {
	var fresh []string
	err := filepath.WalkDir(sys, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if path == sys {
				return err
			}
			return nil // devices come and go
		}
		if d.Name() != "modalias" || !d.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		if m := string(bytes.TrimSpace(data)); err == nil && m != "" && !l.asked[m] {
			l.asked[m] = true
			fresh = append(fresh, m)
		}
		return nil
	})
	return fresh, err
}

// moduleInitCompressedFile is MODULE_INIT_COMPRESSED_FILE of linux/module.h: the kernel unpacks the file itself.
const moduleInitCompressedFile = 4

func insert(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(file, ".ko") {
		flags = moduleInitCompressedFile
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil {
		return &os.PathError{Op: "finit_module", Path: file, Err: err}
	}
	return nil
}
