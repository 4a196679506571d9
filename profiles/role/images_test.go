package role_test

import (
	"strings"
	"testing"

	"github.com/slipway-os/slipway/profiles/role"
)

// Images of the definition are imported at boot like the role's own; the role itself is not changed.
func TestWithImages(t *testing.T) {
	r := load(t, role.Embedded(), "worker")
	const drop = "/usr/lib/systemd/system/slipway-images.service.d/10-images.conf"
	before, _ := file(r, drop)
	more := r.WithImages([]string{"exporter", "pause"})
	after, _ := file(more, drop)
	if got := strings.Join(more.ContainerImages, " "); got != "check coredns exporter pause" {
		t.Errorf("images %s", got)
	}
	if strings.Count(string(after.Content), "ExecStart=") != 4 || !strings.Contains(string(after.Content), "/exporter.tar\n") {
		t.Errorf("the unit imports\n%s", after.Content)
	}
	if again, _ := file(r, drop); string(again.Content) != string(before.Content) || len(r.ContainerImages) != 3 {
		t.Error("the role itself was changed")
	}
	if r.WithImages(nil) != r {
		t.Error("another role without further images")
	}
}
