package plan

import (
	"os"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/profiles/role"
)

// TestShippedLocks: the committed locks fit their definitions and every role that is shipped.
func TestShippedLocks(t *testing.T) {
	for definition, kernel := range map[string]string{"definition.yaml": "+deb13-amd64", "virtual.yaml": "+deb13-cloud-amd64"} {
		locked := map[string]string{"definition.yaml": LockName, "virtual.yaml": "virtual." + LockName}[definition]
		def, err := LoadDefinition(os.DirFS("../../images"), definition, "../../images")
		if err != nil {
			t.Fatal(err)
		}
		lock, err := ReadLock("../../images/" + locked)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"control-plane", "worker"} {
			r, err := role.Load(role.Embedded(), name)
			if err != nil {
				t.Fatal(err)
			}
			p, err := Make(def, lock, r, "amd64")
			if err != nil {
				t.Error(err)
				continue
			}
			if len(p.Packages) < 10 || !strings.HasSuffix(p.KernelRelease, kernel) || p.Epoch < 1_700_000_000 {
				t.Errorf("plan of %s by %s: %d packages, kernel %q, epoch %d", name, definition, len(p.Packages), p.KernelRelease, p.Epoch)
			}
		}
	}
}
