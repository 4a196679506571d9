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
	id, err := loadIdentity(flags, d)
	if err != nil {
		return nil, err
	}
	return id.AdminKubeconfig(d.Cluster, a.pki())
}

// writeKubeconfig replaces the file whole: beside, synced, renamed.
func writeKubeconfig(a *app, flags *clusterFlags, d *clusterDocument, file string) error {
	text, err := kubeconfig(a, flags, d)
	if err != nil {
		return err
	}
	beside, err := os.CreateTemp(filepath.Dir(file), ".kubeconfig-*") // 0600
	if err != nil {
		return fmt.Errorf("cannot write kubeconfig: %w", err)
	}
	defer os.Remove(beside.Name())
	_, err = beside.Write(text)
	if err := errors.Join(err, beside.Sync(), beside.Close()); err != nil {
		return fmt.Errorf("cannot write kubeconfig: %w", err)
	}
	if err := os.Rename(beside.Name(), file); err != nil {
		return fmt.Errorf("cannot write kubeconfig: %w", err)
	}
	return nil
}
