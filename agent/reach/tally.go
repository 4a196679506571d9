package reach

import (
	"cmp"
	"slices"
)

// tally counts which rounds a majority has answered. It has no clock: who was stopped for a while has sent nothing meanwhile, and
// misses no answer.
type tally struct {
	answered []uint64 // by peer: the last round it has answered; 0: none
	sent     uint64   // rounds so far
	reached  bool     // a majority, at least once since it was forgotten
	forget   uint64   // after so many lost rounds
}

func newTally(peers, forget int) tally {
	return tally{answered: make([]uint64, peers), forget: uint64(forget)}
}

// answer notes that a peer has answered a round. One that was never sent is somebody's invention.
func (t *tally) answer(peer int, round uint64) {
	if round <= t.sent {
		t.answered[peer] = max(t.answered[peer], round)
	}
}

// next ends the round and begins another. It returns how many were lost since the last good one, and the new one's number.
func (t *tally) next() (lost int, number uint64) {
	good := t.good()
	t.reached = t.reached || good > 0 && good == t.sent
	missed := t.sent - good
	if missed > t.forget {
		t.reached = false
	}
	t.sent++
	if !t.reached {
		return 0, t.sent
	}
	return int(missed), t.sent
}

// good is the last round that a majority has answered, or a later one: this machine is one of them.
func (t *tally) good() uint64 {
	majority := (len(t.answered)+1)/2 + 1
	others := slices.SortedFunc(slices.Values(t.answered), func(a, b uint64) int { return cmp.Compare(b, a) })
	return others[majority-2]
}
