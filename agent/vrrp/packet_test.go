package vrrp

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

var (
	own    = netip.MustParseAddr("10.1.0.11")
	other  = netip.MustParseAddr("10.1.0.12")
	shared = netip.MustParseAddr("10.1.0.5")
)

func TestEncode(t *testing.T) {
	a := Advertisement{Router: 5, Priority: 250, Interval: 30, Addresses: []netip.Addr{shared}}
	b := a.Encode(own, group())
	// Version and type, VRID, priority, count, interval, checksum, address (RFC 9568, section 5.1).
	if got := hex.EncodeToString(b); got != "3105fa01001ee0390a010005" {
		t.Errorf("got %s", got)
	}
	if got, err := Decode(b, own, group()); err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestChecksum: it is right with the pseudo-header, for this sender only, and without it.
func TestChecksum(t *testing.T) {
	b := Advertisement{Router: 5, Priority: 250, Interval: 30, Addresses: []netip.Addr{shared}}.Encode(own, group())
	if _, err := Decode(b, other, group()); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("another sender's: %v", err)
	}
	b[6], b[7] = 0xca, 0xd4 // RFC 9568
	if _, err := Decode(b, own, group()); err != nil {
		t.Error(err)
	}
}

func TestDecodeFaults(t *testing.T) {
	good := Advertisement{Router: 5, Priority: 250, Interval: 30, Addresses: []netip.Addr{shared}}.Encode(own, group())
	change := func(at int, to byte) []byte {
		b := append([]byte(nil), good...)
		b[at], b[6], b[7] = to, 0, 0
		binary.BigEndian.PutUint16(b[6:], ^sum(0, b))
		return b
	}
	for want, b := range map[string][]byte{
		"7 bytes are too few":                    good[:7],
		"version 2 and type 1":                   change(0, 0x21),
		"12 bytes for 2 addresses":               change(3, 2),
		"12 bytes for 0 addresses":               change(3, 0),
		"13 bytes for 1 addresses":               append(change(0, 0x31), 0),
		"router 0 or interval 30 is zero":        change(1, 0),
		"router 5 or interval 0 is zero":         change(5, 0),
		"its checksum is wrong":                  append(good[:11:11], 6),
		"0 bytes are too few":                    nil,
		"version 3 and type 2 are not an advert": change(0, 0x32),
	} {
		if _, err := Decode(b, own, group()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Advertisement{Router: 5, Priority: 250, Interval: 30, Addresses: []netip.Addr{shared}}.Encode(own, group()))
	f.Add(Advertisement{Router: 255, Interval: 4095, Addresses: []netip.Addr{shared, own, other}}.Encode(own, group()))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := Decode(data, own, group())
		if err != nil {
			return
		}
		if again, err := Decode(a.Encode(own, group()), own, group()); err != nil || !reflect.DeepEqual(a, again) {
			t.Fatalf("%+v became %+v, %v", a, again, err)
		}
	})
}
