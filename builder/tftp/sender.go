package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/ipv4"
)

// How a transfer ends early.
var (
	// errProbe: the client only wanted the file's size. Firmware asks with tsize and then stops with an ERROR.
	errProbe = errors.New("the client only asked for the size")
	// errRefused: an ERROR from the client.
	errRefused = errors.New("the client ended the transfer")
	// errSilent: nothing came in time.
	errSilent = errors.New("the client stopped answering")
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

// sender sends one file to one client. Its buffers hold one window and are used again for each.
type sender struct {
	conn     *net.UDPConn
	batch    *ipv4.PacketConn
	client   netip.AddrPort
	file     File
	size     int64
	options  options
	block    int           // bytes
	window   int           // blocks
	timeout  time.Duration // before a window is sent again
	retries  int
	blocks   int64          // in the file; the last one is shorter than the block size, perhaps empty
	single   []byte         // a header and its data, where the window is one block
	data     []byte         // of a window
	headers  []byte         // of a window
	packets  []ipv4.Message // of a window: a header and its data each
	received [516]byte
	heard    func() // called once, when the client has answered

	roundTrip time.Duration // from a window to its acknowledgement, smoothed; 0: not known yet
	// doubled is how many windows to go in which acknowledgements of packets that came twice may arrive. They look like
	// the news of a loss.
	doubled int
}

func newSender(c Config, conn *net.UDPConn, client netip.AddrPort, file File, o options) *sender {
	s := &sender{conn: conn, client: client, file: file, size: file.Size(), block: 512, window: 1, timeout: c.Timeout, retries: c.Retries}
	if o.blockSize > 0 {
		o.blockSize = min(o.blockSize, c.MaxBlockSize)
		s.block = o.blockSize
	}
	if o.windowSize > 0 {
		o.windowSize = min(o.windowSize, c.MaxWindow)
		s.window = o.windowSize
	}
	if o.timeout > 0 {
		s.timeout = time.Duration(o.timeout) * time.Second
	}
	s.options = o
	s.blocks = s.size/int64(s.block) + 1
	s.batch = ipv4.NewPacketConn(conn)
	s.single = make([]byte, headerSize+s.window*s.block)
	s.data = s.single[headerSize:]
	s.headers = make([]byte, s.window*headerSize)
	s.packets = make([]ipv4.Message, s.window)
	to := net.UDPAddrFromAddrPort(client)
	for i := range s.packets {
		s.packets[i] = ipv4.Message{Buffers: [][]byte{s.headers[i*headerSize : (i+1)*headerSize], nil}, Addr: to}
	}
	return s
}

// run sends the file. The next block to send is counted in 64 bits; only its low 16 bits travel (they roll over to 0).
func (s *sender) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := s.offerOptions(ctx); err != nil {
		return err
	}
	failed := 0
	for next := int64(1); next <= s.blocks; {
		sent, err := s.sendWindow(next)
		if err != nil {
			return err
		}
		at := time.Now()
		acked, err := s.awaitAck(ctx, next, sent, s.wait(failed))
		if errors.Is(err, errSilent) && failed < s.retries {
			failed++
			s.doubled = 2
			continue
		}
		if err != nil {
			return fmt.Errorf("block %d of %d: %w", next, s.blocks, err)
		}
		s.learn(acked == next+int64(sent)-1, time.Since(at))
		if acked >= next {
			failed = 0
		}
		next = acked + 1
	}
	return nil
}

// learn takes what an acknowledgement tells: whether the window has arrived whole, and in what time. The time counts only
// if nothing was sent twice (Karn's algorithm).
func (s *sender) learn(whole bool, took time.Duration) {
	switch {
	case !whole:
		s.doubled = 2
	case s.doubled > 0:
		s.doubled--
	case s.roundTrip == 0:
		s.roundTrip = took
	default:
		s.roundTrip += (took - s.roundTrip) / 8
	}
}

// wait is how long to wait for an acknowledgement after so many silences.
func (s *sender) wait(failed int) time.Duration {
	switch {
	case s.options.timeout > 0:
		return s.timeout
	case failed > 0:
		return s.timeout << min(failed-1, maxBackoff)
	case s.roundTrip > 0:
		return min(s.timeout, max(quickest, 4*s.roundTrip))
	}
	return s.timeout
}

