package nodes

import (
	"bytes"
	"strings"
	"testing"
)

// TestScrub: what looks like a secret is left out, and the rest stays as it is.
func TestScrub(t *testing.T) {
	const in = "a line\nkey:\n-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMG\nByqGSM49\n-----END PRIVATE KEY-----\nafter\n" +
		"token eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJrIn0.c2lnbmF0dXJl end\nclient-key-data: TUlHSEFnRUFNQk1HQnlxR1NNNDk=\nAGE-SECRET-KEY-1ABC\nlast"
	var got bytes.Buffer
	if err := scrub(&got, strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"MIGHAgEAMBMG", "ByqGSM49", "eyJpc3MiOiJrIn0", "TUlHSEFnRUFNQk1HQnlxR1NNNDk", "1ABC"} {
		if strings.Contains(got.String(), secret) {
			t.Errorf("%s is still there:\n%s", secret, got.String())
		}
	}
	for _, line := range []string{"a line\nkey:\n", "\nafter\ntoken (a secret was left out) end\n", "\nlast"} {
		if !strings.Contains(got.String(), line) {
			t.Errorf("no %q in\n%s", line, got.String())
		}
	}
}

func FuzzScrub(f *testing.F) {
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\nx"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var got bytes.Buffer
		if err := scrub(&got, bytes.NewReader(text)); err != nil {
			t.Error(err)
		}
		if bytes.Contains(got.Bytes(), []byte("BEGIN PRIVATE KEY-----")) {
			t.Errorf("%q", got.Bytes())
		}
	})
}

func TestEnding(t *testing.T) {
	e := &ending{limit: 4}
	for _, s := range []string{"abc", "defgh", "i", "jkl"} {
		_, _ = e.Write([]byte(s))
	}
	if !strings.HasSuffix("abcdefghijkl", string(e.data)) || len(e.data) < 4 || len(e.data) > 8 {
		t.Errorf("%q", e.data)
	}
}
