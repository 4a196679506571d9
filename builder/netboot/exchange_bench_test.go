package netboot

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// BenchmarkExchanges is whole exchanges (DISCOVER, OFFER, REQUEST, ACK) of machines that nobody has seen before, 256 of them at a
// time, with a running server on a real interface: sockets, log, lease on the disk.
func BenchmarkExchanges(b *testing.B) {
	network(b)
	config := configFor(b, &journal{})
	config.Site.ServeUnknown = true
	config.Site.Subnet = netip.MustParsePrefix("10.1.0.0/16")
	config.Site.Pool = Pool{netip.MustParseAddr("10.1.16.0"), netip.MustParseAddr("10.1.255.254")}
	config.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	run(b, config)
	relay := plug(b, stranger)
	if said, err := relay.run("ip", "address", "add", "10.1.0.2/16", "dev", "eth0"); err != nil {
		b.Fatalf("%v: %s", err, said)
	}
	var conn *net.UDPConn
	must(b, relay.in(func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 1, 0, 2), Port: portDHCP})
		return err
	}))
	defer conn.Close()
	roomy(conn)
	discover := request(b, "DISCOVER from=02:00:00:00:00:00 giaddr=10.1.0.2 55=1,3")
	ask := request(b, "REQUEST from=02:00:00:00:00:00 giaddr=10.1.0.2 54=10.1.0.1 50=0.0.0.0 55=1,3")
	server := netip.MustParseAddrPort("10.1.0.1:67")
	i := 0
	next := func() {
		i++
		copy(discover[30:34], []byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)})
		if _, err := conn.WriteToUDPAddrPort(discover, server); err != nil {
			b.Fatal(err)
		}
	}
	const together, mac, yiaddr, wish = 256, 28, 16, 240 + 3 + 6 + 2
	for range together {
		next()
	}
	reply := make([]byte, 1500)
	done, lost := 0, 0
	for b.Loop() {
		for acked := false; !acked; {
			must(b, conn.SetReadDeadline(time.Now().Add(time.Second)))
			n, err := conn.Read(reply)
			if errors.Is(err, os.ErrDeadlineExceeded) { // the kernel has dropped something: as many machines more
				for range together {
					next()
					lost++
				}
				continue
			}
			must(b, err)
			switch reply[:n][242] {
			case 2:
				copy(ask[mac:], reply[mac:mac+6])
				copy(ask[wish:], reply[yiaddr:yiaddr+4])
				if _, err := conn.WriteToUDPAddrPort(ask, server); err != nil {
					b.Fatal(err)
				}
			case 5:
				acked = true
				next()
			default:
				b.Fatalf("message %d", reply[242])
			}
		}
		done++
	}
	b.ReportMetric(float64(done)/b.Elapsed().Seconds(), "exchanges/s")
	b.ReportMetric(float64(lost), "lost")
}
