package main

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// load is what perfdhcp tells of exchanges that it began at a steady rate.
type load struct {
	asked         int // exchanges a second
	sent          int // DISCOVER
	acks          int // ACK: exchanges that were finished
	seconds       float64
	offers, takes []time.Duration // how long each OFFER, and each ACK, took; ascending
	deaf          int             // answers that perfdhcp's own socket had no room for: lost, and not by the server
	cpu           time.Duration   // processor time of the server, for each exchange that was finished
}

// rate is how many exchanges a second were finished.
func (l load) rate() float64 { return float64(l.acks) / max(l.seconds, 1e-3) }

// lost is how many exchanges were begun and not finished.
func (l load) lost() int { return max(0, l.sent-l.acks) }

// holds says that the server keeps up: at most one exchange of a hundred is lost, and perfdhcp has begun nearly as many as it was asked for.
func (l load) holds() bool {
	return l.lost()*100 <= l.sent && l.sent >= dhcpSeconds*l.asked*9/10
}

func (l load) String() string {
	deaf := ""
	if l.deaf > 0 {
		deaf = fmt.Sprintf(" (%d answers in perfdhcp's own socket)", l.deaf)
	}
	return fmt.Sprintf("%.0f/s, %d of %d lost%s, OFFER %s, ACK %s, %d µs of a processor each", l.rate(), l.lost(), l.sent, deaf, delays(l.offers), delays(l.takes), l.cpu.Microseconds())
}

// delays says the mean, the median and the 99th percentile.
func delays(all []time.Duration) string {
	ms := func(d time.Duration) float64 { return d.Seconds() * 1000 }
	return fmt.Sprintf("%.1f / %.1f / %.1f ms", ms(mean(all)), ms(percentile(all, 50)), ms(percentile(all, 99)))
}

func mean(all []time.Duration) (sum time.Duration) {
	for _, d := range all {
		sum += d
	}
	return sum / time.Duration(max(1, len(all)))
}

// percentile is the smallest of ascending durations that so many of a hundred don't exceed (nearest rank).
func percentile(ascending []time.Duration, of int) time.Duration {
	if len(ascending) == 0 {
		return 0
	}
	return ascending[max(0, (len(ascending)*of+99)/100-1)]
}

// roomless reads, from /proc/net/snmp (a line of names, then one of numbers), how many UDP packets there was no room for in a socket.
func roomless(text string) (int, error) {
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Udp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		if i := slices.Index(names, "RcvbufErrors"); i > 0 && i < len(fields) {
			return strconv.Atoi(fields[i])
		}
	}
	return 0, errors.New("/proc/net/snmp has no Udp RcvbufErrors")
}

var (
	perfSection = regexp.MustCompile(`^\*\*\*(Statistics for|Timestamps for packets): (DISCOVER-OFFER|REQUEST-ACK)\*\*\*`)
	perfCount   = regexp.MustCompile(`^(sent|received) packets: (\d+)`)
	perfTimes   = regexp.MustCompile(`^sent / received: (\d+(?:\.\d+)?) / (\d+(?:\.\d+)?)$`) // a whole second has no point
)

// readPerf reads what perfdhcp says with -x t: numbers for DISCOVER and for REQUEST, then when each message that was answered was sent
// and its answer received, in seconds.
func readPerf(text string) (l load, err error) {
	section, first, last := "", 0.0, 0.0
	for line := range strings.Lines(text) {
		if m := perfSection.FindStringSubmatch(line); m != nil {
			section = m[2]
			continue
		}
		if m := perfCount.FindStringSubmatch(line); m != nil {
			n, err := strconv.Atoi(m[2])
			if err != nil {
				return l, fmt.Errorf("perfdhcp says %q", line)
			}
			switch section + " " + m[1] {
			case "DISCOVER-OFFER sent":
				l.sent = n
			case "REQUEST-ACK received":
				l.acks = n
			}
			continue
		}
		m := perfTimes.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		sent, err1 := strconv.ParseFloat(m[1], 64)
		received, err2 := strconv.ParseFloat(m[2], 64)
		if err := cmp.Or(err1, err2); err != nil {
			return l, fmt.Errorf("perfdhcp says %q", line)
		}
		if section == "DISCOVER-OFFER" {
			if len(l.offers) == 0 {
				first = sent
			}
			first = min(first, sent)
			l.offers = append(l.offers, time.Duration((received-sent)*1e9))
			continue
		}
		last = max(last, received)
		l.takes = append(l.takes, time.Duration((received-sent)*1e9))
	}
	if l.sent == 0 || len(l.takes) < l.acks*99/100 { // some that came after others were given up it has collected
		return l, errors.New("perfdhcp tells no numbers")
	}
	l.seconds = last - first
	slices.Sort(l.offers)
	slices.Sort(l.takes)
	return l, nil
}
