package media

import (
	"bytes"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-os/slipway/test/tap"
)

// wire is the cable between a boot server and the machines' switch: two taps with this program between them, because a qdisc can't stop at a
// certain byte. While it is held frames wait; while it is cut they are lost.
type wire struct {
	near, far *os.File // at the switch, at the server
	to        net.HardwareAddr

	mu   sync.Mutex
	open sync.Cond
	held bool
	gone bool
	trap *trap
	left int64 // bytes until the trap springs
}

// trap holds the first wire over which a machine is sent so many bytes in IPv4 packets of a protocol.
type trap struct {
	protocol byte
	sprung   atomic.Bool
	caught   chan *wire
}

// newWire makes the two ends; they are interfaces of this namespace. Frames are counted that go to an address.
func newWire(t *testing.T, near, far, to string) *wire {
	t.Helper()
	address, err := net.ParseMAC(to)
	must(t, err)
	w := &wire{to: address}
	w.open.L = &w.mu
	w.near, err = tap.Open(near)
	must(t, err)
	w.far, err = tap.Open(far)
	must(t, err)
	var ended sync.WaitGroup
	ended.Go(func() { w.carry(w.far, w.near) })
	ended.Go(func() { w.carry(w.near, w.far) })
	t.Cleanup(func() {
		_, _ = w.near.Close(), w.far.Close()
		w.release()
		ended.Wait()
	})
	return w
}

// carry carries frames one way until an end is closed.
func (w *wire) carry(from, to *os.File) {
	frame := make([]byte, 1<<16)
	for {
		n, err := from.Read(frame)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err != nil:
			time.Sleep(time.Millisecond) // the interface is down
			continue
		}
		if w.pass(frame[:n]) {
			_, _ = to.Write(frame[:n]) // an interface that is down takes nothing
		}
	}
}

// pass counts a frame, waits while the wire is held, and says whether it goes on.
func (w *wire) pass(frame []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.trap != nil && len(frame) > 23 && bytes.Equal(frame[:6], w.to) && frame[12] == 8 && frame[13] == 0 && frame[23] == w.trap.protocol {
		if w.left -= int64(len(frame)); w.left <= 0 {
			if w.trap.sprung.CompareAndSwap(false, true) {
				w.held = true
				w.trap.caught <- w
			}
			w.trap = nil
		}
	}
	for w.held {
		w.open.Wait()
	}
	return !w.gone
}

func (w *wire) hold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = true
}

// release lets frames pass again; those that waited do.
func (w *wire) release() { w.is(false) }

// cut has frames lost, until release.
func (w *wire) cut() { w.is(true) }

func (w *wire) is(gone bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held, w.gone = false, gone
	w.open.Broadcast()
}

func (w *wire) set(t *trap, left int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trap, w.left = t, left
}
