package balance

import (
	"reflect"
	"testing"
	"time"
)

func TestOrder(t *testing.T) {
	servers := []load{{ready: true, connections: 2}, {ready: false}, {ready: true, connections: 1}, {ready: true, connections: 1}}
	for start, want := range map[int][]choice{
		0: {{2, true}, {3, true}, {0, true}, {1, false}},
		3: {{3, true}, {2, true}, {0, true}, {1, false}},
	} {
		if got := order(servers, start); !reflect.DeepEqual(got, want) {
			t.Errorf("from %d: got %v, want %v", start, got, want)
		}
	}
	if got := order([]load{{}}, 0); !reflect.DeepEqual(got, []choice{{0, false}}) {
		t.Errorf("the only server is not tried when it isn't ready: %v", got)
	}
}

func TestHealth(t *testing.T) {
	findings := map[rune]finding{'g': good, 'w': unwell, 'u': unreachable, 'r': refused}
	// Checks are a second apart.
	for checks, want := range map[string]bool{
		"": false, "g": true, "u": false, "w": false,
		"gr": false, "gu": true, "guu": false, "gugu": true, "guug": true,
		"gw": true, "gwww": true, "gwwww": false, "gwwwgwww": true, "gwu": false, "gwwwwg": true, "gwwwwgw": true,
	} {
		var h health
		now := time.Unix(0, 0)
		for _, c := range checks {
			h = h.next(findings[c], now)
			now = now.Add(time.Second)
		}
		if h.ready != want {
			t.Errorf("%q: ready is %v", checks, h.ready)
		}
	}
}
