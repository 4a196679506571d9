// Package tftp is a read-only TFTP server for boot files: RFC 1350 with the options of RFC 2348 (block size), RFC 2349
// (time-out, transfer size) and RFC 7440 (window size). Block numbers roll over, so files may be of any size.
//
// It knows nothing of files: it asks its Opener. It is not for writing, and serves octet mode only (netascii requests
// get the same bytes, as other boot servers do it).
package tftp

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Opener opens a file for a client. The name has no leading slash, no backslash and no "..". An error that is
// fs.ErrNotExist tells the client that there's no such file; any other is an access violation.
type Opener func(name string, client netip.Addr) (File, error)

// File is what a transfer reads. ReadAt must allow reading the same place again: blocks are sent again when lost.
type File interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Transfer is how one transfer ended.
type Transfer struct {
	Client   netip.AddrPort
	Name     string
	Size     int64 // bytes of the file
	Duration time.Duration
	Err      error // nil: the client has acknowledged every byte
}

// Config of a server. Zero values of the limits take the defaults in parentheses.
type Config struct {
	Open Opener
	Done func(Transfer) // called when a transfer ends; may be nil
	Log  *slog.Logger
	// SinglePort: all transfers use the socket that requests come to, for networks that let no other port through. Else each has a
	// port of its own (RFC 1350 section 4), which clients expect and which is faster.
	SinglePort   bool
	MaxTransfers int           // at the same time, in all (2048)
	MaxPerClient int           // at the same time, for one address (8)
	MaxBlockSize int           // bytes (1468: an Ethernet frame of 1500 less IPv4, UDP and TFTP headers)
	MaxWindow    int           // blocks (32); fewer where they are larger than 64 KiB together
	Retries      int           // so many time-outs, each twice the one before and at most four of them long, until a transfer is given up (6: 20 s)
	Timeout      time.Duration // before a window is sent again, unless the client asks for its own or is known to be faster (1 s)
}

// Server serves one socket.
type Server struct {
	config Config
	conn   *net.UDPConn // requests arrive here
	shared int          // instead of conn, with a single port
	came   chan came    // the same
	listen func() (*net.UDPConn, error)
	loops  []*loop

	mu     sync.Mutex // a loop's lock is taken before it, never after it
	all    map[*transfer]struct{}
	client map[netip.Addr]int
	asking map[netip.AddrPort]*transfer // those whose client hasn't answered yet; with a single port, all
	half   list.List                    // those whose client hasn't answered yet, the oldest first
	next   int                          // loop
	done   sync.WaitGroup
}

// New makes a server.
func New(c Config) *Server {
	setDefault(&c.MaxTransfers, 2048)
	setDefault(&c.MaxPerClient, 8)
	setDefault(&c.MaxBlockSize, 1468)
	setDefault(&c.MaxWindow, 32)
	setDefault(&c.Retries, 6)
	c.MaxBlockSize = min(c.MaxBlockSize, maxFrames-headerSize)
	if c.Timeout == 0 {
		c.Timeout = time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{config: c, shared: -1, all: map[*transfer]struct{}{}, client: map[netip.Addr]int{}, asking: map[netip.AddrPort]*transfer{}}
}

func setDefault(value *int, fallback int) {
	if *value == 0 {
		*value = fallback
	}
}

// maxLoops bounds the threads that serve transfers.
const maxLoops = 4

// maxCame bounds the requests that wait to be looked at.
const maxCame = 256

// came is a packet that may be a request.
type came struct {
	client netip.AddrPort
	packet []byte
}

// Serve answers requests on conn until ctx ends, then waits for its transfers, which end with ctx too. listen opens the
// socket a transfer uses (RFC 1350 section 4: each has its own port); it must be able to send from conn's address. With a single
// port conn is taken over and closed.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn, listen func() (*net.UDPConn, error)) (err error) {
	s.conn, s.listen = conn, listen
	loops := min(runtime.GOMAXPROCS(0), maxLoops)
	if s.config.SinglePort {
		if s.shared, err = double(conn); err != nil {
			return fmt.Errorf("cannot serve TFTP on a single port: %w", err)
		}
		defer unix.Close(s.shared)
		conn.Close()
		widen(s.shared)
		s.came = make(chan came, maxCame)
		loops = 1
	}
	var running sync.WaitGroup
	defer func() { s.stop(&running) }()
	for range loops {
		l, err := newLoop(s)
		if err != nil {
			return err
		}
		s.loops = append(s.loops, l)
		running.Go(l.run)
	}
	if s.config.SinglePort {
		return s.takeCome(ctx)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	return s.requests(ctx)
}

// takeCome looks at what a loop has read that may be a request.
func (s *Server) takeCome(ctx context.Context) error {
	if err := s.loops[0].share(s.shared); err != nil {
		return fmt.Errorf("cannot serve TFTP on a single port: %w", err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-s.came:
			s.accept(c.packet, c.client)
		}
	}
}

// widen gives a socket that many transfers share room for a window of each of many.
func widen(fd int) {
	const room = 8 << 20 // bytes
	for _, option := range []struct{ force, plain int }{{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, option.force, room) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, option.plain, room)
		}
	}
}

