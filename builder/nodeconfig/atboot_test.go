package nodeconfig_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/nodeconfig"
	"github.com/slipway-os/slipway/profiles/cluster"
	"github.com/slipway-os/slipway/profiles/role"
)

// TestWritesWhatRolesCountOn: a bake takes roles at their word that the node's configuration has these files (atBoot in role.yaml).
func TestWritesWhatRolesCountOn(t *testing.T) {
	c := parse(t, string(cluster.Lab()))
	id := identity(t, c)
	for node, name := range map[string]string{"cp-1": "control-plane", "worker-1": "worker"} {
		n, ok := c.Node(node)
		if !ok {
			t.Fatalf("there is no node %s", node)
		}
		files, err := nodeconfig.Files(c, n, id, nodeconfig.Environment{Environment: environment(2)})
		if err != nil {
			t.Fatal(err)
		}
		var paths []string
		for _, f := range files {
			paths = append(paths, f.Path)
		}
		r, err := role.Load(role.Embedded(), name)
		if err != nil {
			t.Fatal(err)
		}
		counted := 0
		for _, a := range r.AtBoot {
			if a.By != "the node's configuration" {
				continue
			}
			for _, p := range a.Paths {
				counted++
				if !slices.ContainsFunc(paths, func(f string) bool { return f == p || strings.HasSuffix(p, "/") && strings.HasPrefix(f, p) }) {
					t.Errorf("role %s counts on %s, which is not in the configuration of %s", name, p, node)
				}
			}
		}
		if counted == 0 {
			t.Errorf("role %s counts on nothing: this test looks for other words than role.yaml has", name)
		}
	}
}
