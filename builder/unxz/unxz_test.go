package unxz

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	ulikunitz "github.com/ulikunitz/xz"
)

// packed is so many bytes that don't compress, and their xz stream.
func packed(t *testing.T, size int) (plain, stream []byte) {
	t.Helper()
	plain = make([]byte, size)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(plain)
	var b bytes.Buffer
	w, err := ulikunitz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return plain, b.Bytes()
}

func read(t *testing.T, stream []byte) ([]byte, error) {
	t.Helper()
	r, end, err := NewReader(bytes.NewReader(stream))
	if err != nil {
		return nil, err
	}
	defer end()
	return io.ReadAll(r)
}

// TestBothWaysGiveTheSame: with the program and without, large and small; a flipped byte and a missing end are errors.
func TestBothWaysGiveTheSame(t *testing.T) {
	for name, path := range map[string]string{"with the program": "", "in Go": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			if path != "" {
				t.Setenv("PATH", path)
			}
			for _, size := range []int{0, 1000, small, 3 << 20} {
				plain, stream := packed(t, size)
				if got, err := read(t, stream); err != nil || !bytes.Equal(got, plain) {
					t.Errorf("%d bytes: %d came, %v", size, len(got), err)
				}
				if size == 0 {
					continue
				}
				if _, err := read(t, stream[:len(stream)-len(stream)/3]); err == nil {
					t.Errorf("%d bytes: nobody misses the end", size)
				}
				stream[len(stream)/2] ^= 1
				if _, err := read(t, stream); err == nil {
					t.Errorf("%d bytes: nobody notices a flipped byte", size)
				}
			}
		})
	}
}

// TestEndBeforeTheEnd: whoever has enough ends the program.
func TestEndBeforeTheEnd(t *testing.T) {
	_, stream := packed(t, 3<<20)
	r, end, err := NewReader(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	end()
	end()
	if p, ok := r.(*process); ok && p.cmd.ProcessState == nil {
		t.Error("the program still runs")
	}
}
