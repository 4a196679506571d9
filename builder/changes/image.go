package changes

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/inventory"
	"github.com/slipway-os/slipway/builder/release"
	"github.com/slipway-os/slipway/builder/sbom"
	"github.com/slipway-os/slipway/images/manifest"
)

// ErrWhich is what errors about a folder wrap that has several versions, when none is named.
var ErrWhich = errors.New("say which is meant")

// Open reads an image by its manifest's file, or the images of a release by their folder: DIR, or DIR@VERSION where the
// folder has several. With roles it takes only theirs.
func Open(word string, roles []string) ([]*Image, error) {
	images, err := open(word, roles)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", word, err)
	}
	return images, nil
}

func open(word string, roles []string) ([]*Image, error) {
	dir, version := word, ""
	info, err := os.Stat(word)
	if at := strings.LastIndexByte(word, '@'); errors.Is(err, fs.ErrNotExist) && at > 0 {
		dir, version = word[:at], word[at+1:]
		info, err = os.Stat(dir)
	}
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return one(dir, roles)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	found, err := release.Images(root)
	if err != nil {
		return nil, err
	}
	if found, err = choose(found, version, roles); err != nil {
		return nil, err
	}
	var images []*Image
	for _, f := range found {
		i, err := read(root, f.Manifest)
		if err != nil {
			return nil, err
		}
		images = append(images, i)
	}
	return images, nil
}

// one reads the image of a manifest's file.
func one(file string, roles []string) ([]*Image, error) {
	root, err := os.OpenRoot(filepath.Dir(file))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	data, err := bounded(root, filepath.Base(file), manifest.MaxSize)
	if err != nil {
		return nil, err
	}
	m, err := manifest.Decode(data)
	if err != nil {
		return nil, err
	}
	if len(roles) > 0 && !slices.Contains(roles, m.Role) {
		return nil, fmt.Errorf("it is an image of role %s", m.Role)
	}
	i, err := read(root, m)
	return []*Image{i}, err
}

// choose picks images of one version and of roles.
func choose(all []release.Image, version string, roles []string) ([]release.Image, error) {
	var versions, have []string
	for _, i := range all {
		versions, have = append(versions, i.Version), append(have, i.Role)
	}
	slices.Sort(versions)
	versions = slices.Compact(versions)
	switch {
	case len(versions) == 0:
		return nil, errors.New("the folder has no image")
	case version == "" && len(versions) > 1:
		return nil, fmt.Errorf("the folder has images of versions %s: %w, such as FOLDER@%s", strings.Join(versions, ", "), ErrWhich, versions[0])
	case version == "":
		version = versions[0]
	case !slices.Contains(versions, version):
		return nil, fmt.Errorf("the folder has no image of version %s, but of %s", version, strings.Join(versions, ", "))
	}
	for _, r := range roles {
		if !slices.Contains(have, r) {
			return nil, fmt.Errorf("the folder has no image of role %s", r)
		}
	}
	return slices.DeleteFunc(all, func(i release.Image) bool {
		return i.Version != version || len(roles) > 0 && !slices.Contains(roles, i.Role)
	}), nil
}

// What a manifest may lack, by its kind, in words.
var parts = map[string]string{
	manifest.KindInventory: "files, modes, units and kernel modules",
	manifest.KindSBOM:      "Go modules of components",
	manifest.KindConfig:    "kernel configuration",
}

// read reads what lies beside a manifest.
func read(root *os.Root, m *manifest.Manifest) (*Image, error) {
	i := &Image{Manifest: m, Gaps: map[string]string{}}
	for _, part := range []struct {
		kind  string
		limit int64
		take  func([]byte) error
	}{
		{manifest.KindInventory, inventory.MaxSize, func(data []byte) (err error) { i.Files, err = inventory.Decode(data); return err }},
		{manifest.KindSBOM, sbom.MaxSize, i.takeModules},
		{manifest.KindConfig, MaxConfig, func(data []byte) (err error) { i.Config, err = ReadConfig(data); return err }},
	} {
		a, ok := m.Artifact(part.kind)
		if !ok {
			i.Gaps[parts[part.kind]] = "its manifest names no artifact of kind " + part.kind + " (an older slipway baked it)"
			continue
		}
		data, err := bounded(root, a.Name, min(a.Size, part.limit))
		if errors.Is(err, fs.ErrNotExist) {
			i.Gaps[parts[part.kind]] = a.Name + " is not beside the manifest"
			continue
		}
		if err == nil {
			err = a.Verify(bytes.NewReader(data))
		}
		if err == nil {
			err = part.take(data)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.Name, err)
		}
	}
	return i, nil
}

func (i *Image) takeModules(data []byte) error {
	all, err := sbom.ReadModules(data)
	if err != nil {
		return err
	}
	i.Modules = map[string][]GoModule{}
	for name, list := range all {
		i.Modules[name] = nil
		for _, m := range list {
			i.Modules[name] = append(i.Modules[name], GoModule{m.Path, m.Version, m.Sum})
		}
	}
	return nil
}

// bounded reads a file and at most a byte more than it may have.
func bounded(root *os.Root, name string, limit int64) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return data, err
}
