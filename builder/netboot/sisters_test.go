package netboot

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/kv"
)

// TestMachinesAreToldOfSilentSisters: a boot server that isn't heard may be back before a machine needs it, and a machine asks for the list only
// once. Those that are heard come first.
func TestMachinesAreToldOfSilentSisters(t *testing.T) {
	clock := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := newSisters(nil, netip.MustParseAddr("10.1.0.1"), func() time.Time { return clock }, slog.New(slog.DiscardHandler))
	beats := func(address string) {
		value, err := json.Marshal(beat{Server: "of " + address, Time: clock})
		must(t, err)
		s.heard(false, []kv.Entry{{Key: serverKey + address, Value: value}})
	}
	told := func(want string) {
		t.Helper()
		if got := fmt.Sprint(s.others()); got != want {
			t.Errorf("machines are told of %s, want %s", got, want)
		}
	}
	told("[]")
	beats("10.1.0.1") // itself
	beats("10.1.0.2")
	clock = clock.Add(sisterStays)
	told("[10.1.0.2]")
	clock = clock.Add(time.Minute)
	beats("10.1.0.3")
	told("[10.1.0.3 10.1.0.2]")
	clock = clock.Add(time.Minute)
	beats("10.1.0.4")
	told("[10.1.0.4 10.1.0.3 10.1.0.2]")
	beats("10.1.0.2")
	told("[10.1.0.2 10.1.0.4 10.1.0.3]")
}
