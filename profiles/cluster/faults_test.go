package cluster_test

import (
	"strings"
	"testing"

	"github.com/slipway-os/slipway/profiles/cluster"
)

// fault is the lab document with one thing made wrong (old replaced by new, once), and all that is said about it.
type fault struct{ name, old, new, want string }

func (f fault) document() string { return strings.Replace(string(cluster.Lab()), f.old, f.new, 1) }

var faults = []fault{
	{"wrong role", "role: worker", "role: master",
		`lab.yaml:27:11: nodes[1].role: unknown role "master" (one of: control-plane, worker)`},
}

func TestFaults(t *testing.T) {
	for _, tt := range faults {
		t.Run(tt.name, func(t *testing.T) {
			if tt.document() == string(cluster.Lab()) {
				t.Fatalf("%q is not in the lab document", tt.old)
			}
			_, err := cluster.Parse("lab.yaml", []byte(tt.document()))
			if err == nil {
				t.Fatal("no error")
			}
			if err.Error() != tt.want {
				t.Errorf("got\n%s\nwant\n%s", err, tt.want)
			}
		})
	}
}
