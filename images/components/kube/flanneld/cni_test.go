package flanneld

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWriteCNI(t *testing.T) {
	path := filepath.Join(t.TempDir(), "net.d", "10-slipway.conflist")
	for _, subnet := range []string{"10.244.7.0/24", "10.244.1.0/24"} { // the second replaces the first
		if err := writeCNI(path, cniConfig(subnet, 1450)); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Name    string
		Plugins []struct {
			Type string
			MTU  int
			IPAM struct{ Ranges [][]struct{ Subnet string } }
		}
	}
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Plugins) != 2 || list.Plugins[0].Type != "bridge" || list.Plugins[1].Type != "portmap" {
		t.Fatalf("plugins are %+v", list.Plugins)
	}
	bridge := list.Plugins[0]
	if bridge.MTU != 1450 || bridge.IPAM.Ranges[0][0].Subnet != "10.244.1.0/24" {
		t.Errorf("bridge is %+v", bridge)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("the folder holds %v (%v)", left, err)
	}
}

func TestNodeAndAddressAreNeeded(t *testing.T) {
	for _, o := range []options{{node: "w-1"}, {address: "10.1.0.21"}} {
		if err := run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "--node and --address") {
			t.Errorf("%+v: error is %v", o, err)
		}
	}
}
