package bake

import (
	"fmt"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// signed is an EFI program with the owner's signature, if there is an owner's key.
func (b *baker) signed(program []byte, what string) ([]byte, error) {
	if b.SecureBoot == nil {
		return program, nil
	}
	out, err := b.SecureBoot.Sign(program)
	if err != nil {
		return nil, fmt.Errorf("the %s: %w", what, err)
	}
	return out, nil
}

// signLoader signs the boot loader as it comes from its package.
func (b *baker) signLoader(e *rootfs.Entry) error {
	if b.SecureBoot == nil {
		return nil
	}
	data, err := e.Content.Bytes()
	if err != nil {
		return fmt.Errorf("cannot read %s of %s: %w", e.Path, e.Origin, err)
	}
	if data, err = b.signed(data, "boot loader"); err != nil {
		return err
	}
	e.Content = rootfs.Inline(data)
	if b.loader != nil {
		b.loader = data
	}
	return nil
}
