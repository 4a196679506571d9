package secure

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

// site is so many boot servers at one port of 127.0.0.1, 127.0.0.2 and on; each says which it is.
func site(t *testing.T, count int) (base string, servers []*http.Server, others []netip.Addr) {
	t.Helper()
	port := "0"
	for i := range count {
		a := netip.AddrFrom4([4]byte{127, 0, 0, byte(i + 1)})
		l, err := net.Listen("tcp", net.JoinHostPort(a.String(), port))
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ = net.SplitHostPort(l.Addr().String())
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, a.String()) })}
		go s.Serve(l)
		t.Cleanup(func() { s.Close() })
		servers = append(servers, s)
		if i > 0 {
			others = append(others, a)
		}
	}
	return "http://127.0.0.1:" + port, servers, others
}

// TestServers: a machine stays with its boot server, goes on with another when that is gone or of no help, and stays with that one.
func TestServers(t *testing.T) {
	base, running, others := site(t, 3)
	servers := &Servers{}
	servers.Add(others...)
	servers.Add(others...)
	client := &http.Client{Transport: &http.Transport{DialContext: servers.Dial, DisableKeepAlives: true}}
	asks := func(want string) {
		t.Helper()
		answer, err := client.Get(base)
		if err != nil {
			if want == "" && strings.Contains(err.Error(), "none of 3 boot servers answers") {
				return
			}
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil || string(text) != want {
			t.Errorf("answered by %s, want %s, %v", text, want, err)
		}
	}
	asks("127.0.0.1")
	asks("127.0.0.1")
	running[0].Close()
	asks("127.0.0.2")
	asks("127.0.0.2")
	servers.Next()
	asks("127.0.0.3")
	servers.Next() // the first one, which is gone
	asks("127.0.0.2")
	running[1].Close()
	asks("127.0.0.3")
	running[2].Close()
	asks("")
}

// TestOneServer: without others nothing is different.
func TestOneServer(t *testing.T) {
	base, running, _ := site(t, 1)
	servers := &Servers{}
	client := &http.Client{Transport: &http.Transport{DialContext: servers.Dial, DisableKeepAlives: true}}
	servers.Next()
	answer, err := client.Get(base)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	running[0].Close()
	if _, err := client.Get(base); err == nil || strings.Contains(err.Error(), "boot servers") {
		t.Errorf("got %v", err)
	}
}
