package nodeconfig_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

const lastingDocument = `
install: {disk: {minSize: 20GiB, smallest: true}}
storage:
  data: [{name: logs, disk: {path: /dev/sdb}, size: 5GB, mount: /var/log}]
`

// TestLive: a document without its disks has nothing of them in any node document.
func TestLive(t *testing.T) {
	c := parse(t, strings.Replace(string(cluster.Lab()), "    role: worker", "    role: worker\n    install: {disk: {serial: S3Z8}}", 1)+lastingDocument)
	if !c.Live() || c.Live() {
		t.Error("it is wrong about what there was")
	}
	for i := range c.Nodes {
		if n := &c.Nodes[i]; c.NodeInstall(n) != nil || c.NodeStorage(n) != nil {
			t.Errorf("%s still has disks", n.Name)
		}
	}
}

// TestStorage: what counts for all nodes is in each node document, unless the node says something of its own.
func TestStorage(t *testing.T) {
	own := strings.Replace(string(cluster.Lab()), "    role: worker",
		"    role: worker\n    install: {disk: {serial: S3Z8}, overwrite: 12ab34cd56ef}\n    storage: {state: {wwn: eui.0025385b71b0e5a1}}", 1)
	skip := strings.Replace(string(cluster.Lab()), "    role: worker", "    role: worker\n    install: {skip: true}", 1)
	const (
		common = `{"data":[{"name":"logs","disk":{"path":"/dev/sdb"},"size":4999610368,"format":"ext4","mount":"/var/log"}]}`
		always = `{"disk":{"minSize":21474836480,"smallest":true}}`
	)
	for _, tt := range []struct{ name, document, node, storage, install string }{
		{"nothing", string(cluster.Lab()), "worker-1", "null", "null"},
		{"default", string(cluster.Lab()) + lastingDocument, "worker-1", common, always},
		{"own", own + lastingDocument, "worker-1", `{"state":{"wwn":"eui.0025385b71b0e5a1"}}`, `{"disk":{"serial":"S3Z8"},"overwrite":"12ab34cd56ef"}`},
		{"another's own", own + lastingDocument, "cp-1", common, always},
		{"skip", skip + lastingDocument, "worker-1", common, "null"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := parse(t, tt.document)
			_, tree := render(t, c, identity(t, c), tt.node)
			_, document, _ := strings.Cut(tree, bootspec.NodeDocument+" --\n")
			document, _, _ = strings.Cut(document, "\n-- ")
			node, err := bootspec.ParseNode([]byte(document))
			if err != nil {
				t.Fatal(err)
			}
			storage, _ := json.Marshal(node.Storage)
			install, _ := json.Marshal(node.Install)
			if string(storage) != tt.storage || string(install) != tt.install {
				t.Errorf("got\n%s\n%s\nwant\n%s\n%s", storage, install, tt.storage, tt.install)
			}
		})
	}
}