// offerOptions sends the OACK, if the client asked for options, and waits for its acknowledgement, block 0 (RFC 2347
// section 3).
func (s *sender) offerOptions(ctx context.Context) error {
	if len(s.options.order) == 0 {
		return nil
	}
	packet := s.options.oack(s.size)
	for failed := 0; failed <= s.retries; failed++ {
		if _, err := s.conn.WriteToUDPAddrPort(packet, s.client); err != nil {
			return fmt.Errorf("cannot send to %s: %w", s.client, err)
		}
		_, err := s.awaitAck(ctx, 0, 1, s.wait(failed))
		if errors.Is(err, errRefused) {
			return fmt.Errorf("%w: %w", errProbe, err)
		}
		if !errors.Is(err, errSilent) {
			return err
		}
	}
	return errProbe
}

// sendWindow sends up to a window of blocks from first on and returns how many.
func (s *sender) sendWindow(first int64) (int, error) {
	count := int(min(int64(s.window), s.blocks-first+1))
	start := (first - 1) * int64(s.block)
	data := s.data[:min(int64(count*s.block), s.size-start)]
	if n, err := s.file.ReadAt(data, start); n < len(data) {
		if err == nil || errors.Is(err, io.EOF) {
			err = errors.New("the file became shorter")
		}
		s.abort("cannot read the file")
		return 0, fmt.Errorf("cannot read block %d: %w", first, err)
	}
	if s.window == 1 {
		putHeader(s.single, first)
		if _, err := s.conn.WriteToUDPAddrPort(s.single[:headerSize+len(data)], s.client); err != nil {
			return 0, fmt.Errorf("cannot send to %s: %w", s.client, err)
		}
		return 1, nil
	}
	for i := range count {
		putHeader(s.headers[i*headerSize:], first+int64(i))
		s.packets[i].Buffers[1] = data[i*s.block : min((i+1)*s.block, len(data))]
	}
	for sent := 0; sent < count; {
		n, err := s.batch.WriteBatch(s.packets[sent:count], 0)
		if err != nil {
			return 0, fmt.Errorf("cannot send to %s: %w", s.client, err)
		}
		sent += n
	}
	return count, nil
}

func putHeader(to []byte, block int64) {
	binary.BigEndian.PutUint16(to, opDATA)
	binary.BigEndian.PutUint16(to[2:], uint16(block))
}

// abort tells the client that the transfer is over.
func (s *sender) abort(reason string) {
	_, _ = s.conn.WriteToUDPAddrPort(errorPacket(codeUndefined, reason), s.client)
}

// awaitAck waits for an acknowledgement of a block in [first, first+count) and returns the block. Acknowledgements of
// earlier blocks are duplicates: they are dropped and not answered, or each would double the traffic (RFC 1123 section
// 4.2.3.1, the sorcerer's apprentice). One of block first-1 in a window of several can tell of a loss (RFC 7440 section
// 4); the window is then sent again at once, but not while what was sent twice before still echoes: a duplicate that is
// taken for a loss would double every window that follows.
func (s *sender) awaitAck(ctx context.Context, first int64, count int, wait time.Duration) (int64, error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return 0, fmt.Errorf("cannot wait for %s: %w", s.client, err)
	}
	for {
		if ctx.Err() != nil {
			s.abort("the server stops")
			return 0, ctx.Err()
		}
		n, from, err := s.conn.ReadFromUDPAddrPort(s.received[:])
		switch {
		case ctx.Err() != nil:
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			return 0, errSilent
		case err != nil:
			return 0, fmt.Errorf("cannot hear %s: %w", s.client, err)
		}
		if from.Port() != s.client.Port() || from.Addr().Unmap() != s.client.Addr().Unmap() || n < headerSize {
			continue // a stranger (RFC 1350 section 4), or noise
		}
		switch binary.BigEndian.Uint16(s.received[:]) {
		case opERROR:
			return 0, fmt.Errorf("%w: %q", errRefused, printable(s.received[headerSize:n]))
		case opACK:
			ahead := int64(int16(binary.BigEndian.Uint16(s.received[2:]) - uint16(first)))
			if ahead >= 0 && ahead < int64(count) || ahead == -1 && s.window > 1 && first > 1 && s.doubled == 0 {
				if s.heard != nil {
					s.heard()
					s.heard = nil
				}
				return first + ahead, nil
			}
		}
	}
}

// printable is a client's message, bounded and without control characters.
func printable(message []byte) string {
	out := make([]byte, 0, len(message))
	for _, b := range message {
		if b == 0 {
			break
		}
		if b >= ' ' && b < 0x7f {
			out = append(out, b)
		}
	}
	return string(out)
}
