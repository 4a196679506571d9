package unxz

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestTogether(t *testing.T) {
	var plain, streams [][]byte
	for _, size := range []int{0, 1, 1000, 200_000, 5, 70_000} {
		p, s := packed(t, size)
		plain, streams = append(plain, p), append(streams, s)
	}
	got, err := Together(streams, 2<<20)
	if err != nil {
		t.Fatal(err)
	}
	for i := range plain {
		if !bytes.Equal(got[i], plain[i]) {
			t.Errorf("stream %d: %d bytes of %d came, or others", i, len(got[i]), len(plain[i]))
		}
	}
	if got, err := Together(nil, 1); err != nil || len(got) != 0 {
		t.Errorf("no streams: %v, %v", got, err)
	}
}

func TestTogetherRefuses(t *testing.T) {
	_, small := packed(t, 1000)
	_, large := packed(t, 5000)
	twice := append(bytes.Clone(small), small...)
	for name, streams := range map[string][][]byte{
		"too large":             {small, large},
		"two streams in a file": {small, twice},
		"no stream":             {small, []byte("this is text of more than so many bytes")},
		"cut":                   {small, small[:len(small)-4]},
		"nothing":               {nil},
	} {
		if _, err := Together(streams, 4000); !errors.Is(err, ErrApart) {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken := bytes.Clone(small)
	broken[len(broken)/2] ^= 1
	if _, err := Together([][]byte{small, broken}, 4000); err == nil || errors.Is(err, ErrApart) || !strings.Contains(err.Error(), "xz: ") {
		t.Errorf("a flipped byte: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := Together([][]byte{small}, 4000); !errors.Is(err, ErrApart) {
		t.Errorf("without the program: %v", err)
	}
}

// FuzzUnpackedSize: what it says of a stream that decompresses is how many bytes that gives.
func FuzzUnpackedSize(f *testing.F) {
	t := &testing.T{}
	for _, size := range []int{0, 1, 100, 70_000} {
		_, s := packed(t, size)
		f.Add(s)
		f.Add(s[:len(s)-1])
		f.Add(append(s, s...))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		const most = 1 << 20
		size, err := unpackedSize(stream, most)
		if err != nil {
			return
		}
		if size < 0 || size > most {
			t.Fatalf("%d bytes", size)
		}
		if len(stream) >= small {
			return
		}
		r, end, err := NewReader(bytes.NewReader(stream))
		if err != nil {
			return
		}
		defer end()
		if n, err := io.Copy(io.Discard, r); err == nil && n != size {
			t.Errorf("%d bytes, the index says %d", n, size)
		}
	})
}
