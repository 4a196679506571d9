package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/archive"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/profiles/role"
)

// imageFlags are what says what an image is made of.
type imageFlags struct {
	images, lock, roles, mirror string
	arches                      []string
	expired                     bool
}

func (f *imageFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.images, "images", "", "folder with definition.yaml, lock.json, keys and components (default: images of a checkout, else ../share/slipway/images beside the program)")
	c.Flags().StringVar(&f.lock, "lock", "", "lock file (default: lock.json in the images folder)")
	c.Flags().StringVar(&f.roles, "roles", "", "folder of roles (default: the shipped ones)")
	c.Flags().StringVar(&f.mirror, "mirror", "", "URL of a Debian mirror, or NAME=URL[,NAME=URL] for each archive (default: SLIPWAY_MIRROR, else the definition's, else this machine's apt sources)")
	c.Flags().StringSliceVar(&f.arches, "arch", []string{runtime.GOARCH}, "architectures, by Go's names")
	c.Flags().BoolVar(&f.expired, "allow-expired", false, "take package lists past their Valid-Until (for snapshots of a mirror)")
}

// imagesDir is where the image definition is.
func (f *imageFlags) imagesDir() (string, error) {
	candidates := []string{f.images}
	if f.images == "" {
		candidates = []string{"images"}
		if self, err := os.Executable(); err == nil {
			candidates = append(candidates, filepath.Join(filepath.Dir(self), "..", "share", "slipway", "images"))
		}
	}
	for _, dir := range candidates {
		if _, err := os.Stat(filepath.Join(dir, plan.DefinitionName)); err == nil {
			return filepath.Abs(dir)
		}
	}
	return "", fmt.Errorf("there is no %s in %v (--images says where it is)", plan.DefinitionName, candidates)
}

// rolesFS is the folder of roles.
func (f *imageFlags) rolesFS() fs.FS {
	if f.roles == "" {
		return role.Embedded()
	}
	return os.DirFS(f.roles)
}

// loadRoles reads roles by name; all that can be baked if no names are given.
func (f *imageFlags) loadRoles(names []string) ([]*role.Role, error) {
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
		roles = append(roles, r)
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

func (f *imageFlags) open(a *app) (*workshop, error) {
	images, err := f.imagesDir()
	if err != nil {
		return nil, err
	}
	cache, err := a.cacheDir()
	if err != nil {
		return nil, err
	}
	definition, source, err := plan.Open(images, cache, archive.Choice{
		Flag: f.mirror, Environment: a.env("SLIPWAY_MIRROR"), Apt: os.DirFS("/etc/apt"), AllowExpired: f.expired,
	})
	if err != nil {
		return nil, err
	}
	lock := f.lock
	if lock == "" {
		lock = filepath.Join(images, plan.LockName)
	}
	return &workshop{images: images, lock: lock, cache: cache, definition: definition, source: source}, nil
}
