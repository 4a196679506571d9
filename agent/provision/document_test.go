package provision

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

func TestNodeDocument(t *testing.T) {
	const node = `{"apiVersion":"slipway.dev/v1alpha1","cluster":"lab","name":"w","role":"worker","target":"slipway-worker.target","server":"","apiServer":"","network":{"links":[]},"install":{"disk":{"serial":"S1"}}}`
	file := func(path, source string) []byte {
		return fmt.Appendf(nil, `{"ignition":{"version":"3.5.0"},"storage":{"files":[{"path":"/etc/motd","contents":{"source":"data:,x"}},{"path":%q,"contents":{"source":%q}}]}}`, path, source)
	}
	n, err := NodeDocument(file("/etc/slipway/node.json", "data:;base64,"+base64.StdEncoding.EncodeToString([]byte(node))))
	if err != nil || n.Name != "w" || n.Install == nil || n.Install.Disk.Serial != "S1" {
		t.Errorf("got %+v, %v", n, err)
	}
	for name, config := range map[string][]byte{
		"no JSON":     []byte("secret"),
		"no document": file("/etc/other", "data:,secret"),
		"elsewhere":   file("/etc/slipway/node.json", "https://secret"),
		"bad base64":  file("/etc/slipway/node.json", "data:;base64,secret!"),
		"bad JSON":    file("/etc/slipway/node.json", "data:,[]"),
	} {
		if _, err := NodeDocument(config); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
