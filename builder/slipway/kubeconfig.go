package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

func kubeconfigCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var out string
	c := &cobra.Command{
		Use:   "kubeconfig --cluster FILE",
		Short: "Make an admin kubeconfig",
		Long: `kubeconfig makes a new client certificate of the cluster's authority and prints a kubeconfig with it, or
writes it to a file that only its owner may read. Whoever has it may do everything in the cluster, until it expires.`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := flags.load(c)
			if err != nil {
				return err
			}
			if out != "" {
				return writeKubeconfig(a, &flags, d, out)
			}
			text, err := kubeconfig(a, &flags, d)
			if err == nil {
				_, err = a.out.Write(text)
			}
			return err
		},
	}
	flags.register(c)
	flags.registerIdentity(c)
	c.Flags().StringVar(&out, "out", "", "file to write it to (default: print it)")
	return c
}

func kubeconfig(a *app, flags *clusterFlags, d *clusterDocument) ([]byte, error) {
	id, err := loadIdentity(a, flags, d)
	if err != nil {
		return nil, err
	}
	return id.AdminKubeconfig(d.Cluster, a.pki())
}

func writeKubeconfig(a *app, flags *clusterFlags, d *clusterDocument, file string) error {
	text, err := kubeconfig(a, flags, d)
	if err != nil {
		return err
	}
	if err := replaceFile(file, 0o600, text); err != nil {
		return fmt.Errorf("cannot write kubeconfig: %w", err)
	}
	return nil
}

// replaceFile writes a file whole or not at all: beside, synced, renamed.
func replaceFile(file string, mode os.FileMode, data []byte) error {
	beside, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(beside.Name())
	_, err = beside.Write(data)
	if err := errors.Join(err, beside.Chmod(mode), beside.Sync(), beside.Close()); err != nil {
		return err
	}
	return os.Rename(beside.Name(), file)
}
