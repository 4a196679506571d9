package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/authenticode"
)

// secureBootFlags are the owner's key for Secure Boot.
type secureBootFlags struct{ key, certificate string }

func (f *secureBootFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.key, "secure-boot-key", "", "private RSA key (PEM) that signs what firmware starts")
	c.Flags().StringVar(&f.certificate, "secure-boot-cert", "", "its certificate (PEM), which the machines' firmware trusts")
}

func (f *secureBootFlags) check() error {
	if (f.key == "") != (f.certificate == "") {
		return errors.New("--secure-boot-key and --secure-boot-cert go together")
	}
	return nil
}

// signer is what signs for Secure Boot; nil: nothing is signed.
func (f *secureBootFlags) signer() (*authenticode.Signer, error) {
	if f.key == "" {
		return nil, nil
	}
	return authenticode.Load(f.key, f.certificate)
}