// stop ends all transfers and loops, and waits until everybody was told.
func (s *Server) stop(running *sync.WaitGroup) {
	s.mu.Lock()
	all := slices.Collect(maps.Keys(s.all))
	s.mu.Unlock()
	for _, l := range s.loops {
		l.stop(all)
	}
	running.Wait()
	for _, l := range s.loops {
		l.close()
	}
	s.done.Wait()
}

// requests reads what comes to the server's port.
func (s *Server) requests(ctx context.Context) error {
	buffer := make([]byte, maxRequest+1)
	for {
		n, client, err := s.conn.ReadFromUDPAddrPort(buffer)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("cannot read TFTP requests: %w", err)
		}
		if err != nil {
			s.config.Log.Warn("tftp: cannot read a request", "error", err)
			pause(ctx, time.Second) // the interface is down
			continue
		}
		s.accept(buffer[:n], client)
	}
}

// of is the transfer of a client that hasn't answered yet; with a single port, of any.
func (s *Server) of(client netip.AddrPort) *transfer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asking[client]
}

// refuse answers a request with an ERROR.
func (s *Server) refuse(client netip.AddrPort, code uint16, reason string) {
	s.config.Log.Info("tftp: refused", "client", client, "reason", reason)
	packet := errorPacket(code, reason)
	if !s.config.SinglePort {
		_, _ = s.conn.WriteToUDPAddrPort(packet, client)
	} else if p, err := sharedPort(s.shared, client, len(packet)); err == nil {
		_ = p.send(packet, len(packet))
	}
}

// accept starts a transfer, or answers with the reason why not.
func (s *Server) accept(packet []byte, client netip.AddrPort) {
	r, err := parseRequest(packet)
	if err != nil {
		// An ERROR in answer to an ERROR could go on for ever; anything else that's malformed is only noted in the log.
		s.config.Log.Info("tftp: not a request", "client", client, "error", err)
		return
	}
	if r.write {
		s.refuse(client, codeAccess, "this server is read-only")
		return
	}
	name, err := cleanName(r.file)
	if err != nil {
		s.refuse(client, codeAccess, err.Error())
		return
	}
	r.file = name
	if s.again(client, r) {
		return
	}
	if err := s.room(client.Addr().Unmap()); err != nil {
		// No answer: the client asks again, and by then there may be room.
		s.config.Log.Info("tftp: not answered", "client", client, "error", err)
		return
	}
	s.start(client, r)
}

// maxRead bounds the packets of a client that are read at once.
const maxRead = 16

// again deals with a request of a client whose earlier one is still being answered. true: that's all there is to do.
//
// The same request comes again when our answer was lost or is slow: the answer is sent again, and no second transfer begins. A client
// that has ended the first one meanwhile (firmware asks for the size, ends that, and asks for the file, all from one port) means
// a new one; its ERROR may not have been read yet. Another request means that it has gone on.
func (s *Server) again(client netip.AddrPort, r request) bool {
	t := s.of(client)
	if t == nil {
		return false
	}
	l := t.loop
	l.mu.Lock()
	defer l.mu.Unlock()
	for range maxRead {
		if !t.port.own || t.ended || !l.readable(t.port.fd) {
			break
		}
	}
	if t.ended || t.half == nil && !s.config.SinglePort {
		return false
	}
	if t.half != nil && t.request.same(r) {
		t.send()
		l.poke()
		return true
	}
	t.end(errProbe)
	return false
}

