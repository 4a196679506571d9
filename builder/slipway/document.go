package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/profiles/cluster"
)

// clusterFlags name a cluster document and the cluster's identity.
type clusterFlags struct {
	file     string
	identity string
	key      string // file that opens the identity's keys, if they are encrypted
}

func (f *clusterFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.file, "cluster", "", "cluster document; lab and reference name the shipped examples")
}

func (f *clusterFlags) registerIdentity(c *cobra.Command) {
	c.Flags().StringVar(&f.identity, "identity", "", "folder of the cluster's identity (default: identity beside the cluster document)")
	c.Flags().StringVar(&f.key, "identity-key", "", "file that opens the identity's keys, if they are encrypted (default: "+identityKeyVariable+", or the systemd credential "+identityKeyCredential+")")
}

// document is a cluster document that was read.
type clusterDocument struct {
	*cluster.Cluster
	file string // empty: a shipped example
	data []byte
}

// shipped are the examples by name.
func shipped(name string) []byte {
	switch name {
	case "lab":
		return cluster.Lab()
	case "reference":
		return cluster.Reference()
	}
	return nil
}

// load reads the document: a file, or else a shipped example.
func (f *clusterFlags) load(c *cobra.Command) (*clusterDocument, error) {
	if err := needs(c, "cluster"); err != nil {
		return nil, err
	}
	if _, err := os.Stat(f.file); errors.Is(err, fs.ErrNotExist) {
		data := shipped(f.file)
		if data == nil {
			return nil, usage(c, fmt.Errorf("there is no cluster document %s", f.file))
		}
		parsed, err := cluster.Parse(f.file+".yaml", data)
		return &clusterDocument{Cluster: parsed, data: data}, err
	}
	parsed, err := cluster.ParseFile(f.file)
	if err != nil {
		return nil, err
	}
	file, err := filepath.Abs(f.file)
	return &clusterDocument{Cluster: parsed, file: file}, err
}

// identityDir is where the identity of a document is.
func (f *clusterFlags) identityDir(d *clusterDocument) string {
	if f.identity != "" {
		return f.identity
	}
	if d.file != "" {
		return filepath.Join(filepath.Dir(d.file), "identity")
	}
	return "identity"
}
