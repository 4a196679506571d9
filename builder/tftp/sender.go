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

// errProbe ends a transfer whose client only wanted the file's size: firmware asks with tsize and then stops with an
// ERROR. That's no failure.
var errProbe = errors.New("the client only asked for the size")

// headerSize is the opcode and block number before the data.
const headerSize = 4

// sender sends one file to one client.
type sender struct {
	conn    *net.UDPConn
	batch   *ipv4.PacketConn
	client  netip.AddrPort
	file    File
	options options
	block   int           // bytes
	window  int           // blocks
	timeout time.Duration // before a window is sent again
	retries int
	blocks  int64 // in the file; the last one is shorter than the block size, perhaps empty
	packets []ipv4.Message
	rewound int64 // first block of the window that was sent again because the client told of a loss
}

func newSender(c Config, conn *net.UDPConn, client netip.AddrPort, file File, o options) *sender {
	s := &sender{conn: conn, client: client, file: file, block: 512, window: 1, timeout: c.Timeout, retries: c.Retries}
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
	s.blocks = file.Size()/int64(s.block) + 1
	s.batch = ipv4.NewPacketConn(conn)
	s.packets = make([]ipv4.Message, s.window)
	for i := range s.packets {
		s.packets[i] = ipv4.Message{Buffers: [][]byte{make([]byte, headerSize+s.block)}, Addr: net.UDPAddrFromAddrPort(client)}
	}
	return s
}

// run sends the file. The next block to send is counted in 64 bits; only its low 16 bits travel (they roll over to 0).
func (s *sender) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	next := int64(1)
	if len(s.options.order) > 0 {
		if err := s.offerOptions(ctx); err != nil {
			return err
		}
	}
	for failed := 0; next <= s.blocks; {
		sent, err := s.sendWindow(next)
		if err != nil {
			return err
		}
		acked, err := s.awaitAck(ctx, next, sent)
		if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			if failed++; failed > s.retries {
				return fmt.Errorf("the client stopped answering at block %d of %d", next, s.blocks)
			}
			continue
		}
		if err != nil {
			return err
		}
		if acked >= next {
			failed = 0
		}
		next = acked + 1
	}
	return nil
}

// offerOptions sends the OACK and waits for its acknowledgement, block 0 (RFC 2347 section 3).
func (s *sender) offerOptions(ctx context.Context) error {
	packet := s.options.oack(s.file.Size())
	for try := 0; try <= s.retries; try++ {
		if _, err := s.conn.WriteToUDPAddrPort(packet, s.client); err != nil {
			return fmt.Errorf("cannot send to %s: %w", s.client, err)
		}
		_, err := s.awaitAck(ctx, 0, 1)
		if errors.Is(err, errRefused) {
			return errProbe
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
			return err
		}
	}
	return errProbe
}

// sendWindow sends up to a window of blocks from first on and returns how many.
func (s *sender) sendWindow(first int64) (int, error) {
	count := int(min(int64(s.window), s.blocks-first+1))
	for i := range count {
		packet := s.packets[i].Buffers[0][:headerSize+s.block]
		number := first + int64(i)
		binary.BigEndian.PutUint16(packet, opDATA)
		binary.BigEndian.PutUint16(packet[2:], uint16(number))
		n, err := s.file.ReadAt(packet[headerSize:], (number-1)*int64(s.block))
		if err != nil && !errors.Is(err, io.EOF) {
			_, _ = s.conn.WriteToUDPAddrPort(errorPacket(codeUndefined, "cannot read the file"), s.client)
			return 0, fmt.Errorf("cannot read block %d: %w", number, err)
		}
		if number < s.blocks && n < s.block {
			return 0, fmt.Errorf("cannot read block %d: the file became shorter", number)
		}
		s.packets[i].Buffers[0] = packet[:headerSize+n]
	}
	for sent := 0; sent < count; {
		n, err := s.batch.WriteBatch(s.packets[sent:count], 0)
		if err != nil {
			return 0, fmt.Errorf("cannot send to %s: %w", s.client, err)
		}
		sent += n
	}
	for i := range count {
		s.packets[i].Buffers[0] = s.packets[i].Buffers[0][:cap(s.packets[i].Buffers[0])]
	}
	return count, nil
}

// errRefused is an ERROR from the client.
var errRefused = errors.New("the client ended the transfer")

// awaitAck waits for an acknowledgement of a block in [first, first+count) and returns the block. Acknowledgements of
// earlier blocks are duplicates: they are dropped and not answered, or each would double the traffic (RFC 1123 section
// 4.2.3.1, the sorcerer's apprentice). One for block first-1 in a window of several tells of a loss (RFC 7440 section 4);
// the window is then sent again at once, but only once: after that the time-out decides.
func (s *sender) awaitAck(ctx context.Context, first int64, count int) (int64, error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(s.timeout)); err != nil {
		return 0, err
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	var buffer [516]byte
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(buffer[:])
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return 0, err
		}
		if from.Port() != s.client.Port() || from.Addr().Unmap() != s.client.Addr().Unmap() || n < headerSize {
			continue
		}
		switch binary.BigEndian.Uint16(buffer[:]) {
		case opERROR:
			return 0, fmt.Errorf("%w: %q", errRefused, printable(buffer[headerSize:n]))
		case opACK:
			ahead := int64(int16(binary.BigEndian.Uint16(buffer[2:]) - uint16(first)))
			if ahead >= 0 && ahead < int64(count) {
				return first + ahead, nil
			}
			if ahead == -1 && s.window > 1 && first > 1 && s.rewound != first {
				s.rewound = first
				return first - 1, nil
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
