package flanneld

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// cniConfig is a CNI configuration list (CNI specification 1.0.0): a bridge whose addresses come from the node's
// subnet, and port mappings.
func cniConfig(subnet string, mtu int) map[string]any {
	return map[string]any{
		"cniVersion": "1.0.0",
		"name":       "slipway",
		"plugins": []any{
			map[string]any{
				"type":             "bridge",
				"bridge":           "cni0",
				"isDefaultGateway": true,
				"hairpinMode":      true,
				"mtu":              mtu,
				"ipam": map[string]any{
					"type":    "host-local",
					"dataDir": "/run/cni/networks",
					"ranges":  []any{[]any{map[string]any{"subnet": subnet}}},
				},
			},
			map[string]any{
				"type":         "portmap",
				"backend":      "nftables",
				"capabilities": map[string]any{"portMappings": true},
			},
		},
	}
}

// writeCNI replaces the file whole, so that the container runtime never reads half of it.
func writeCNI(path string, config map[string]any) error {
	text, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	beside := path + ".new" // the runtime reads *.conflist only
	if err := os.WriteFile(beside, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := os.Rename(beside, path); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}
