package manage

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// TestNodeReset: a node marks its state as to be forgotten and reboots, but not when the cluster would be lost by that, and not
// without a word of the operator.
func TestNodeReset(t *testing.T) {
	r := newRack(t)
	control := &recorder{rebooted: make(chan struct{})}
	r.control = control
	r.serve(t)
	marker := filepath.Join(r.root, "var", bootspec.ResetMarker)
	if err := os.MkdirAll(filepath.Dir(marker), 0o755); err != nil {
		t.Fatal(err)
	}
	has(t, r.slipway(t, 1, "reset", "cp-1", "--yes"), "cp-1 is the only control plane: all that the cluster knows would be lost", "nothing was changed")
	has(t, r.slipway(t, 2, "reset", "cp-1", "--last"), "nobody can be asked here: add --yes")
	has(t, r.slipway(t, 2, "reset", "cp-9", "--yes"), `no node "cp-9"`)
	has(t, r.slipway(t, 1, "reset", "worker-1", "--yes"), "cannot .*worker-1|node worker-1: ")
	if _, err := os.Stat(marker); err == nil {
		t.Fatal("a refused reset has left its mark")
	}
	has(t, r.slipway(t, 0, "reset", "cp-1", "--yes", "--last", "--no-wait"), "cp-1 was reset and goes down")
	if _, err := os.Stat(marker); err != nil {
		t.Error(err)
	}
	select {
	case <-control.rebooted:
	case <-time.After(time.Minute):
		t.Error("the node does not reboot")
	}
}
