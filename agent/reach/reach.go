// Package reach watches whether this machine and some others hear each other: several times a second it sends each an echo request
// (RFC 792), which the other's kernel answers however busy its programs are.
//
// Words: a round is one request to each peer; a round is lost when it is over and fewer than a majority of all machines, this
// one included, have answered it. How many rounds were lost since the last good one is all that is told.
//
// It is a witness and no judge. Who has never reached a majority, or hasn't for Forget, is told of no loss: then something on
// the way may not let echoes pass, and others must know.
package reach

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// Forget is after how long without a majority nothing is told any more.
const Forget = 30 * time.Second

// Config is whom to ask, and how often.
type Config struct {
	Source   netip.Addr   // the machine's own address, IPv4
	Peers    []netip.Addr // all others, IPv4
	Interval time.Duration
	// Lost is told how many rounds were lost since the last good one, after each round for which that is another number. It must
	// return soon.
	Lost func(rounds int)
}

// watch is one run.
type watch struct {
	config Config
	conn   *icmp.PacketConn
	nonce  [8]byte // tells our echoes from others'

	mu    sync.Mutex
	tally tally
}

// Run asks until ctx ends; then the error is nil. One machine alone is always a majority, and needs no socket.
func Run(ctx context.Context, c Config) error {
	if len(c.Peers) == 0 {
		<-ctx.Done()
		return nil
	}
	w, err := open(c)
	if err != nil {
		return fmt.Errorf("cannot watch whether other machines are reached: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { w.conn.Close() })
	defer stop()
	defer w.conn.Close()
	failed := make(chan error, 1)
	go func() { failed <- w.receive() }()
	tick := time.NewTicker(c.Interval)
	defer tick.Stop()
	for told := 0; ; {
		if lost := w.round(); lost != told {
			told = lost
			c.Lost(lost)
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("cannot watch whether other machines are reached: %w", err)
		case <-tick.C:
		}
	}
}

func open(c Config) (*watch, error) {
	for _, a := range append([]netip.Addr{c.Source}, c.Peers...) {
		if !a.Is4() {
			return nil, fmt.Errorf("%s is not IPv4", a)
		}
	}
	conn, err := icmp.ListenPacket("ip4:icmp", c.Source.String())
	if err != nil {
		return nil, err
	}
	w := &watch{config: c, conn: conn, tally: newTally(len(c.Peers), int(Forget/c.Interval))}
	var f ipv4.ICMPFilter
	f.SetAll(true)
	f.Accept(ipv4.ICMPTypeEchoReply)
	_, err = rand.Read(w.nonce[:])
	if err = errors.Join(err, conn.IPv4PacketConn().SetICMPFilter(&f)); err != nil {
		conn.Close()
		return nil, err
	}
	return w, nil
}

// round ends the last round and begins the next. It returns how many were lost.
func (w *watch) round() int {
	w.mu.Lock()
	lost, number := w.tally.next()
	w.mu.Unlock()
	echo := icmp.Echo{
		ID: int(binary.BigEndian.Uint16(w.nonce[:])), Seq: int(uint16(number)),
		Data: binary.BigEndian.AppendUint64(slices.Clone(w.nonce[:]), number),
	}
	message, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &echo}).Marshal(nil)
	if err != nil {
		panic(err) // an echo of this size can always be written
	}
	for _, p := range w.config.Peers {
		_, _ = w.conn.WriteTo(message, &net.IPAddr{IP: p.AsSlice()}) // what isn't sent isn't answered
	}
	return lost
}

// receive notes answers until the socket is closed.
func (w *watch) receive() error {
	buffer := make([]byte, 128)
	for {
		n, from, err := w.conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		source, ok := from.(*net.IPAddr)
		if !ok {
			continue
		}
		address, _ := netip.AddrFromSlice(source.IP.To4())
		peer := slices.Index(w.config.Peers, address)
		number, ok := w.read(buffer[:n])
		if peer < 0 || !ok {
			continue
		}
		w.mu.Lock()
		w.tally.answer(peer, number)
		w.mu.Unlock()
	}
}

// read is the number of the round that a message answers, if it answers one of ours.
func (w *watch) read(b []byte) (number uint64, ok bool) {
	m, err := icmp.ParseMessage(1, b) // 1: ICMP for IPv4
	if err != nil || m.Type != ipv4.ICMPTypeEchoReply {
		return 0, false
	}
	echo, ok := m.Body.(*icmp.Echo)
	if !ok || len(echo.Data) != len(w.nonce)+8 || [8]byte(echo.Data[:8]) != w.nonce {
		return 0, false
	}
	return binary.BigEndian.Uint64(echo.Data[8:]), true
}
