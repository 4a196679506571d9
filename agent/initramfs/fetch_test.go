package initramfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-os/slipway/agent/secure"
)

// origin serves a file with faults, one a request; the requests' ranges are kept.
type origin struct {
	*httptest.Server
	mu     sync.Mutex
	data   []byte
	etag   string
	faults []func(http.ResponseWriter, *http.Request)
	ranges []string
}

func newOrigin(t *testing.T, faults ...func(http.ResponseWriter, *http.Request)) *origin {
	data := make([]byte, 1<<20)
	rand.New(rand.NewSource(1)).Read(data)
	o := &origin{data: data, etag: `"one"`, faults: faults}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		o.ranges = append(o.ranges, r.Header.Get("Range"))
		var fault func(http.ResponseWriter, *http.Request)
		if len(o.faults) > 0 {
			fault, o.faults = o.faults[0], o.faults[1:]
		}
		data, etag := o.data, o.etag
		o.mu.Unlock()
		if etag != "" {
			w.Header().Set("ETag", etag)
		}
		if fault != nil {
			fault(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	t.Cleanup(o.Close)
	return o
}

// cut answers with n bytes of the file and breaks the connection off.
func (o *origin) cut(n int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(&cutter{w, n}, r, "", time.Time{}, bytes.NewReader(o.data))
	}
}

type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	n, _ := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	if c.left -= n; c.left == 0 {
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, nil
}

// digest is SHA-256 in hexadecimal.
func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func (o *origin) get(t *testing.T) error {
	t.Helper()
	f := fetch{
		Client: newClient(&secure.Servers{}), URL: o.URL, Size: int64(len(o.data)), SHA256: digest(o.data),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Pause: time.Millisecond, Stall: 2 * time.Second, Patience: 5 * time.Second,
	}
	path := filepath.Join(t.TempDir(), "root")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := f.into(t.Context(), out); err != nil {
		return err
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, o.data) {
		t.Errorf("the file differs: %d bytes, %v", len(got), err)
	}
	return nil
}

func (o *origin) asked() string { return strings.Join(o.ranges, ",") }

func answer(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func TestFetchGoesOnWhereItWasCut(t *testing.T) {
	o := newOrigin(t)
	o.faults = append(o.faults, o.cut(300000), answer(503), o.cut(1000))
	if err := o.get(t); err != nil {
		t.Fatal(err)
	}
	if got, want := o.asked(), ",bytes=300000-,bytes=300000-,bytes=301000-"; got != want {
		t.Errorf("asked for %q, want %q", got, want)
	}
}

func TestFetchBeginsAgain(t *testing.T) {
	for name, prepare := range map[string]func(*origin){
		"when the file was replaced": func(o *origin) {
			o.faults = append(o.faults, func(w http.ResponseWriter, r *http.Request) {
				old := make([]byte, len(o.data))
				http.ServeContent(&cutter{w, 5000}, r, "", time.Time{}, bytes.NewReader(old))
			})
			o.faults = append(o.faults, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("ETag", `"two"`)
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(o.data))
			})
		},
		"when the server knows no ranges": func(o *origin) {
			o.faults = append(o.faults, o.cut(5000), func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(o.data) })
		},
		"when the server's validator is weak": func(o *origin) {
			o.etag = `W/"one"`
			o.faults = append(o.faults, o.cut(5000))
		},
		"when the server sends another range": func(o *origin) {
			o.faults = append(o.faults, o.cut(5000), func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Range", "bytes 0-9/10")
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(make([]byte, 10))
			})
		},
		"when the server finds the range wrong": func(o *origin) {
			o.faults = append(o.faults, o.cut(5000), answer(http.StatusRequestedRangeNotSatisfiable))
		},
		"when a byte came wrong": func(o *origin) {
			o.faults = append(o.faults, func(w http.ResponseWriter, r *http.Request) {
				flipped := bytes.Clone(o.data)
				flipped[777] ^= 1
				_, _ = w.Write(flipped)
			})
		},
		"when the server stalls": func(o *origin) {
			o.faults = append(o.faults, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", "1048576")
				_, _ = w.Write(o.data[:10])
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrigin(t)
			prepare(o)
			if err := o.get(t); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestFetchRefusesAFlippedByte(t *testing.T) {
	o := newOrigin(t)
	good := digest(o.data)
	o.data = bytes.Clone(o.data)
	flip := func(w http.ResponseWriter, r *http.Request) {
		flipped := bytes.Clone(o.data)
		flipped[500000] ^= 0x10
		_, _ = w.Write(flipped)
	}
	o.faults = append(o.faults, flip, flip)
	err := o.get(t)
	var stop stopError
	if !errors.As(err, &stop) || !errors.Is(err, errDigest) {
		t.Fatalf("error is %v", err)
	}
	flipped := bytes.Clone(o.data)
	flipped[500000] ^= 0x10
	for _, d := range []string{good, digest(flipped)} {
		if !strings.Contains(err.Error(), d) {
			t.Errorf("the error doesn't name %s: %v", d, err)
		}
	}
	if len(o.ranges) != 2 {
		t.Errorf("asked %d times", len(o.ranges))
	}
}

func TestFetchGivesUp(t *testing.T) {
	o := newOrigin(t)
	f := fetch{
		Client: newClient(&secure.Servers{}), URL: o.URL, Size: int64(len(o.data)) + 4096, SHA256: digest(o.data),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Pause: time.Millisecond, Patience: 50 * time.Millisecond,
	}
	err := f.into(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "the server has a file of 1048576 bytes, this boot image belongs to one of 1052672") {
		t.Errorf("error is %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.Patience = time.Hour
	if err := f.into(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}
