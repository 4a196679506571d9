package component

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/bluekeyes/go-gitdiff/gitdiff"
)

// Patch changes a module that a component depends on: a unified diff whose paths are below the module's folder.
type Patch struct {
	Module string `yaml:"module"` // its path: github.com/coreos/ignition/v2
	File   string `yaml:"file"`   // the diff, a file in the component's module
}

func (p Patch) faults(where string, wrong complain) {
	if p.Module == "" || strings.HasPrefix(p.Module, "-") {
		wrong(where+".module", fmt.Sprintf("%q is not a module", p.Module), "its path, as in go.mod")
	}
	if p.File == "" || filepath.Base(p.File) != p.File || strings.HasPrefix(p.File, ".") {
		wrong(where+".file", fmt.Sprintf("%q is not the name of a file in the component's module", p.File), "like fewer-plugins.patch")
	}
}

// patchedFolder is where a build's copy of the module has the modules that are patched. Programs tell it (go version -m).
const patchedFolder = "patched"

// sources gives the folder to build in: the module's own, or, with patches, a copy of it in dir whose go.mod replaces the
// patched modules by patched copies. All paths in it are relative, so that programs don't tell where they were built.
func sources(ctx context.Context, spec Spec, t *toolchain, dir string) (string, error) {
	if len(spec.Patches) == 0 {
		return spec.ModuleDir(), nil
	}
	sums, err := moduleSums(filepath.Join(spec.ModuleDir(), "go.sum"))
	if err != nil {
		return "", err
	}
	copied := filepath.Join(dir, "source")
	if err := copyFolder(copied, spec.ModuleDir()); err != nil {
		return "", fmt.Errorf("cannot copy the module: %w", err)
	}
	for i, p := range spec.Patches {
		if err := patch(ctx, spec, t, copied, fmt.Sprintf("./%s/%d", patchedFolder, i), p, sums); err != nil {
			return "", fmt.Errorf("cannot patch %s by %s: %w", p.Module, p.File, err)
		}
	}
	return copied, nil
}

// patch copies a module into a folder of the module in dir, applies a diff, and has go.mod take it from there.
func patch(ctx context.Context, spec Spec, t *toolchain, dir, to string, p Patch, sums map[string]string) error {
	text, err := os.ReadFile(filepath.Join(spec.ModuleDir(), p.File))
	if err != nil {
		return err
	}
	files, _, err := gitdiff.Parse(bytes.NewReader(text))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("there is no change in it")
	}
	from, err := download(ctx, t, dir, p.Module, sums)
	if err != nil {
		return err
	}
	folder := filepath.Join(dir, to)
	if err := copyFolder(folder, from); err != nil {
		return err
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, f := range files {
		if err := apply(root, f); err != nil {
			return err
		}
	}
	_, err = t.run(ctx, dir, "mod", "edit", "-replace="+p.Module+"="+to)
	return err
}

// download gives the folder of a module whose content is what go.sum says.
func download(ctx context.Context, t *toolchain, dir, module string, sums map[string]string) (string, error) {
	said, err := t.run(ctx, dir, "mod", "download", "-json", module)
	if err != nil {
		return "", err
	}
	var m struct{ Path, Version, Dir, Sum string }
	if err := json.Unmarshal(said, &m); err != nil {
		return "", fmt.Errorf("cannot read what go mod download says: %w", err)
	}
	if want := sums[m.Path+" "+m.Version]; want == "" || want != m.Sum {
		return "", fmt.Errorf("go.sum has %q for %s %s, and what is there is %q", want, m.Path, m.Version, m.Sum)
	}
	return m.Dir, nil
}

// apply changes one file. Lines around a change must be as the diff has them.
func apply(root *os.Root, f *gitdiff.File) error {
	if f.IsNew || f.IsDelete || f.IsRename || f.IsCopy || f.IsBinary {
		return fmt.Errorf("%s: a patch can only change lines of a file", f.NewName)
	}
	name := f.NewName // in diffs that git didn't write, with the folder that diff was told
	if first, rest, ok := strings.Cut(name, "/"); ok && (first == "a" || first == "b") {
		name = rest
	}
	old, err := root.ReadFile(name)
	if err != nil {
		return err
	}
	var changed bytes.Buffer
	if err := gitdiff.Apply(&changed, bytes.NewReader(old), f); err != nil {
		return fmt.Errorf("%s: it is not the file that was patched: %w", name, err)
	}
	return root.WriteFile(name, changed.Bytes(), 0o644)
}

// copyFolder copies regular files and folders; tests and what is hidden stay behind. Files may be written to in the copy.
func copyFolder(to, from string) error {
	root, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case hidden(name) && entry.IsDir():
			return fs.SkipDir
		case hidden(name) || strings.HasSuffix(name, "_test.go"):
			return nil
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		case !entry.Type().IsRegular():
			return fmt.Errorf("%s is not a regular file", name)
		}
		data, err := root.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), data, 0o644)
	})
}
