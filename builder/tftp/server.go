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
	mu     sync.Mutex
	total  int
	client map[netip.Addr]int
	wg     sync.WaitGroup
}

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
	return &Server{config: c, client: map[netip.Addr]int{}}
}

func setDefault(value *int, fallback int) {
	if *value == 0 {
		*value = fallback
	}
}

// Serve answers requests on conn until ctx ends, then waits for its transfers, which end with ctx too. listen opens the
// socket a transfer uses (RFC 1350 section 4: each has its own port); it must be able to send from conn's address.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn, listen func() (*net.UDPConn, error)) error {
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
			continue
		}
		s.accept(ctx, conn, buffer[:n], client, listen)
	}
}

// accept starts a transfer, or answers with the reason why not.
func (s *Server) accept(ctx context.Context, conn *net.UDPConn, packet []byte, client netip.AddrPort, listen func() (*net.UDPConn, error)) {
	refuse := func(code uint16, reason string) {
		s.config.Log.Info("tftp: refused", "client", client, "reason", reason)
		_, _ = conn.WriteToUDPAddrPort(errorPacket(code, reason), client)
	}
	r, err := parseRequest(packet)
	if err != nil {
		// An ERROR in answer to an ERROR could go on for ever; anything else that's malformed is only counted in the log.
		s.config.Log.Info("tftp: not a request", "client", client, "error", err)
		return
	}
	if r.write {
		refuse(codeAccess, "this server is read-only")
		return
	}
	name, err := cleanName(r.file)
	if err != nil {
		refuse(codeAccess, err.Error())
		return
	}
	address := client.Addr().Unmap()
	if !s.enter(address) {
		// No answer: the client asks again, and by then there may be room.
		s.config.Log.Warn("tftp: too many transfers", "client", client)
		return
	}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		defer s.leave(address)
		s.transfer(ctx, r, name, client, listen, refuse)
	}()
}

func (s *Server) transfer(ctx context.Context, r request, name string, client netip.AddrPort, listen func() (*net.UDPConn, error), refuse func(uint16, string)) {
	started := time.Now()
	file, err := s.config.Open(name, client.Addr().Unmap())
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			refuse(codeNotFound, "no such file: "+name)
		} else {
			refuse(codeAccess, "cannot open "+name)
		}
		return
	}
	defer file.Close()
	conn, err := listen()
	if err != nil {
		s.config.Log.Error("tftp: cannot open a socket", "error", err)
		refuse(codeUndefined, "the server is out of sockets")
		return
	}
	defer conn.Close()
	t := newSender(s.config, conn, client, file, r.options)
	err = t.run(ctx)
	if errors.Is(err, errProbe) {
		return
	}
	if s.config.Done != nil {
		s.config.Done(Transfer{Client: client, Name: name, Size: file.Size(), Duration: time.Since(started), Err: err})
	}
}

// enter counts a transfer in, if the limits allow it.
func (s *Server) enter(client netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= s.config.MaxTransfers || s.client[client] >= s.config.MaxPerClient {
		return false
	}
	s.total++
	s.client[client]++
	return true
}

func (s *Server) leave(client netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.client[client]--; s.client[client] == 0 {
		delete(s.client, client)
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
	if name = path.Clean(name); name == "." || len(name) > 255 || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' }) {
		return "", fmt.Errorf("not a file name")
	}
	return name, nil
}
