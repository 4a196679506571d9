package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/release"
)

// trustFlags say whose signatures count where artifacts are read.
type trustFlags struct {
	keys     []string
	unsigned bool
}

// systemTrust is the folder of the keys that everybody on this machine trusts.
const systemTrust = "/etc/slipway/trust"

const trustHelp = `

Whose releases are trusted: the public keys (minisign's, or cosign's in PEM) of --trust, else of SLIPWAY_TRUST (files, separated by colons), else *.pub in
slipway/trust of the user's configuration folder (~/.config) and in /etc/slipway/trust. Where there is a key, an image
must be signed with one (slipway sign); --unsigned takes it without, for what was baked here.`

func (f *trustFlags) register(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.keys, "trust", nil, "public key file of a trusted signer, may be repeated (default: SLIPWAY_TRUST, else the trust folders)")
	c.Flags().BoolVar(&f.unsigned, "unsigned", false, "ask for no signature")
	c.Long += trustHelp
}

// read reads the trusted keys.
func (f *trustFlags) read(a *app, c *cobra.Command) (*release.Trust, error) {
	if f.unsigned {
		if len(f.keys) > 0 {
			return nil, usage(c, fmt.Errorf("--trust and --unsigned exclude each other"))
		}
		return nil, nil
	}
	if len(f.keys) > 0 {
		return release.ReadTrust(f.keys, nil)
	}
	if files := filepath.SplitList(a.env("SLIPWAY_TRUST")); len(files) > 0 {
		return release.ReadTrust(files, nil)
	}
	folders := []string{systemTrust}
	if dir, err := os.UserConfigDir(); err == nil { // a user without a home has no folder of their own
		folders = append([]string{filepath.Join(dir, "slipway", "trust")}, folders...)
	}
	return release.ReadTrust(nil, folders)
}
