package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/pki"
)

func identityCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var keep bool
	var to []string
	c := &cobra.Command{
		Use:   "identity --cluster FILE",
		Short: "Make a cluster's identity: its certificate authorities and keys",
		Long: `identity makes the certificate authorities and keys of a cluster and keeps them in a folder that only its
owner may read. Whoever has it has the cluster: keep it safe, and keep a copy. It is never made anew over an old one.
With --encrypt-to its private keys are encrypted with age from the beginning (identity encrypt says with what).`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error { return makeIdentity(a, c, flags, keep, to) },
	}
	flags.register(c)
	flags.registerIdentity(c)
	c.Flags().BoolVar(&keep, "keep", false, "if there is one already, check it, add what it lacks, and leave the rest as it is")
	c.Flags().StringArrayVar(&to, "encrypt-to", nil, encryptToUsage)
	c.AddCommand(identityEncryptCommand(a))
	a.outputFlag(c)
	return c
}

func (a *app) pki() pki.Environment { return pki.Environment{Now: a.now(), Rand: rand.Reader} }

func makeIdentity(a *app, c *cobra.Command, flags clusterFlags, keep bool, to []string) error {
	d, err := flags.load(c)
	if err != nil {
		return err
	}
	dir := flags.identityDir(d)
	var lock *pki.Lock
	if len(to) > 0 {
		if lock, err = readLocks(to); err == nil {
			err = outside(dir, to)
		}
		if err != nil {
			return err
		}
	}
	made := true
	id, err := pki.CreateLocked(dir, d.Cluster, lock, a.pki())
	if errors.Is(err, pki.ErrExists) && keep {
		if lock != nil && !pki.Encrypted(dir) {
			return fmt.Errorf("the identity in %s is there already, and its keys are not encrypted (run: slipway identity encrypt)", dir)
		}
		made = false
		if id, err = loadIdentity(a, &flags, d); err == nil {
			err = id.AddBoot(dir, a.pki())
		}
	}
	if err != nil {
		return err
	}
	result := struct {
		Folder  string    `json:"folder"`
		Cluster string    `json:"cluster"`
		Made    bool      `json:"made"`
		Until   time.Time `json:"until"`
	}{dir, id.Cluster, made, id.CA.Certificate.NotAfter}
	return a.print(result, func(w io.Writer) error {
		verb := "made"
		if !made {
			verb = "kept"
		}
		_, err := fmt.Fprintf(w, "%s the identity of %s in %s; its authorities are valid until %s\n", verb, id.Cluster, dir, result.Until.Format(time.DateOnly))
		return err
	})
}

// loadIdentity reads an identity and wants it to be this cluster's.
func loadIdentity(a *app, flags *clusterFlags, d *clusterDocument) (*pki.Identity, error) {
	dir := flags.identityDir(d)
	id, err := pki.Open(dir, a.identityKey(flags))
	if err != nil {
		return nil, err
	}
	return id, ofCluster(id, dir, d)
}

// ofCluster wants an identity to be that of a document's cluster.
func ofCluster(id *pki.Identity, dir string, d *clusterDocument) error {
	if id.Cluster != d.Metadata.Name {
		return fmt.Errorf("the identity in %s is that of cluster %s, not of %s", dir, id.Cluster, d.Metadata.Name)
	}
	return nil
}
