// Package nodeconfig makes a node's own configuration: cluster document + node + identity -> Ignition. It decides every
// file that makes a machine this node and not another of its role, and what is in them.
//
// It is pure: no file is read and no socket opened; clock and entropy are arguments. The configuration is parsed and
// checked by Ignition's own library before it is returned. It holds the node's keys: whoever serves it (builder/netboot)
// must know to whom.
//
// What all nodes of a role share is not here but in the role's files (profiles/role).
package nodeconfig

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/coreos/ignition/v2/config/util"
	ignition "github.com/coreos/ignition/v2/config/v3_5"
	"github.com/coreos/ignition/v2/config/v3_5/types"

	"github.com/slipway-os/slipway/builder/pki"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// Environment is what a configuration takes from the world.
type Environment struct {
	pki.Environment
	Server string // base URL of the boot server, http://10.1.0.1:8080; empty when there is none (offline media)
}

// Render is a node's Ignition configuration as JSON (spec 3.5.0). Keys and certificates in it are new each time.
// An error about a file of the user's own Ignition configuration says which and where.
func Render(c *cluster.Cluster, node string, id *pki.Identity, env Environment) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("cannot render configuration of node %s: %w", node, err)
	}
	n, ok := c.Node(node)
	if !ok {
		return fail(fmt.Errorf("the cluster document has no such node"))
	}
	files, err := Files(c, n, id, env)
	if err != nil {
		return fail(err)
	}
	config := assemble(files)
	for _, s := range c.Snippets(n) {
		own, err := parseSnippet(s, files)
		if err != nil {
			return fail(err)
		}
		config = ignition.Merge(config, own)
	}
	data, err := json.Marshal(config)
	if err != nil {
		return fail(err)
	}
	if _, report, err := ignition.Parse(data); err != nil {
		return fail(fmt.Errorf("ignition refuses it: %w: %s", err, places(report)))
	}
	return append(data, '\n'), nil
}

// Files are all files of a node that come from the cluster document and its identity, by path. No two have the same.
func Files(c *cluster.Cluster, n *cluster.Node, id *pki.Identity, env Environment) ([]pki.File, error) {
	files, err := id.NodeFiles(c, n, env.Environment)
	if err != nil {
		return nil, err
	}
	w := &writer{cluster: c, node: n, files: files}
	w.identity(env.Server)
	w.bootServer(env.Server, id)
	w.kubernetes()
	if n.Role == cluster.RoleControlPlane {
		w.controlPlane(id)
	}
	if w.err != nil {
		return nil, w.err
	}
	slices.SortFunc(w.files, func(a, b pki.File) int { return strings.Compare(a.Path, b.Path) })
	return w.files, nil
}

// assemble puts files into a configuration. They replace those of the image.
func assemble(files []pki.File) types.Config {
	config := types.Config{Ignition: types.Ignition{Version: types.MaxVersion.String()}}
	for _, f := range files {
		config.Storage.Files = append(config.Storage.Files, types.File{
			Node: types.Node{Path: f.Path, Overwrite: util.BoolToPtr(true)},
			FileEmbedded1: types.FileEmbedded1{
				Mode:     util.IntToPtr(int(f.Mode)),
				Contents: types.Resource{Source: util.StrToPtr("data:;base64," + base64.StdEncoding.EncodeToString(f.Data))},
			},
		})
	}
	return config
}

// writer collects the files of one node.
type writer struct {
	cluster *cluster.Cluster
	node    *cluster.Node
	files   []pki.File
	err     error
}

func (w *writer) add(path string, mode uint32, data []byte) {
	w.files = append(w.files, pki.File{Path: path, Mode: mode, Data: data})
}

// keep remembers the first error.
func (w *writer) keep(err error) {
	if w.err == nil {
		w.err = err
	}
}
