package netboot

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/mod/semver"

	"github.com/slipway-os/slipway/images/manifest"
)

// artifacts is the set of files that may be served: those that manifests in the folder name. Each was compared with its
// manifest's size and digest when the server started.
type artifacts struct {
	root  *os.Root
	files map[string]manifest.Artifact
	uki   map[string]string // role -> file name
}

// openArtifacts reads the manifests in a folder and picks each role's image: the wanted version, or the newest where
// wanted is empty (semantic versioning 2.0.0, section 11).
func openArtifacts(folder, wanted string, roles []string) (*artifacts, error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, fmt.Errorf("cannot open the artifacts folder: %w (bake images into it: slipway bake --role ROLE --out %s)", err, folder)
	}
	a := &artifacts{root: root, files: map[string]manifest.Artifact{}, uki: map[string]string{}}
	manifests, err := a.manifests()
	if err != nil {
		root.Close()
		return nil, err
	}
	for _, role := range roles {
		m, err := pick(manifests, role, wanted)
		if err == nil {
			err = a.add(m)
		}
		if err != nil {
			root.Close()
			return nil, fmt.Errorf("cannot serve role %s from %s: %w", role, folder, err)
		}
	}
	return a, nil
}

// maxManifest bounds a manifest in bytes.
const maxManifest = 16 << 20

func (a *artifacts) manifests() ([]manifest.Manifest, error) {
	names, err := fs.Glob(a.root.FS(), "slipway-*.json")
	if err != nil {
		return nil, fmt.Errorf("cannot list manifests: %w", err)
	}
	var all []manifest.Manifest
	for _, name := range names {
		file, err := a.root.Open(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read manifest: %w", err)
		}
		text, err := io.ReadAll(io.LimitReader(file, maxManifest))
		file.Close()
		var m manifest.Manifest
		if err == nil {
			err = json.Unmarshal(text, &m)
		}
		if err == nil && m.Kind != manifest.Kind {
			err = fmt.Errorf("kind is %q", m.Kind)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read manifest %s: %w", name, err)
		}
		all = append(all, m)
	}
	return all, nil
}

func pick(all []manifest.Manifest, role, wanted string) (manifest.Manifest, error) {
	var fit []manifest.Manifest
	for _, m := range all {
		if m.Role == role && (wanted == "" || m.Version == wanted) {
			fit = append(fit, m)
		}
	}
	if len(fit) == 0 {
		return manifest.Manifest{}, fmt.Errorf("no image %s(bake it: slipway bake --role %s)", strings.TrimLeft(wanted+" ", " "), role)
	}
	sort.SliceStable(fit, func(i, j int) bool { return semver.Compare("v"+fit[i].Version, "v"+fit[j].Version) < 0 })
	return fit[len(fit)-1], nil
}

// add takes a manifest's files, each compared with what the manifest says of it.
func (a *artifacts) add(m manifest.Manifest) error {
	for _, f := range m.Artifacts {
		if f.Name != filepath.Base(f.Name) || !fs.ValidPath(f.Name) {
			return fmt.Errorf("manifest names %q, which is no file name", f.Name)
		}
		if err := a.verify(f); err != nil {
			return err
		}
		a.files[f.Name] = f
		if f.Kind == "uki" {
			a.uki[m.Role] = f.Name
		}
	}
	if a.uki[m.Role] == "" {
		return errors.New("its manifest names no UKI")
	}
	return nil
}

func (a *artifacts) verify(f manifest.Artifact) error {
	file, err := a.root.Open(f.Name)
	if err != nil {
		return fmt.Errorf("cannot open artifact: %w", err)
	}
	defer file.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, io.LimitReader(file, f.Size+1))
	if err != nil {
		return fmt.Errorf("cannot read artifact %s: %w", f.Name, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); size != f.Size || got != f.SHA256 {
		return fmt.Errorf("%s differs from its manifest: %d bytes with SHA-256 %s, not %d with %s (bake it again)", f.Name, size, got, f.Size, f.SHA256)
	}
	return nil
}

// open opens a served file.
func (a *artifacts) open(name string) (*os.File, manifest.Artifact, error) {
	f, ok := a.files[name]
	if !ok {
		return nil, f, fs.ErrNotExist
	}
	file, err := a.root.Open(name)
	return file, f, err
}
