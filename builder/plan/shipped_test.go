package plan

import (
	"strings"
	"testing"

	"github.com/slipway-os/slipway/profiles/role"
)

// The committed lock fits the committed definition and every role that is shipped.
func TestShippedLock(t *testing.T) {
	def, err := loadText("definition.yaml", shippedDefinition(t))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := ReadLock("../../images/lock.json")
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
		if len(p.Packages) < 10 || !strings.HasSuffix(p.KernelRelease, "+deb13-amd64") || p.Epoch < 1_700_000_000 {
			t.Errorf("plan of %s: %d packages, kernel %q, epoch %d", name, len(p.Packages), p.KernelRelease, p.Epoch)
		}
	}
}