// room makes room for one more transfer, or says why there is none. Where as many run as may be, of one address or in all, the one that
// goes is the oldest whose client has never answered: nobody can keep the others out by asking for much and never taking it.
func (s *Server) room(address netip.Addr) error {
	s.mu.Lock()
	var oldest *transfer
	var err error
	switch {
	case s.client[address] >= s.config.MaxPerClient:
		oldest = s.unanswered(func(t *transfer) bool { return t.client.Addr().Unmap() == address })
		err = fmt.Errorf("this client has %d transfers, the most it may have", s.config.MaxPerClient)
	case len(s.all) >= s.config.MaxTransfers:
		oldest = s.unanswered(func(*transfer) bool { return true })
		err = fmt.Errorf("%d transfers run, the most there may be", s.config.MaxTransfers)
	}
	s.mu.Unlock()
	if oldest == nil {
		return err
	}
	oldest.loop.mu.Lock()
	defer oldest.loop.mu.Unlock()
	if oldest.half == nil && !oldest.ended {
		return err // it has answered meanwhile
	}
	oldest.end(errProbe)
	return nil
}

// unanswered is the oldest of some transfers whose client has never answered; the lock is held.
func (s *Server) unanswered(of func(*transfer) bool) *transfer {
	for e := s.half.Front(); e != nil; e = e.Next() {
		if t := e.Value.(*transfer); of(t) {
			return t
		}
	}
	return nil
}

// start opens what a transfer needs and gives it to a loop.
func (s *Server) start(client netip.AddrPort, r request) {
	file, err := s.config.Open(r.file, client.Addr().Unmap())
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			s.refuse(client, codeNotFound, "no such file: "+r.file)
		} else {
			s.config.Log.Warn("tftp: cannot open a file", "file", r.file, "error", err)
			s.refuse(client, codeAccess, "cannot open "+r.file)
		}
		return
	}
	t := &transfer{server: s, request: r, client: client, started: time.Now(), file: file, size: file.Size(), place: -1}
	t.grant(s.config, r.options)
	if t.port, err = s.open(client, headerSize+t.block); err != nil {
		file.Close()
		s.config.Log.Error("tftp: cannot open a socket", "error", err)
		s.refuse(client, codeUndefined, "the server is out of sockets")
		return
	}
	s.enter(t)
	t.loop.add(t)
}

// open is the port of a transfer whose full packets have a size.
func (s *Server) open(client netip.AddrPort, size int) (port, error) {
	if s.config.SinglePort {
		return sharedPort(s.shared, client, size)
	}
	conn, err := s.listen()
	if err != nil {
		return port{}, err
	}
	return ownPort(conn, client, size)
}

// enter counts a transfer in, and chooses its loop.
func (s *Server) enter(t *transfer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.loop = s.loops[s.next%len(s.loops)]
	s.next++
	s.all[t] = struct{}{}
	s.client[t.client.Addr().Unmap()]++
	s.asking[t.client] = t
	t.half = s.half.PushBack(t)
}

// heard notes that a client has answered: what it asks from now on is another transfer.
func (s *Server) heard(t *transfer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.half.Remove(t.half)
	t.half = nil
	if !s.config.SinglePort {
		delete(s.asking, t.client)
	}
}

// leave counts a transfer out and tells how it ended.
func (s *Server) leave(t *transfer, err error) {
	address := t.client.Addr().Unmap()
	s.mu.Lock()
	delete(s.all, t)
	if s.client[address]--; s.client[address] == 0 {
		delete(s.client, address)
	}
	if s.asking[t.client] == t {
		delete(s.asking, t.client)
	}
	if t.half != nil {
		s.half.Remove(t.half)
		t.half = nil
	}
	s.mu.Unlock()
	s.done.Go(func() {
		t.file.Close()
		if s.config.Done != nil && !errors.Is(err, errProbe) {
			s.config.Done(Transfer{Client: t.client, Name: t.request.file, Size: t.size, Duration: time.Since(t.started), Err: err})
		}
	})
}

func pause(ctx context.Context, how time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(how):
	}
}

// cleanName takes what firmware writes: backslashes, leading slashes. A name that climbs is refused.
func cleanName(file string) (string, error) {
	name := strings.TrimLeft(strings.ReplaceAll(file, `\`, "/"), "/")
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("a name with .. is refused")
		}
	}
	if name = path.Clean(name); name == "." || len(name) > 255 || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return "", fmt.Errorf("not a file name")
	}
	return name, nil
}
