package handed

import (
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// files binds UDP and TCP sockets on the loopback address, as somebody would that hands them over.
func files(t *testing.T) (udp, tcp *os.File, at [2]netip.AddrPort) {
	t.Helper()
	packets, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if udp, err = packets.File(); err != nil {
		t.Fatal(err)
	}
	if tcp, err = listener.(*net.TCPListener).File(); err != nil {
		t.Fatal(err)
	}
	return udp, tcp, [2]netip.AddrPort{packets.LocalAddr().(*net.UDPAddr).AddrPort(), listener.Addr().(*net.TCPAddr).AddrPort()}
}

// TestTaken: a socket may be taken, closed and taken again, with what has come meanwhile.
func TestTaken(t *testing.T) {
	udp, tcp, at := files(t)
	s, err := New([]*os.File{udp, tcp})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 2 {
		client, err := net.Dial("tcp4", at[1].String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = client.Write([]byte("hello"))
		client.Close()
		listener, err := s.Listener(at[1])
		if err != nil || listener == nil {
			t.Fatalf("%v %v", listener, err)
		}
		served, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(served); string(text) != "hello" {
			t.Errorf("%q %v", text, err)
		}
		served.Close()
		listener.Close()
	}
	if l, err := s.Listener(at[0]); l != nil || err != nil {
		t.Errorf("a UDP socket is a listener: %v %v", l, err)
	}
	if c, err := s.Datagrams("lo", at[0]); c != nil || err != nil {
		t.Errorf("a socket of no interface is one of lo: %v %v", c, err)
	}
	// The listener was taken; the other one is for an interface.
	err = s.Misfits([]Want{{For: "TFTP", Protocol: UDP, Address: at[0], Link: "lo"}})
	if err == nil || strings.Contains(err.Error(), at[1].String()) || !strings.Contains(err.Error(), "TFTP is served on lo alone: add BindToDevice=lo to its unit") {
		t.Errorf("got %v", err)
	}
	if err := s.Misfits([]Want{{For: "TFTP", Protocol: UDP, Address: at[0]}}); err != nil {
		t.Errorf("got %v", err)
	}
}

// TestNone: where nothing is handed over nothing is found, and nothing is wrong.
func TestNone(t *testing.T) {
	t.Setenv("LISTEN_PID", "1") // meant for another process
	t.Setenv("LISTEN_FDS", "2")
	s, err := FromSystemd()
	if s != nil || err != nil {
		t.Fatalf("%v %v", s, err)
	}
	defer s.Close()
	at := netip.MustParseAddrPort("127.0.0.1:69")
	if c, err := s.Datagrams("lo", at); c != nil || err != nil {
		t.Errorf("%v %v", c, err)
	}
	if l, err := s.Listener(at); l != nil || err != nil {
		t.Errorf("%v %v", l, err)
	}
	if err := s.Misfits(nil); err != nil {
		t.Error(err)
	}
}

// TestOther: sockets of other kinds are told.
func TestOther(t *testing.T) {
	local, err := net.Listen("unix", t.TempDir()+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	file, err := local.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	s, err := New([]*os.File{file})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Misfits(nil); err == nil || !strings.Contains(err.Error(), "no socket of UDP or TCP") {
		t.Errorf("got %v", err)
	}
	closed, err := local.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	if _, err := New([]*os.File{closed}); err == nil || !strings.Contains(err.Error(), "cannot use what systemd hands over") {
		t.Errorf("got %v", err)
	}
}
