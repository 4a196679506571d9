package bake

import (
	"fmt"

	"github.com/slipway-os/slipway/builder/inventory"
	"github.com/slipway-os/slipway/builder/squashfs"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// writeInventory writes the list of files, and the kernel's configuration where its package brings one.
func (b *baker) writeInventory() error {
	b.step("list files")
	packed, err := b.packedSizes()
	if err != nil {
		return err
	}
	initrd, err := b.initrdTree()
	if err != nil {
		return err
	}
	list := inventory.New(inventory.List(b.tree, packed), inventory.List(initrd, nil))
	if err := b.out.artifact(manifest.KindInventory, b.base()+bootspec.ExtInventory, bytesTo(list.Encode())); err != nil {
		return err
	}
	name := b.base() + bootspec.ExtConfig
	if len(b.config) == 0 {
		b.out.obsolete = append(b.out.obsolete, name)
		return nil
	}
	return b.out.artifact(manifest.KindConfig, name, bytesTo(b.config))
}

// packedSizes reads them from the root image that was just written.
func (b *baker) packedSizes() (map[string]int64, error) {
	f, err := b.out.root.Open(hidden(b.base() + bootspec.ExtRoot))
	if err != nil {
		return nil, fmt.Errorf("cannot read the root image: %w", err)
	}
	defer f.Close()
	return squashfs.Sizes(f)
}
