package netboot

import (
	"slices"
	"testing"
	"time"
)

// TestPace: so many leave at once, then as many as were read meanwhile; a timer that is late costs nothing.
func TestPace(t *testing.T) {
	now := time.Unix(1000, 0)
	begin, late := now, time.Duration(0)
	p := pace{now: func() time.Time { return now }, rest: func(d time.Duration) { now = now.Add(d + late) }}
	leave := func(count int) (at []time.Duration) {
		for range count {
			p.wait()
			at = append(at, now.Sub(begin))
		}
		return at
	}
	if at := leave(fewAcks); at[fewAcks-1] != 0 {
		t.Errorf("the first %d leave until %v", fewAcks, at[fewAcks-1])
	}
	if at := leave(32); at[15] != time.Millisecond || at[31] != 2*time.Millisecond {
		t.Errorf("the next ones leave at %v", at)
	}
	late = 10 * time.Millisecond
	begin = now
	at := leave(fewAcks + 1)
	if at[0] != late+acksRest || at[fewAcks-1] != at[0] {
		t.Errorf("with a late timer they leave at %v", at)
	}
	now = now.Add(time.Hour)
	begin, late = now, 0
	if at := leave(2 * fewAcks); slices.Index(at, acksRest) != fewAcks {
		t.Errorf("after a rest they leave at %v", at)
	}
}
