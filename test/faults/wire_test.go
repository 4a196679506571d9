package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/slipway-os/slipway/profiles/cluster"
	"github.com/slipway-os/slipway/test/tap"
)

// Of a bad wire: what a machine sends arrives so late, or in so many of a hundred cases not at all.
const (
	lateness = 15 * time.Millisecond
	lossOf   = 1.0
)

// frame is an Ethernet frame on a wire.
type frame struct {
	data []byte
	due  time.Time
}

// badWire makes a machine's network interface that loses and delays what the machine sends (as tc-netem(8) does, which not every
// kernel has): two taps and this program between them.
func (m *machine) badWire(t *testing.T, number, pid int, l cluster.Link) {
	t.Helper()
	ours, theirs := m.nic(number), fmt.Sprintf("far%d.%d", m.number, number)
	near, err := tap.Open(ours)
	if err != nil {
		t.Fatal(err)
	}
	far, err := tap.Open(theirs)
	if err != nil {
		t.Fatal(err)
	}
	command(t, "ip", fmt.Sprintf("link set %s address %s", theirs, l.MAC))
	command(t, "ip", fmt.Sprintf("link set %s netns %d name eth%d", theirs, pid, number))
	command(t, "ip", fmt.Sprintf("link set %s master %s up", ours, l.Network))
	go carry(far, near, lateness, lossOf)
	go carry(near, far, 0, 0)
}

// carry carries frames until an end is gone.
func carry(from, to *os.File, late time.Duration, loss float64) {
	defer from.Close()
	queue := make(chan frame, 4096)
	defer close(queue)
	go func() {
		for f := range queue {
			time.Sleep(time.Until(f.due))
			_, _ = to.Write(f.data) // an interface that is down takes nothing
		}
	}()
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if 100*rand.Float64() < loss {
			continue
		}
		select {
		case queue <- frame{append([]byte(nil), buffer[:n]...), time.Now().Add(late)}:
		default: // a full queue, as in a switch
		}
	}
}
