package main

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/archive"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/profiles/role"
)

// imageFlags are what says what an image is made of.
type imageFlags struct {
	images, definition, lock, roles, mirror string
	arches                                  []string
	expired                                 bool
}

func (f *imageFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.images, "images", "", "folder with definition.yaml, lock.json, keys and components (default: images of a checkout, else ../share/slipway/images beside the program)")
	c.Flags().StringVar(&f.definition, "definition", plan.DefinitionName, "the definition, a path in the images folder")
	c.Flags().StringVar(&f.lock, "lock", "", "lock file (default: lock.json in the images folder; of a definition NAME.yaml, NAME.lock.json beside it)")
	c.Flags().StringVar(&f.roles, "roles", "", "folder of roles (default: the shipped ones)")
	c.Flags().StringVar(&f.mirror, "mirror", "", "URL of a Debian mirror, or NAME=URL[,NAME=URL] for each archive (default: SLIPWAY_MIRROR, else the definition's, else this machine's apt sources)")
	c.Flags().StringSliceVar(&f.arches, "arch", []string{runtime.GOARCH}, "architectures, by Go's names")
	c.Flags().BoolVar(&f.expired, "allow-expired", false, "take package lists past their Valid-Until (for snapshots of a mirror)")
}

// imagesDir is where the image definition is.
func (f *imageFlags) imagesDir() (string, error) {
	name := cmp.Or(f.definition, plan.DefinitionName)
	candidates := []string{f.images}
	if f.images == "" {
		candidates = []string{"images"}
		if self, err := os.Executable(); err == nil {
			candidates = append(candidates, filepath.Join(filepath.Dir(self), "..", "share", "slipway", "images"))
		}
	}
	for _, dir := range candidates {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Abs(dir)
		}
	}
	return "", fmt.Errorf("there is no %s in %v (--images says where it is)", name, candidates)
}

// rolesFS is the folder of roles.
func (f *imageFlags) rolesFS() fs.FS {
	if f.roles == "" {
		return role.Embedded()
	}
	return os.DirFS(f.roles)
}

// loadRoles reads roles by name, all that can be baked if no names are given, with the container images that the definition has
// for them.
func (f *imageFlags) loadRoles(definition *plan.Definition, names []string) ([]*role.Role, error) {
	fsys := f.rolesFS()
	if len(names) == 0 {
		var err error
		if names, err = role.Names(fsys); err != nil {
			return nil, err
		}
	}
	var roles []*role.Role
	for _, n := range names {
		r, err := role.Load(fsys, n)
		if err != nil {
			return nil, err
		}
		roles = append(roles, definition.ForRole(r))
	}
	return roles, nil
}

// workshop is what locking and baking need.
type workshop struct {
	images     string
	lock       string // file
	cache      string
	definition *plan.Definition
	source     *archive.Source
}

// lockFile is the lock that belongs to the definition.
func (f *imageFlags) lockFile(images string) string {
	switch {
	case f.lock != "":
		return f.lock
	case filepath.Clean(f.definition) == plan.DefinitionName:
		return filepath.Join(images, plan.LockName)
	}
	name := strings.TrimSuffix(strings.TrimSuffix(f.definition, ".yml"), ".yaml")
	return filepath.Join(images, name+"."+plan.LockName)
}

func (f *imageFlags) open(a *app) (*workshop, error) {
	images, err := f.imagesDir()
	if err != nil {
		return nil, err
	}
	cache, err := a.cacheDir()
	if err != nil {
		return nil, err
	}
	definition, source, err := plan.Open(images, filepath.ToSlash(f.definition), cache, archive.Choice{
		Flag: f.mirror, Environment: a.env("SLIPWAY_MIRROR"), Apt: os.DirFS("/etc/apt"), AllowExpired: f.expired,
	})
	if err != nil {
		return nil, err
	}
	return &workshop{images: images, lock: f.lockFile(images), cache: cache, definition: definition, source: source}, nil
}
