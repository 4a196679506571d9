package bootspec_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/bootspec/securetest"
)

func TestSecureComesBack(t *testing.T) {
	authority, _ := securetest.Certificate(t)
	s := bootspec.Secure{Version: 1, URL: "https://10.1.0.1:7446", Authority: string(authority), Others: []netip.Addr{netip.MustParseAddr("10.1.0.2")}}
	data, _ := json.Marshal(s)
	again, err := bootspec.ParseSecure(data)
	if err != nil || !reflect.DeepEqual(again, s) {
		t.Fatalf("%+v, %v", again, err)
	}
	_, digest, err := again.Trust(nil)
	if err != nil || len(digest) != 64 {
		t.Fatalf("%q, %v", digest, err)
	}
	pins, err := bootspec.ParsePins(strings.Repeat("AB", 32) + "," + digest)
	if err != nil || len(pins) != 2 {
		t.Fatal(pins, err)
	}
	if _, _, err := again.Trust(pins); err != nil {
		t.Errorf("pinned: %v", err)
	}
	if _, _, err := again.Trust(pins[:1]); !errors.Is(err, bootspec.ErrNotPinned) || !strings.Contains(err.Error(), digest) {
		t.Errorf("another one is pinned: %v", err)
	}
	for want, spoil := range map[string]func(*bootspec.Secure){
		"version 2 of the claim, this image version 1": func(s *bootspec.Secure) { s.Version = 2 },
		`"http://10.1.0.1:7446" is not a URL like`:     func(s *bootspec.Secure) { s.URL = "http://10.1.0.1:7446" },
		"is not a URL":               func(s *bootspec.Secure) { s.URL = "https://user@10.1.0.1/x" },
		"not one certificate in PEM": func(s *bootspec.Secure) { s.Authority += s.Authority },
	} {
		wrong := s
		spoil(&wrong)
		data, _ := json.Marshal(wrong)
		if _, err := bootspec.ParseSecure(data); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want: %s", err, want)
		}
	}
	for _, wrong := range []string{"x", strings.Repeat("ab", 31), strings.Repeat("ab", 32) + ","} {
		if _, err := bootspec.ParsePins(wrong); err == nil || !strings.Contains(err.Error(), bootspec.ArgBootCA) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

func FuzzSecure(f *testing.F) {
	authority, _ := securetest.Certificate(f)
	data, _ := json.Marshal(bootspec.Secure{Version: 1, URL: "https://10.1.0.1:7446", Authority: string(authority)})
	f.Add(data, strings.Repeat("ab", 32))
	f.Add([]byte(`{"version":1,"url":"https://a","authority":"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"}`), "x,y")
	f.Fuzz(func(t *testing.T, data []byte, value string) {
		pins, err := bootspec.ParsePins(value)
		if err != nil {
			pins = nil
		}
		s, err := bootspec.ParseSecure(data)
		if err != nil {
			return
		}
		if !strings.HasPrefix(s.URL, "https://") || strings.HasSuffix(s.URL, "/") {
			t.Errorf("URL %q", s.URL)
		}
		if _, digest, err := s.Trust(pins); err == nil && len(pins) > 0 && !strings.Contains(strings.ToLower(value), digest) {
			t.Errorf("%s is trusted, which is not pinned by %s", digest, value)
		}
	})
}

func FuzzClaim(f *testing.F) {
	f.Add([]byte(`{"version":1,"mac":"52:54:00:00:00:21","uuid":"4c4c4544-0042-3010-8051-b4c04f4e3132","serial":"ABC1","image":"slipway-worker-0.1.0-amd64"}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := bootspec.ParseClaim(strings.NewReader(string(data)))
		if err == nil && (c.Version != bootspec.ClaimVersion || len(c.MAC)+len(c.UUID)+len(c.Serial)+len(c.Image)+len(c.TPMProof)+len(c.TPMAbsent) > 2048) {
			t.Errorf("%+v", c)
		}
	})
}
