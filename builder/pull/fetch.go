package pull

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/slipway-os/slipway/builder/publish"
	"github.com/slipway-os/slipway/builder/release"
	"github.com/slipway-os/slipway/images/manifest"
)

const (
	stall    = 30 * time.Second // a place that sends nothing for so long is asked again
	attempts = 6                // without a byte in between
)

// retry does something until it succeeds, fails for good, or has failed so often without getting on. alive says that it got on.
func (p *puller) retry(ctx context.Context, do func(ctx context.Context, alive func()) error) error {
	for failed := 0; ; failed++ {
		got := false
		err := watched(ctx, func(ctx context.Context, alive func()) error {
			return do(ctx, func() { got = true; alive() })
		})
		var final publish.Final
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &final), errors.Is(err, fs.ErrNotExist), errors.Is(err, manifest.ErrWrong), errors.Is(err, errLocal):
			return err
		}
		if got {
			failed = 0
		}
		if failed+1 >= attempts {
			return fmt.Errorf("given up after %d attempts: %w", attempts, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(p.Pause << failed):
		}
	}
}

// watched ends what doesn't say in time that it is alive.
func watched(ctx context.Context, do func(ctx context.Context, alive func()) error) error {
	inner, stop := context.WithCancel(ctx)
	defer stop()
	silent := fmt.Errorf("nothing came for %s", stall)
	watch := time.AfterFunc(stall, stop)
	defer watch.Stop()
	err := do(inner, func() { watch.Reset(stall) })
	if err != nil && inner.Err() != nil && ctx.Err() == nil {
		return errors.Join(silent, err)
	}
	return err
}

// read reads a small file. Its digest must be what f says, where f says one.
func (p *puller) read(ctx context.Context, f release.File, most int64) (data []byte, err error) {
	err = p.retry(ctx, func(ctx context.Context, _ func()) error {
		body, err := p.Source.Open(ctx, p.found, f, 0)
		if err != nil {
			return err
		}
		defer body.Close()
		if data, err = io.ReadAll(io.LimitReader(body, most+1)); err != nil {
			return err
		}
		if int64(len(data)) > most {
			return publish.Final{Err: fmt.Errorf("it is over the limit of %d bytes", most)}
		}
		if got := digest(data); got != f.SHA256 {
			return fmt.Errorf("%w: its SHA-256 is %s, not %s", manifest.ErrWrong, got, f.SHA256)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot fetch %s: %w", f.Name, err)
	}
	return data, nil
}

// errLocal is what errors about this machine's files wrap.
var errLocal = errors.New("cannot write it here")

// fetch brings a file into the folder, unless it is there.
func (p *puller) fetch(ctx context.Context, f release.File) error {
	start := p.done
	if there, err := p.check(ctx, f.Name, f); err != nil || there {
		p.done = start + f.Size
		return err
	}
	resumed, err := p.attempt(ctx, f)
	if resumed && errors.Is(err, manifest.ErrWrong) { // what an earlier run left may have been of something else
		p.done = start
		_, err = p.attempt(ctx, f)
	}
	if err != nil {
		return fmt.Errorf("cannot fetch %s: %w", f.Name, err)
	}
	return p.root.Rename(part(f.Name), f.Name)
}

// check tells whether a file in the folder is whole already.
func (p *puller) check(ctx context.Context, name string, f release.File) (bool, error) {
	file, err := p.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || info.Size() != f.Size {
		return false, err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, p.counting(ctx, f.Name, file)); err != nil {
		return false, err
	}
	return fmt.Sprintf("%x", sum.Sum(nil)) == f.SHA256, nil
}

// attempt fetches a file beside its name, and goes on with what an earlier run left there. A file that turned out to be wrong is removed.
func (p *puller) attempt(ctx context.Context, f release.File) (resumed bool, err error) {
	file, err := p.root.OpenFile(part(f.Name), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return false, err
	}
	defer file.Close()
	sum := sha256.New()
	at, err := io.Copy(sum, p.counting(ctx, f.Name, io.LimitReader(file, f.Size)))
	if err != nil {
		return false, err
	}
	t := &transfer{puller: p, want: f, file: file, sum: sum, at: at}
	err = t.run(ctx)
	if errors.Is(err, manifest.ErrWrong) {
		return at > 0, errors.Join(err, p.root.Remove(part(f.Name)))
	}
	return at > 0, err
}

// transfer is a file on its way.
type transfer struct {
	*puller
	want release.File
	file *os.File
	sum  hash.Hash
	at   int64 // bytes that are there, written and hashed
}

func (t *transfer) run(ctx context.Context) error {
	out := publish.NewSparse(t.file, t.at)
	err := t.retry(ctx, func(ctx context.Context, alive func()) error { return t.more(ctx, out, alive) })
	if err := errors.Join(err, out.End()); err != nil { // what is there is kept: the next run goes on from it
		return err
	}
	if got := fmt.Sprintf("%x", t.sum.Sum(nil)); got != t.want.SHA256 {
		return fmt.Errorf("%w: its SHA-256 is %s, not %s", manifest.ErrWrong, got, t.want.SHA256)
	}
	return t.file.Sync()
}

// more fetches what is missing, in one request.
func (t *transfer) more(ctx context.Context, out io.Writer, alive func()) error {
	if t.at == t.want.Size {
		return nil
	}
	body, err := t.Source.Open(ctx, t.found, t.want, t.at)
	if err != nil {
		return err
	}
	defer body.Close()
	buf := make([]byte, 256<<10)
	for t.at < t.want.Size {
		n, err := body.Read(buf[:min(int64(len(buf)), t.want.Size-t.at)])
		if n > 0 {
			alive()
			if _, err := out.Write(buf[:n]); err != nil {
				return fmt.Errorf("%w: %w", errLocal, err)
			}
			t.sum.Write(buf[:n])
			t.at += int64(n)
			t.result.Fetched += int64(n)
			t.show(t.want.Name, n)
		}
		if err == io.EOF && t.at < t.want.Size {
			err = fmt.Errorf("it broke off at byte %d of %d", t.at, t.want.Size)
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

func (p *puller) show(name string, n int) {
	if p.done += int64(n); p.Progress != nil {
		p.Progress(name, p.done, p.result.Bytes)
	}
}

// counting reads what is here already: as progress, and no further than ctx.
func (p *puller) counting(ctx context.Context, name string, r io.Reader) io.Reader {
	return readerFunc(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		n, err := r.Read(b)
		p.show(name, n)
		return n, err
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
