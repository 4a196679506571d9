// Package tftp is a read-only TFTP server for boot files: RFC 1350 with the options of RFC 2348 (block size), RFC 2349
// (time-out, transfer size) and RFC 7440 (window size). Block numbers roll over, so files may be of any size.
//
// It knows nothing of files: it asks its Opener. It is not for writing, and serves octet mode only (netascii requests
// get the same bytes, as other boot servers do it).
package tftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"path"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
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
	Open         Opener
	Done         func(Transfer) // called when a transfer ends; may be nil
	Log          *slog.Logger
	MaxTransfers int           // at the same time, in all (512)
	MaxPerClient int           // at the same time, for one address (8)
	MaxBlockSize int           // bytes (1468: an Ethernet frame of 1500 less IPv4, UDP and TFTP headers)
	MaxWindow    int           // blocks (32)
	Retries      int           // how often one window is sent again before the transfer is given up (6)
	Timeout      time.Duration // before a window is sent again, unless the client asks for its own (1 s)
}

// Server serves one socket.
type Server struct {
	config Config
	conn   *net.UDPConn // requests arrive here
	listen func() (*net.UDPConn, error)
	mu     sync.Mutex
	total  int
	client map[netip.Addr]int
	asking map[netip.AddrPort]*asked // clients whose transfer hasn't heard from them yet
	wg     sync.WaitGroup
}

// asked is what a client asks that hasn't answered yet.
type asked struct{ again *request } // nil: it has asked once

// New makes a server.
func New(c Config) *Server {
	setDefault(&c.MaxTransfers, 512)
	setDefault(&c.MaxPerClient, 8)
	setDefault(&c.MaxBlockSize, 1468)
	setDefault(&c.MaxWindow, 32)
	setDefault(&c.Retries, 6)
	if c.Timeout == 0 {
		c.Timeout = time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{config: c, client: map[netip.Addr]int{}, asking: map[netip.AddrPort]*asked{}}
}

func setDefault(value *int, fallback int) {
	if *value == 0 {
		*value = fallback
	}
}

// Serve answers requests on conn until ctx ends, then waits for its transfers, which end with ctx too. listen opens the
// socket a transfer uses (RFC 1350 section 4: each has its own port); it must be able to send from conn's address.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn, listen func() (*net.UDPConn, error)) error {
	s.conn, s.listen = conn, listen
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	defer s.wg.Wait()
	buffer := make([]byte, maxRequest+1)
	for {
		n, client, err := conn.ReadFromUDPAddrPort(buffer)
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
		s.accept(ctx, buffer[:n], client)
	}
}

// refuse answers a request with an ERROR.
func (s *Server) refuse(client netip.AddrPort, code uint16, reason string) {
	s.config.Log.Info("tftp: refused", "client", client, "reason", reason)
	_, _ = s.conn.WriteToUDPAddrPort(errorPacket(code, reason), client)
}

// accept starts a transfer, or answers with the reason why not.
func (s *Server) accept(ctx context.Context, packet []byte, client netip.AddrPort) {
	r, err := parseRequest(packet)
	if err != nil {
		// An ERROR in answer to an ERROR could go on for ever; anything else that's malformed is only counted in the log.
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
	mine, err := s.enter(client, r)
	if err != nil {
		// No answer: the client asks again, and by then there may be room.
		s.config.Log.Info("tftp: not answered", "client", client, "error", err)
		return
	}
	s.wg.Go(func() {
		defer s.leave(client)
		for next := &r; next != nil; {
			heard := func() { s.heard(client, mine) }
			next = s.asksAgain(client, mine, s.transfer(ctx, *next, client, heard))
		}
	})
}

// transfer serves one request to its end. It calls heard when the client has answered.
func (s *Server) transfer(ctx context.Context, r request, client netip.AddrPort, heard func()) error {
	started := time.Now()
	file, err := s.config.Open(r.file, client.Addr().Unmap())
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			s.refuse(client, codeNotFound, "no such file: "+r.file)
		} else {
			s.config.Log.Warn("tftp: cannot open a file", "file", r.file, "error", err)
			s.refuse(client, codeAccess, "cannot open "+r.file)
		}
		return err
	}
	defer file.Close()
	conn, err := s.listen()
	if err != nil {
		s.config.Log.Error("tftp: cannot open a socket", "error", err)
		s.refuse(client, codeUndefined, "the server is out of sockets")
		return err
	}
	defer conn.Close()
	t := newSender(s.config, conn, client, file, r.options)
	t.heard = heard
	err = t.run(ctx)
	if s.config.Done != nil && !errors.Is(err, errProbe) {
		s.config.Done(Transfer{Client: client, Name: r.file, Size: file.Size(), Duration: time.Since(started), Err: err})
	}
	return err
}

// enter counts a transfer in, if the limits allow it. A request that comes again, because our answer is slow or lost,
// begins no second transfer: the first one sends its answer again.
func (s *Server) enter(client netip.AddrPort, r request) (*asked, error) {
	address := client.Addr().Unmap()
	s.mu.Lock()
	defer s.mu.Unlock()
	if first := s.asking[client]; first != nil {
		first.again = &r
		return nil, errors.New("its request is being answered already")
	}
	switch {
	case s.total >= s.config.MaxTransfers:
		return nil, fmt.Errorf("%d transfers run, the most there may be", s.total)
	case s.client[address] >= s.config.MaxPerClient:
		return nil, fmt.Errorf("this client has %d transfers, the most it may have", s.client[address])
	}
	s.total++
	s.client[address]++
	mine := &asked{}
	s.asking[client] = mine
	return mine, nil
}

// heard notes that a client has answered: what it asks from now on is another transfer.
func (s *Server) heard(client netip.AddrPort, mine *asked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asking[client] == mine {
		delete(s.asking, client)
	}
}

// asksAgain is what a client has asked for since, when it ended its transfer before that began: the probe for a file's
// size and the request for the file may come from the same port, one right after the other. nil: nothing.
func (s *Server) asksAgain(client netip.AddrPort, mine *asked, ended error) *request {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asking[client] != mine {
		return nil
	}
	if again := mine.again; again != nil && errors.Is(ended, errRefused) {
		mine.again = nil
		return again
	}
	delete(s.asking, client)
	return nil
}

func (s *Server) leave(client netip.AddrPort) {
	address := client.Addr().Unmap()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.client[address]--; s.client[address] == 0 {
		delete(s.client, address)
	}
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
