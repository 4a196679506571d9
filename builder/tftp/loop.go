package tftp

import (
	"bytes"
	"container/heap"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxFrames bounds the packets of one window in bytes, and with them what a loop needs to build them.
const maxFrames = 64 << 10

// loop drives its transfers: it waits for any of their sockets in one system call, as servers in C do it. A transfer of one
// block at a time is bound by how long it takes from an acknowledgement to the next block, and the runtime's poller adds to
// that: it wakes for sent packets too, and hands what it has read to another thread.
//
// A transfer costs a struct and a socket. The buffers are the loop's.
type loop struct {
	server *Server
	epoll  int
	wake   int // eventfd: something has changed for the loop
	shared int // the socket that all transfers and requests share; -1: none

	mu        sync.Mutex // held while events are handled
	transfers map[int]*transfer
	last      *transfer // that has heard from its client
	due       schedule
	stopped   bool
	received  [maxRequest + 1]byte
	data      [maxFrames]byte
	frames    [maxFrames]byte
}

func newLoop(s *Server) (*loop, error) {
	l := &loop{server: s, epoll: -1, wake: -1, shared: -1, transfers: map[int]*transfer{}}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err == nil {
			err = l.watch(l.wake)
		}
	}
	if err != nil {
		l.close()
		return nil, fmt.Errorf("cannot wait for TFTP clients: %w", os.NewSyscallError("epoll", err))
	}
	return l, nil
}

func (l *loop) close() {
	for _, fd := range []int{l.wake, l.epoll} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

func (l *loop) watch(fd int) error {
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

// share has the loop read a socket that all share.
func (l *loop) share(fd int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shared = fd
	return l.watch(fd)
}

// run handles what comes until stop.
func (l *loop) run() {
	events := make([]unix.EpollEvent, 64)
	for wait, look := -1, false; ; {
		n, err := l.wait(events, wait, look)
		l.mu.Lock()
		if l.stopped {
			l.mu.Unlock()
			return
		}
		if err == nil {
			for _, event := range events[:n] {
				l.readable(int(event.Fd))
			}
		}
		wait, look = l.expire(), l.near()
		l.mu.Unlock()
	}
}

// nearby bounds how soon a client answers that the loop looks out for instead of going to sleep: on the same machine or on the next
// one the way to sleep and back takes as long as the answer.
const nearby = 60 * time.Microsecond

// near says whether the loop serves one client only, which answers that soon; the lock is held.
func (l *loop) near() bool {
	t := l.last
	return len(l.due) == 1 && t != nil && !t.ended && t.roundTrip > 0 && t.roundTrip < nearby && runtime.NumCPU() > 1
}

// wait waits for packets, at most so many milliseconds. It looks for some time first if that's worth it.
func (l *loop) wait(events []unix.EpollEvent, milliseconds int, look bool) (int, error) {
	if look {
		for began := time.Now(); time.Since(began) < nearby; {
			if n, err := unix.EpollWait(l.epoll, events, 0); n != 0 || err != nil {
				return n, err
			}
		}
	}
	return unix.EpollWait(l.epoll, events, milliseconds)
}

// readable takes one packet, if there is one. More of them make the loop come again, after the others.
func (l *loop) readable(fd int) bool {
	if fd == l.shared {
		return l.readShared()
	}
	t := l.transfers[fd]
	if t == nil && fd != l.wake {
		return false // it has ended since, and the number may be another file's by now
	}
	n, err := unix.Read(fd, l.received[:])
	switch {
	case errors.Is(err, unix.EAGAIN):
		return false
	case t == nil: // something has changed
	case err != nil:
		t.trouble = err // as of a port that is closed there: the client may yet come back
	default:
		t.hear(l.received[:n])
	}
	return true
}

// readShared takes one packet from the socket that all share. What is no request is for its client's transfer; without one it's
// late, or noise.
func (l *loop) readShared() bool {
	n, from, err := unix.Recvfrom(l.shared, l.received[:], unix.MSG_DONTWAIT)
	if err != nil {
		return false // nothing, or news of the interface
	}
	client, ok := addrPort(from)
	if !ok {
		return true
	}
	if n >= headerSize && (l.received[1] == opACK || l.received[1] == opERROR) {
		if t := l.server.of(client); t != nil {
			t.hear(l.received[:n])
		}
		return true
	}
	select {
	case l.server.came <- came{client, bytes.Clone(l.received[:n])}:
	default: // as lost on the way
	}
	return true
}

// expire wakes the transfers whose time has come, and returns how long none will, in milliseconds; -1: for ever.
func (l *loop) expire() int {
	if len(l.due) == 0 {
		return -1
	}
	now := time.Now()
	for len(l.due) > 0 {
		t := l.due[0]
		switch {
		case t.armed.After(now):
			return int(min(t.armed.Sub(now)/time.Millisecond+1, math.MaxInt32))
		case t.deadline.After(now):
			t.armed = t.deadline // it has heard from its client meanwhile
			heap.Fix(&l.due, 0)
		default:
			t.silent()
		}
	}
	return -1
}

// add begins a transfer.
func (l *loop) add(t *transfer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		t.end(errStopped)
		return
	}
	if t.port.own {
		if err := l.watch(t.port.fd); err != nil {
			t.end(fmt.Errorf("cannot wait for %s: %w", t.client, err))
			return
		}
		l.transfers[t.port.fd] = t
	}
	t.begin()
	l.poke()
}

// remove forgets a transfer; the lock is held.
func (l *loop) remove(t *transfer) {
	if t.place >= 0 {
		heap.Remove(&l.due, t.place)
	}
	if t.port.own {
		delete(l.transfers, t.port.fd)
	}
}

// schedule sets a transfer's deadline; the lock is held. A later one is looked at when the earlier has come.
func (l *loop) schedule(t *transfer, deadline time.Time) {
	t.deadline = deadline
	switch {
	case t.place < 0:
		t.armed = deadline
		heap.Push(&l.due, t)
	case deadline.Before(t.armed):
		t.armed = deadline
		heap.Fix(&l.due, t.place)
	}
}

// poke makes the loop look at its deadlines.
func (l *loop) poke() { _, _ = unix.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// stop ends all transfers, and run.
func (l *loop) stop(all []*transfer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	for _, t := range all {
		if t.loop == l && !t.ended {
			t.abort("the server stops")
			t.end(errStopped)
		}
	}
	l.poke()
}

// schedule of transfers: a heap by when they are looked at.
type schedule []*transfer

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].armed.Before(s[j].armed) }
func (s schedule) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].place, s[j].place = i, j
}

func (s *schedule) Push(x any) {
	t := x.(*transfer)
	t.place = len(*s)
	*s = append(*s, t)
}

func (s *schedule) Pop() any {
	last := len(*s) - 1
	t := (*s)[last]
	(*s)[last] = nil
	*s = (*s)[:last]
	t.place = -1
	return t
}
