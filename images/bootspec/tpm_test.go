package bootspec_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

// TestTPMStatement: it is another one for each of the things that it is of.
func TestTPMStatement(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range [][]byte{
		bootspec.TPMStatement([]byte("secret"), "a", "b"), bootspec.TPMStatement([]byte("secre"), "a", "b"), bootspec.TPMStatement([]byte("secret"), "b", "a"),
		bootspec.TPMStatement([]byte("secret"), "a\nb", ""), bootspec.TPMStatement(nil, "a", "b"),
	} {
		if len(s) != 32 || seen[string(s)] {
			t.Errorf("%x", s)
		}
		seen[string(s)] = true
	}
}

func TestTPMChallengeIsBounded(t *testing.T) {
	for want, c := range map[string]bootspec.TPMChallenge{
		"missing or too long": {Credential: []byte{1}},
		"too long":            {Credential: make([]byte, 2000), Secret: []byte{1}},
		"over":                {Credential: make([]byte, bootspec.MaxTPM), Secret: []byte{1}},
	} {
		text, _ := json.Marshal(c)
		if _, err := bootspec.ParseTPMChallenge(bytes.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want: %s", err, want)
		}
	}
	text, _ := json.Marshal(bootspec.TPMChallenge{Credential: []byte{1}, Secret: []byte{2}})
	if c, err := bootspec.ParseTPMChallenge(bytes.NewReader(text)); err != nil || c.Credential[0] != 1 || c.Secret[0] != 2 {
		t.Errorf("%+v, %v", c, err)
	}
}

func FuzzTPMRequest(f *testing.F) {
	f.Add([]byte(`{"version":1,"mac":"52:54:00:00:00:21","ek":"AAEACw==","ak":"ACMACw==","certificate":"MAA="}`))
	f.Add([]byte(`{"version":2,"ek":"!"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := bootspec.ParseTPMRequest(bytes.NewReader(data))
		if err == nil && (r.Version != bootspec.ClaimVersion || len(r.MAC)+len(r.EK)+len(r.AK)+len(r.Certificate) > 8<<10) {
			t.Errorf("%+v", r)
		}
		c, err := bootspec.ParseTPMChallenge(bytes.NewReader(data))
		if err == nil && len(c.Credential)+len(c.Secret) > 4<<10 {
			t.Errorf("%+v", c)
		}
	})
}
