package component

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// recipe changes whenever this package builds in another way, so that nothing built the old way is used.
const recipe = "slipway component 1"

// inputs is everything that a result depends on: what it is -> its value or the SHA-256 of its content.
type inputs map[string]string

// key is the digest of all inputs, in hex.
func (in inputs) key() string {
	sum := sha256.New()
	for _, what := range slices.Sorted(maps.Keys(in)) {
		fmt.Fprintf(sum, "%d:%s=%d:%s\n", len(what), what, len(in[what]), in[what])
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// gather collects the inputs of a component. Modules of others count through go.sum, which `go` itself checks.
func gather(ctx context.Context, spec Spec, t *toolchain) (inputs, error) {
	in := inputs{
		"recipe":              recipe,
		"arch":                t.arch,
		"cc":                  t.cVersion,
		"file component.yaml": digest(spec.text),
	}
	if t.sysroot != "" && t.cc != "" {
		in["libraries"] = filepath.Base(t.sysroot)
	}
	for name, value := range t.settings {
		in["go "+name] = value
	}
	for name, value := range t.archives {
		in["library "+name] = value
	}
	if spec.own() {
		return in, in.addFolder(spec.ModuleDir())
	}
	return in, in.addPackages(ctx, spec, t)
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// addFolder adds every file of a nested module but its tests.
func (in inputs) addFolder(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot read the module: %w", err)
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fmt.Errorf("cannot read the module: %w", err)
		case entry.IsDir() && (entry.Name() == "testdata" || hidden(name)):
			return fs.SkipDir
		case entry.IsDir() || hidden(name) || strings.HasSuffix(name, "_test.go"):
			return nil
		case !entry.Type().IsRegular():
			return fmt.Errorf("cannot read the module: %s is not a regular file", filepath.Join(dir, name))
		}
		content, err := root.ReadFile(name)
		if err != nil {
			return fmt.Errorf("cannot read the module: %w", err)
		}
		in["file "+name] = digest(content)
		return nil
	})
}

func hidden(name string) bool { return name != "." && strings.HasPrefix(path.Base(name), ".") }

// listed is what is read of `go list -deps -json`.
type listed struct {
	ImportPath string
	Dir        string
	Standard   bool
	Module     *struct {
		Path, Version string
		Main          bool
		Dir           string
		Replace       *struct{ Path, Version string }
	}
	GoFiles, CgoFiles, CFiles, HFiles, SFiles, SysoFiles, EmbedFiles []string
}

// addPackages adds the files of the packages that the builds need, for a module that holds more than them (the one of
// this product), and the versions and sums of the modules they come from.
func (in inputs) addPackages(ctx context.Context, spec Spec, t *toolchain) error {
	sums, err := moduleSums(filepath.Join(spec.ModuleDir(), "go.sum"))
	if err != nil {
		return err
	}
	for _, b := range spec.Builds {
		command := t.command(ctx, spec.ModuleDir(), t.goTool, "list", "-deps", "-tags="+strings.Join(b.Tags, ","),
			"-json=ImportPath,Dir,Standard,Module,GoFiles,CgoFiles,CFiles,HFiles,SFiles,SysoFiles,EmbedFiles", "--", b.Package)
		command.Env = append(command.Env, b.cgoSetting())
		list, err := said(ctx, command)
		if err != nil {
			return fmt.Errorf("cannot list what %s needs: %w", b.Package, err)
		}
		for decoder := json.NewDecoder(bytes.NewReader(list)); ; {
			var p listed
			if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return fmt.Errorf("cannot list what %s needs: %w", b.Package, err)
			}
			if err := in.addPackage(p, sums); err != nil {
				return err
			}
		}
	}
	return nil
}

func (in inputs) addPackage(p listed, sums map[string]string) error {
	if p.Standard || p.Module == nil {
		return nil // part of the Go release, which is an input by its version
	}
	if !p.Module.Main {
		id := p.Module.Path + " " + p.Module.Version
		if p.Module.Replace != nil {
			id = p.Module.Replace.Path + " " + p.Module.Replace.Version
		}
		in["module "+id] = sums[id]
		return nil
	}
	for _, name := range slices.Concat(p.GoFiles, p.CgoFiles, p.CFiles, p.HFiles, p.SFiles, p.SysoFiles, p.EmbedFiles) {
		sum, err := fileDigest(filepath.Join(p.Dir, name))
		if err != nil {
			return fmt.Errorf("cannot read a source of %s: %w", p.ImportPath, err)
		}
		in["file "+path.Join(p.ImportPath, filepath.ToSlash(name))] = sum
	}
	return nil
}

// moduleSums reads go.sum: "path version" -> sum. A module without dependencies has no go.sum.
func moduleSums(name string) (map[string]string, error) {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read module sums: %w", err)
	}
	defer file.Close()
	sums := map[string]string{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if words := strings.Fields(lines.Text()); len(words) == 3 {
			sums[words[0]+" "+words[1]] = words[2]
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("cannot read module sums: %w", err)
	}
	return sums, nil
}

// refuseLocalReplacements refuses a go.mod that takes a module from a folder: no sum vouches for what lies there.
func refuseLocalReplacements(ctx context.Context, spec Spec, t *toolchain) error {
	text, err := t.run(ctx, spec.ModuleDir(), "mod", "edit", "-json")
	if err != nil {
		return fmt.Errorf("cannot read go.mod: %w", err)
	}
	var mod struct {
		Replace []struct {
			Old, New struct{ Path, Version string }
		}
	}
	if err := json.Unmarshal(text, &mod); err != nil {
		return fmt.Errorf("cannot read go.mod: %w", err)
	}
	for _, r := range mod.Replace {
		if r.New.Version == "" {
			return fmt.Errorf("%s replaces %s by the folder %s: a component's modules must be pinned by go.sum",
				filepath.Join(spec.ModuleDir(), "go.mod"), r.Old.Path, r.New.Path)
		}
	}
	return nil
}
