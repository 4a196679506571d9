package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Status is how far a Fetch is.
type Status struct {
	Files, FilesDone int
	Bytes, BytesDone int64 // cached files count as done
	Fetched          int64 // bytes that came from the mirror
}

// Progress is told how far a Fetch is, from one goroutine at a time and often: it should be quick. It may be nil.
type Progress func(Status)

// Source is where files come from and where they go.
type Source struct {
	Mirrors Mirrors
	Cache   *Cache
	Client  *Client
	Warn    func(string) // is told of damage in the cache, perhaps by several goroutines; may be nil

	snapshots []Snapshot // see At
}

// Fetch makes sure that all files are in the cache, whole and with the right digest: several at once, going on with
// what an earlier run began, each tried several times. On failure, files that are whole stay. The error is a *FileError.
func (s *Source) Fetch(ctx context.Context, files []File, progress Progress) error {
	count := newCounter(files, progress)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, f := range files {
		group.Go(func() error { return s.fetchOne(ctx, f, s.urls(f), count) })
	}
	return group.Wait()
}

// fetchOne tries the URLs in turn while they have no such file.
func (s *Source) fetchOne(ctx context.Context, f File, urls []string, count *counter) error {
	if !isDigest(f.SHA256) {
		return &FileError{f, f.Path, errors.New("its SHA-256 is not a digest")}
	}
	have, err := s.Cache.holds(f, s.Warn)
	if err != nil {
		return &FileError{f, s.Cache.Path(f.SHA256), err}
	}
	if have {
		count.done(f.Size)
		return nil
	}
	if len(urls) == 0 {
		return &FileError{f, f.Path, s.Mirrors.missing(f.Path)}
	}
	for _, url := range urls {
		if err = s.download(ctx, f, url, count); !errors.Is(err, ErrGone) {
			break
		}
	}
	if err != nil {
		return err
	}
	count.done(0)
	return nil
}

func (s *Source) download(ctx context.Context, f File, url string, count *counter) error {
	part, err := s.Cache.begin(ctx, f)
	if err != nil {
		return &FileError{f, url, err}
	}
	defer part.close()
	if have, err := s.Cache.holds(f, s.Warn); have || err != nil { // another process was quicker
		count.add(f.Size, 0)
		return err
	}
	count.add(part.size, 0)
	err = s.Client.retry(ctx, func() error { return s.attempt(ctx, part, url, count) })
	if err != nil {
		count.add(-part.size, 0)
		return &FileError{f, url, err}
	}
	return nil
}

// attempt fetches what is missing. Content that is wrong although it was whole is tried once more from the beginning,
// for it may come of an old partial file.
func (s *Source) attempt(ctx context.Context, part *partial, url string, count *counter) error {
	resumed := part.size
	if part.size < part.want.Size {
		err := s.Client.get(ctx, url, part.size, func(body io.Reader, from, size int64) error {
			if size >= 0 && size != part.want.Size {
				return permanent{fmt.Errorf("%w: the file has %d bytes, not the %d expected", ErrDigest, size, part.want.Size)}
			}
			return part.add(body, from, func(n int64) { count.add(n, max(n, 0)) })
		})
		if err != nil {
			return err
		}
		if part.size < part.want.Size {
			resumed = part.size // the server ended early without saying so: go on from here
			return io.ErrUnexpectedEOF
		}
	}
	had := part.size
	err := part.finish()
	if errors.Is(err, ErrDigest) {
		count.add(-had, 0)
		if resumed == 0 {
			return permanent{err}
		}
	}
	return err
}

// counter adds up progress of several downloads.
type counter struct {
	mu     sync.Mutex
	status Status
	tell   Progress
}

func newCounter(files []File, tell Progress) *counter {
	c := &counter{tell: tell, status: Status{Files: len(files)}}
	for _, f := range files {
		c.status.Bytes += f.Size
	}
	return c
}

func (c *counter) add(done, fetched int64) {
	c.update(func(s *Status) { s.BytesDone += done; s.Fetched += fetched })
}

// done counts a finished file with bytes that were not counted yet.
func (c *counter) done(bytes int64) {
	c.update(func(s *Status) { s.BytesDone += bytes; s.FilesDone++ })
}

func (c *counter) update(change func(*Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.status)
	if c.tell != nil {
		c.tell(c.status)
	}
}
