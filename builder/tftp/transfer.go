package tftp

import (
	"container/list"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// How a transfer ends early.
var (
	// errProbe: the client only wanted the file's size. Firmware asks with tsize and then stops with an ERROR.
	errProbe = errors.New("the client only asked for the size")
	// errRefused: an ERROR from the client.
	errRefused = errors.New("the client ended the transfer")
	// errSilent: nothing came in time.
	errSilent = errors.New("the client stopped answering")
	// errStopped: the server ends.
	errStopped = errors.New("the server stops")
)

// headerSize is the opcode and block number before the data, in bytes.
const headerSize = 4

// How long to wait for an acknowledgement, unless the client asked for a time-out of its own.
const (
	// quickest bounds from below how soon a window is sent again after the first silence. It follows from how long the
	// client's acknowledgements took so far, so that one lost packet doesn't cost a whole time-out.
	quickest = 100 * time.Millisecond
	// maxBackoff bounds how often the time-out doubles when nothing is heard: firmware gives up after about 20 s.
	maxBackoff = 2
)

// transfer sends one file to one client. Its loop's lock guards it.
type transfer struct {
	server  *Server
	loop    *loop
	port    port
	request request
	client  netip.AddrPort
	started time.Time
	file    File
	size    int64
	options options       // as granted
	block   int           // bytes
	window  int           // blocks
	timeout time.Duration // before a window is sent again
	blocks  int64         // in the file; the last one is shorter than the block size, perhaps empty

	first   int64     // block of the window that is out; 0: the option acknowledgement is
	count   int       // blocks in that window
	at      time.Time // when it was sent
	since   time.Time // when it was sent first
	failed  int       // silences in a row
	trouble error     // the last one in sending
	ended   bool

	deadline time.Time     // of the window that is out
	armed    time.Time     // when the loop looks at the deadline: then or before
	place    int           // in the loop's schedule; -1: none
	half     *list.Element // among those whose client hasn't answered yet; the server's lock guards it

	roundTrip time.Duration // from a window to its acknowledgement, smoothed; 0: not known yet
	// doubled is how many windows to go in which acknowledgements of packets that came twice may arrive. They look like
	// the news of a loss.
	doubled int
}

// grant decides what a client gets of what it asks for.
func (t *transfer) grant(c Config, o options) {
	t.block, t.window, t.timeout = 512, 1, c.Timeout
	if o.blockSize > 0 {
		o.blockSize = min(o.blockSize, c.MaxBlockSize)
		t.block = o.blockSize
	}
	if o.windowSize > 0 {
		o.windowSize = min(o.windowSize, c.MaxWindow, max(1, maxFrames/(headerSize+t.block)))
		t.window = o.windowSize
	}
	if o.timeout > 0 {
		t.timeout = time.Duration(o.timeout) * time.Second
	}
	t.options = o
	t.blocks = t.size/int64(t.block) + 1
}

// begin sends the option acknowledgement, if the client asked for options (RFC 2347 section 3), else the first block.
func (t *transfer) begin() {
	t.first, t.count = 1, 1
	if len(t.options.order) > 0 {
		t.first = 0
	}
	t.send()
}

// send sends what is next: the option acknowledgement or a window. The next block is counted in 64 bits; only its low 16 bits travel
// (they roll over to 0).
func (t *transfer) send() {
	if t.first == 0 {
		t.out(t.options.oack(t.size), maxFrames)
	} else if !t.sendWindow() {
		return
	}
	t.at = time.Now()
	if t.failed == 0 {
		t.since = t.at
	}
	t.loop.schedule(t, t.at.Add(t.wait()))
}

// sendWindow sends up to a window of blocks. false: the file can't be read, and the transfer has ended.
func (t *transfer) sendWindow() bool {
	l := t.loop
	t.count = int(min(int64(t.window), t.blocks-t.first+1))
	start := (t.first - 1) * int64(t.block)
	length := int(min(int64(t.count*t.block), t.size-start))
	data := l.data[:length]
	if t.count == 1 {
		data = l.frames[headerSize : headerSize+length]
	}
	if n, err := t.file.ReadAt(data, start); n < length {
		if err == nil || errors.Is(err, io.EOF) {
			err = errors.New("the file became shorter")
		}
		t.abort("cannot read the file")
		t.end(fmt.Errorf("cannot read block %d: %w", t.first, err))
		return false
	}
	frames := l.frames[:0]
	for i := range t.count {
		frames = binary.BigEndian.AppendUint16(frames, opDATA)
		frames = binary.BigEndian.AppendUint16(frames, uint16(t.first+int64(i)))
		part := data[min(i*t.block, length):min((i+1)*t.block, length)]
		if t.count == 1 {
			frames = frames[:headerSize+length]
		} else {
			frames = append(frames, part...)
		}
	}
	t.out(frames, headerSize+t.block)
	return true
}

func (t *transfer) out(packets []byte, size int) {
	if err := t.port.send(packets, size); err != nil {
		t.trouble = err
	}
}

// abort tells the client that the transfer is over.
func (t *transfer) abort(reason string) { t.out(errorPacket(codeUndefined, reason), maxFrames) }

// hear takes a packet of the client. Acknowledgements of earlier blocks are duplicates: they are dropped and not answered,
// or each would double the traffic (RFC 1123 section 4.2.3.1, the sorcerer's apprentice). One of the block before the window, where
// a window has several, can tell of a loss (RFC 7440 section 4); the window is then sent again at once, but not while what was
// sent twice before still echoes: a duplicate that is taken for a loss would double every window that follows.
func (t *transfer) hear(packet []byte) {
	if t.ended || len(packet) < headerSize {
		return
	}
	switch binary.BigEndian.Uint16(packet) {
	case opERROR:
		err := fmt.Errorf("%w: %q", errRefused, printable(packet[headerSize:]))
		if t.first == 0 {
			err = fmt.Errorf("%w: %w", errProbe, err)
		}
		t.end(t.failure(err))
	case opACK:
		ahead := int64(int16(binary.BigEndian.Uint16(packet[2:]) - uint16(t.first)))
		if ahead >= 0 && ahead < int64(t.count) || ahead == -1 && t.window > 1 && t.first > 1 && t.doubled == 0 {
			t.acknowledged(t.first + ahead)
		}
	}
}

// acknowledged goes on after a block.
func (t *transfer) acknowledged(block int64) {
	t.loop.last = t
	if t.half != nil {
		t.server.heard(t)
	}
	if t.first > 0 {
		t.learn(block == t.first+int64(t.count)-1)
	}
	if block >= t.first {
		t.failed = 0
	}
	if t.first = block + 1; t.first > t.blocks {
		t.end(nil)
		return
	}
	t.send()
}

// learn takes what an acknowledgement tells: whether the window has arrived whole, and in what time. The time counts only
// if nothing was sent twice (Karn's algorithm).
func (t *transfer) learn(whole bool) {
	switch took := time.Since(t.at); {
	case !whole:
		t.doubled = 2
	case t.doubled > 0:
		t.doubled--
	case t.roundTrip == 0:
		t.roundTrip = took
	default:
		t.roundTrip += (took - t.roundTrip) / 8
	}
}

// wait is how long to wait for an acknowledgement after so many silences: each time twice as long, from what the client took so far or
// from the time-out. A client that asked for a time-out of its own gets that.
func (t *transfer) wait() time.Duration {
	first := t.timeout
	switch {
	case t.options.timeout > 0:
		return t.timeout
	case t.roundTrip > 0:
		first = min(t.timeout, max(quickest, 4*t.roundTrip))
	case t.failed > 0:
		first /= 2 // the first two waits are the same: nothing is known of the client
	}
	return min(first<<min(t.failed, 16), t.timeout<<maxBackoff)
}

// patience is how long a client may be silent: as long as its time-outs would take if nothing were known of it.
func (t *transfer) patience() time.Duration {
	most := t.timeout
	for failed := 1; failed <= t.server.config.Retries; failed++ {
		if t.options.timeout > 0 {
			most += t.timeout
		} else {
			most += t.timeout << min(failed-1, maxBackoff)
		}
	}
	return most
}

// silent sends again what wasn't acknowledged in time, or gives up.
func (t *transfer) silent() {
	if time.Since(t.since) < t.patience() {
		t.failed++
		t.doubled = 2
		t.send()
		return
	}
	err := errSilent
	if t.first == 0 {
		err = errProbe
	} else if t.trouble != nil {
		err = fmt.Errorf("%w (%w)", err, t.trouble)
	}
	t.end(t.failure(err))
}

// failure says where a transfer was when it failed.
func (t *transfer) failure(err error) error {
	if errors.Is(err, errProbe) {
		return err
	}
	return fmt.Errorf("block %d of %d: %w", t.first, t.blocks, err)
}

// end ends the transfer.
func (t *transfer) end(err error) {
	if t.ended {
		return
	}
	t.ended = true
	if t.loop.last == t {
		t.loop.last = nil
	}
	t.loop.remove(t)
	t.port.close()
	t.server.leave(t, err)
}

// printable is a client's message, bounded and without control characters.
func printable(message []byte) string {
	out := make([]byte, 0, len(message))
	for _, b := range message {
		if b == 0 || len(out) == 256 {
			break
		}
		if b >= ' ' && b < 0x7f {
			out = append(out, b)
		}
	}
	return string(out)
}
