package main

import (
	"strings"
	"testing"
	"time"
)

const perfSaid = `Running: perfdhcp -4 -l cli -r 200 -R 60000 -p 1 -x t 10.1.0.1
***Rate statistics***
Rate: 1.0 4-way exchanges/second, expected rate: 3
***Statistics for: DISCOVER-OFFER***
sent packets: 4
received packets: 3
drops: 1
avg delay: 2.000 ms
***Statistics for: REQUEST-ACK***
sent packets: 3
received packets: 3
drops: 0
***Timestamps for packets: DISCOVER-OFFER***
sent / received: 000000.001000 / 000000.002000
sent / received: 000000.301000 / 000000.304000
sent / received: 000000.601000 / 000000.603000
***Timestamps for packets: REQUEST-ACK***
sent / received: 000000.002000 / 000000.004000
sent / received: 000000.304000 / 000000.501000
sent / received: 000000.999000 / 000001
`

func TestReadPerf(t *testing.T) {
	l, err := readPerf(perfSaid)
	if err != nil {
		t.Fatal(err)
	}
	if l.sent != 4 || l.acks != 3 || l.lost() != 1 || l.holds() || l.seconds != 0.999 {
		t.Errorf("it reads %+v, %v exchanges a second", l, l.rate())
	}
	if mean(l.offers) != 2*time.Millisecond || percentile(l.offers, 50) != 2*time.Millisecond || percentile(l.takes, 99).Round(time.Millisecond) != 197*time.Millisecond {
		t.Errorf("it reads %v and %v", l.offers, l.takes)
	}
	if !(load{asked: 100, sent: 190, acks: 189}).holds() || (load{asked: 100, sent: 200, acks: 197}).holds() || (load{asked: 100, sent: 170, acks: 170}).holds() {
		t.Error("a server keeps up with less than one exchange of a hundred lost, of nearly all that were asked")
	}
	for _, wrong := range []string{"", "perfdhcp: no such interface", strings.Replace(perfSaid, "sent packets: 4", "sent packets: 0", 1), strings.Split(perfSaid, "***Timestamps")[0]} {
		if l, err := readPerf(wrong); err == nil {
			t.Errorf("it reads %+v of %q", l, wrong)
		}
	}
}

func TestRoomless(t *testing.T) {
	const table = "Ip: Forwarding RcvbufErrors\nIp: 1 2\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors\nUdp: 116133 3 1460 124368 1461\nUdpLite: InDatagrams RcvbufErrors\nUdpLite: 0 7\n"
	if n, err := roomless(table); err != nil || n != 1461 {
		t.Errorf("%d, %v", n, err)
	}
	for _, wrong := range []string{"", strings.ReplaceAll(table, "RcvbufErrors", "Others"), strings.Split(table, "Udp: 116133")[0]} {
		if n, err := roomless(wrong); err == nil {
			t.Errorf("%d of %q", n, wrong)
		}
	}
}
