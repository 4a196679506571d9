package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/images/document"
	"github.com/slipway-os/slipway/profiles/role"
)

// ForRole is a role with the definition's container images that say they are for it.
func (d *Definition) ForRole(r *role.Role) *role.Role {
	var names []string
	for _, i := range d.ContainerImages {
		if slices.Contains(i.Roles, r.Name) {
			names = append(names, i.Name)
		}
	}
	return r.WithImages(names)
}

// askedImages are the images that come as they are, and what they are of.
func (d *Definition) askedImages() map[string]string {
	asked := map[string]string{}
	for _, i := range d.ContainerImages {
		if _, digest, ok := strings.Cut(i.Source, "@"); ok {
			asked[i.Name] = digest
		} else if i.Archive != "" {
			asked[i.Name] = i.Archive
		}
	}
	if len(asked) == 0 {
		return nil // a lock without them has no such field
	}
	return asked
}

// images picks the role's container images, by name; those that come as they are with what the lock says of them.
func (d *Definition) images(names []string, l *ArchLock) ([]ContainerImage, error) {
	picked := []ContainerImage{}
	for _, name := range sorted(names) {
		i := slices.IndexFunc(d.ContainerImages, func(c ContainerImage) bool { return c.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("container image %q is not in the definition", name)
		}
		image := d.ContainerImages[i]
		if image.external() {
			locked, ok := l.Images[name]
			if !ok {
				return nil, d.fault(document.Key("containerImages", name), "the lock doesn't have it", "run `"+LockCommand+"`")
			}
			image.Digest, image.Size = locked.Digest, locked.Size
		}
		picked = append(picked, image)
	}
	return picked, nil
}

// Foreign are the container images that come as they are.
func (d *Definition) Foreign() []ContainerImage {
	var list []ContainerImage
	for _, i := range d.ContainerImages {
		if i.external() {
			list = append(list, i)
		}
	}
	return list
}

// Foreign are the plan's container images that come as they are.
func (p *Plan) Foreign() []ContainerImage {
	return slices.DeleteFunc(slices.Clone(p.ContainerImages), func(i ContainerImage) bool { return !i.external() })
}

// SameImage is what an older lock has of an image that can't have changed since: one that is named by its digest.
func (l *ArchLock) SameImage(i ContainerImage) (LockedImage, bool) {
	_, digest, pinned := strings.Cut(i.Source, "@")
	if l == nil || !pinned || l.Asked.Images[i.Name] != digest {
		return LockedImage{}, false
	}
	locked, ok := l.Images[i.Name]
	return locked, ok
}
