package initramfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

// fetchRoot gets the root image into memory, over TLS, and checks it.
func (b *boot) fetchRoot(ctx context.Context) error {
	// A memory file has no path: nothing can change it once it is sealed, and nothing has to be unmounted at the end.
	fd, err := unix.MemfdCreate("slipway-root", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("cannot make a file in memory: %w", err)
	}
	b.image = os.NewFile(uintptr(fd), "root image")
	f := fetch{
		Client: b.claimant, Next: b.servers.Next, Log: b.log, Size: b.root.Size, SHA256: b.root.Digest,
		URL: b.secure.URL + bootspec.RouteArtifacts + b.root.Image + bootspec.ExtRoot,
	}
	if err := f.into(ctx, b.image); err != nil {
		return err
	}
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(b.image.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("cannot seal the root image in memory: %w", err)
	}
	return nil
}

// fetch is one file from the boot server with a known size and digest.
type fetch struct {
	Client *http.Client
	URL    string
	Size   int64  // bytes
	SHA256 string // hexadecimal
	Log    *slog.Logger
	// Next has another boot server asked, after a failure; nil: there is one.
	Next func()
	// Pause is the first pause after a failure, doubled up to 16 times of it; zero: 1 s.
	Pause time.Duration
	// Stall is how long no byte is waited for before the connection is given up; zero: 30 s.
	Stall time.Duration
	// Patience is how long no progress at all is borne; zero: 10 min.
	Patience time.Duration
}

// errDigest says that all bytes came and are not the right ones.
var errDigest = errors.New("wrong content")

// into writes the file from its start. A transfer that is cut goes on where it was; one with the wrong digest is done
// once more from the start, then that is the error (a stopError that names both digests).
func (f fetch) into(ctx context.Context, out io.WriterAt) error {
	f.Pause, f.Stall, f.Patience = orDefault(f.Pause, time.Second), orDefault(f.Stall, 30*time.Second), orDefault(f.Patience, 10*time.Minute)
	began := time.Now()
	for attempt := 1; ; attempt++ {
		t := transfer{fetch: f, out: out, sum: sha256.New()}
		if err := t.whole(ctx); err != nil {
			return fmt.Errorf("cannot fetch %s: %w", f.URL, err)
		}
		got := hex.EncodeToString(t.sum.Sum(nil))
		if got == strings.ToLower(f.SHA256) {
			f.Log.Info("root image is in memory, its digest is right", "took", time.Since(began).Round(100*time.Millisecond))
			return nil
		}
		err := fmt.Errorf("%w: SHA-256 is %s, the boot image expects %s", errDigest, got, f.SHA256)
		if attempt == 2 {
			return stopError{fmt.Errorf("root image %s is corrupted: %w; bake again or copy the artifact again to the boot server", f.URL, err)}
		}
		f.Log.Warn("root image came corrupted, fetching it once more", "cause", err)
	}
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// transfer is one pass over the file, in one or more requests.
type transfer struct {
	fetch
	out  io.WriterAt
	sum  hash.Hash
	at   int64  // bytes written and hashed
	etag string // of the file that was begun
}

// whole makes requests until all bytes are there.
func (t *transfer) whole(ctx context.Context) error {
	pause, progress := t.Pause, time.Now()
	for {
		before := t.at
		err := t.request(ctx)
		if t.at == t.Size && err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if t.at > before {
			pause, progress = t.Pause, time.Now()
		}
		if time.Since(progress) > t.Patience {
			return fmt.Errorf("no progress for %v, %d of %d bytes are there: %w", t.Patience, t.at, t.Size, err)
		}
		t.Log.Warn("transfer of the root image broke off, going on", "at", t.at, "of", t.Size, "cause", err)
		if t.Next != nil {
			t.Next()
			t.Client.CloseIdleConnections()
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, 16*t.Pause)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// request asks for what is missing and takes what comes.
func (t *transfer) request(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.URL, nil)
	if err != nil {
		return err
	}
	if t.at > 0 && t.etag != "" {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", t.at))
		req.Header.Set("If-Range", t.etag)
	}
	resp, err := t.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := t.accept(resp); err != nil {
		return err
	}
	stall := time.AfterFunc(t.Stall, func() { cancel(fmt.Errorf("no data for %v", t.Stall)) })
	defer stall.Stop()
	if err := t.copy(resp.Body, stall); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	return nil
}

// accept checks the head of an answer: the rest of the same file, or a whole file of the right size from its start.
func (t *transfer) accept(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusOK:
		if t.at > 0 {
			t.at = 0
			t.sum.Reset()
		}
		if resp.ContentLength >= 0 && resp.ContentLength != t.Size {
			return fmt.Errorf("the server has a file of %d bytes, this boot image belongs to one of %d", resp.ContentLength, t.Size)
		}
		// A weak validator can't vouch for ranges (RFC 9110, 13.1.5).
		if t.etag = resp.Header.Get("ETag"); strings.HasPrefix(t.etag, "W/") {
			t.etag = ""
		}
	case http.StatusPartialContent:
		want := fmt.Sprintf("bytes %d-%d/%d", t.at, t.Size-1, t.Size)
		if got := resp.Header.Get("Content-Range"); got != want {
			t.etag = "" // from the start next time
			return fmt.Errorf("the server sends range %q, asked was %q", got, want)
		}
	case http.StatusRequestedRangeNotSatisfiable:
		t.etag = ""
		return fmt.Errorf("HTTP status %s", resp.Status)
	case http.StatusNotFound:
		return fmt.Errorf("HTTP status %s: the boot server has another version of this image, or is older and gives images out without TLS (restart slipway serve: the slipway that baked the image)", resp.Status)
	default:
		return fmt.Errorf("HTTP status %s", resp.Status)
	}
	return nil
}

// copy takes the body, never more than is missing. One processor hashes what another receives.
func (t *transfer) copy(body io.Reader, stall *time.Timer) error {
	full, free := make(chan []byte, 4), make(chan []byte, 4)
	for range cap(free) {
		free <- make([]byte, 256<<10)
	}
	var hashing sync.WaitGroup
	hashing.Go(func() {
		for chunk := range full {
			t.sum.Write(chunk)
			free <- chunk[:cap(chunk)]
		}
	})
	defer hashing.Wait() // after this the digest is that of t.at bytes
	defer close(full)
	spoken := time.Now()
	for t.at < t.Size {
		buf := <-free
		n, err := body.Read(buf[:min(int64(len(buf)), t.Size-t.at)])
		if n > 0 {
			stall.Reset(t.Stall)
			if _, werr := t.out.WriteAt(buf[:n], t.at); werr != nil {
				return fmt.Errorf("no room in memory: %w", werr)
			}
			t.at += int64(n)
		}
		full <- buf[:n]
		switch {
		case t.at == t.Size:
			return nil
		case err == io.EOF:
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
		if time.Since(spoken) > 5*time.Second {
			spoken = time.Now()
			t.Log.Info(fmt.Sprintf("root image: %d of %d MB", t.at/1e6, t.Size/1e6))
		}
	}
	return nil
}
