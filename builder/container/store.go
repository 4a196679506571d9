package container

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
)

// Store keeps manifests and blobs by digest in a folder of the cache. What lies there under its digest is whole.
type Store struct {
	dir   string
	files *oci.Storage
	Pause time.Duration // before something that failed is tried again the first time; then twice as long each time
}

// attempts is how often something is tried.
const attempts = 4

// NewStore is the store in a cache folder.
func NewStore(cache string) (*Store, error) {
	dir := filepath.Join(cache, "containers")
	files, err := oci.NewStorage(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot use cache folder: %w", err)
	}
	return &Store{dir: dir, files: files, Pause: time.Second}, nil
}

// Path is where a manifest or blob lies, or will lie.
func (s *Store) Path(of string) string {
	return filepath.Join(s.dir, "blobs", "sha256", strings.TrimPrefix(of, "sha256:"))
}

// try runs once until it succeeds, fails for good or attempts are used up.
func (s *Store) try(ctx context.Context, once func() error) error {
	wait := s.Pause
	for i := 1; ; i++ {
		err := once()
		var p permanent
		switch {
		case err == nil:
			return nil
		case errors.As(err, &p):
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case i == attempts:
			return fmt.Errorf("%w (tried %d times)", err, attempts)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
		wait *= 2
	}
}

// Fetch makes sure that an image is in the store, whole: the one whose manifest has the digest. What an earlier run fetched is
// not fetched again; what is damaged in the store is.
func (s *Store) Fetch(ctx context.Context, o Origin, of string) error {
	if s.whole(of) {
		return nil
	}
	err := s.try(ctx, func() error {
		from, roots, err := open(ctx, o)
		if err != nil {
			return err
		}
		d, err := find(ctx, from, roots, digest.Digest(of))
		if err != nil {
			return err
		}
		err = oras.CopyGraph(ctx, from, checked{s}, d, oras.CopyGraphOptions{Concurrency: 3})
		if err != nil && o.Archive != "" {
			return permanent{err}
		}
		host, _, _ := strings.Cut(o.Source, "/")
		return explain(err, host)
	})
	if err != nil {
		return fmt.Errorf("cannot fetch container image %s of %s: %w", of, o, err)
	}
	return nil
}

// find is the manifest of a digest among what an origin names.
func find(ctx context.Context, from content.Fetcher, roots []ocispec.Descriptor, of digest.Digest) (ocispec.Descriptor, error) {
	for depth := 0; len(roots) > 0 && depth < 4; depth++ {
		var next []ocispec.Descriptor
		for _, d := range roots {
			if d.Digest == of {
				return d, nil
			}
			if isIndex(d) {
				var index ocispec.Index
				if err := read(ctx, from, d, &index); err != nil {
					return d, err
				}
				next = append(next, index.Manifests...)
			}
		}
		roots = next
	}
	return ocispec.Descriptor{}, permanent{fmt.Errorf("%w: it has no manifest %s", ErrGone, of)}
}

// whole tells whether an image is in the store. What is damaged is taken away, and then the manifest, so that what is
// missing is fetched.
func (s *Store) whole(of string) bool {
	manifest, err := s.intact(of, -1)
	if !manifest || err != nil {
		return false
	}
	data, err := os.ReadFile(s.Path(of))
	if err != nil {
		return false
	}
	var m ocispec.Manifest
	all := json.Unmarshal(data, &m) == nil
	for _, d := range append(m.Layers, m.Config) {
		if ok, err := s.intact(d.Digest.String(), d.Size); !ok || err != nil {
			all = false
		}
	}
	if !all {
		os.Remove(s.Path(of))
	}
	return all
}

// intact tells whether a file has its digest, and its size where that is known (else -1). One that hasn't is taken away.
func (s *Store) intact(of string, size int64) (bool, error) {
	f, err := os.Open(s.Path(of))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return false, err
	}
	if fmt.Sprintf("sha256:%x", h.Sum(nil)) == of && (size < 0 || n == size) {
		return true, nil
	}
	return false, os.Remove(s.Path(of))
}

// checked is the store for oras: what exists in it has its digest.
type checked struct{ s *Store }

func (c checked) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return c.s.files.Fetch(ctx, d)
}

func (c checked) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	return c.s.files.Push(ctx, d, r)
}

func (c checked) Exists(_ context.Context, d ocispec.Descriptor) (bool, error) {
	return c.s.intact(d.Digest.String(), d.Size)
}
