package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Cache keeps files by their SHA-256 below DIR/packages/sha256. A file has its final name only once it is whole and
// verified; several processes may share a cache.
type Cache struct{ dir string }

// NewCache is the cache in a folder, which need not exist yet.
func NewCache(dir string) *Cache {
	return &Cache{filepath.Join(dir, "packages", "sha256")}
}

// Path is where a file is, or will be.
func (c *Cache) Path(sha256 string) string { return filepath.Join(c.dir, sha256) }

// Open opens a file that Fetch has put here. The error wraps fs.ErrNotExist if it is not here.
func (c *Cache) Open(sha256 string) (*os.File, error) {
	if !isDigest(sha256) {
		return nil, fmt.Errorf("cannot open cached file: %q is not a digest", sha256)
	}
	return os.Open(c.Path(sha256))
}

// holds tells whether the file is here, whole and right; a wrong or unreadable one is taken away, and told of.
func (c *Cache) holds(f File, warn func(string)) (bool, error) {
	err := c.check(f)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return err == nil, nil
	}
	if warn != nil {
		warn(fmt.Sprintf("%s in the cache is damaged (%v): it is fetched again", f.Path, err))
	}
	return false, os.RemoveAll(c.Path(f.SHA256))
}

// check reads a file and compares it with what it must be.
func (c *Cache) check(f File) error {
	file, err := os.Open(c.Path(f.SHA256))
	if err != nil {
		return err
	}
	defer file.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, file)
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); n != f.Size || got != f.SHA256 {
		return fmt.Errorf("%d bytes with SHA-256 %s, not %d with %s", n, got, f.Size, f.SHA256)
	}
	return nil
}

// partial is a download that has begun: its file is locked, so that one process at a time writes it.
type partial struct {
	file *os.File
	sum  hash.Hash
	size int64 // bytes in file and sum
	want File
	dest string
}

// begin opens or continues a partial download. It waits while another process has it.
func (c *Cache) begin(ctx context.Context, f File) (*partial, error) {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, err
	}
	dest := c.Path(f.SHA256)
	file, err := lockFile(ctx, dest+".part")
	if err != nil {
		return nil, err
	}
	p := &partial{file: file, sum: sha256.New(), want: f, dest: dest}
	if p.size, err = io.Copy(p.sum, file); err == nil && p.size > f.Size {
		err = p.restart()
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return p, nil
}

// lockFile opens and locks a file that another process may rename or remove while we wait for it.
func lockFile(ctx context.Context, name string) (*os.File, error) {
	for {
		file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil && sameFile(file, name) {
			return file, nil
		}
		file.Close()
		if err != nil && !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("cannot lock %s: %w", name, err)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func sameFile(file *os.File, name string) bool {
	ours, err := file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(name)
	return err == nil && os.SameFile(ours, there)
}

// restart forgets what has come so far.
func (p *partial) restart() error {
	p.sum.Reset()
	p.size = 0
	if err := p.file.Truncate(0); err != nil {
		return err
	}
	_, err := p.file.Seek(0, io.SeekStart)
	return err
}

// add appends a body that begins at an offset: either where the file ends, or at its beginning.
func (p *partial) add(body io.Reader, from int64, count func(int64)) error {
	if from != p.size {
		count(-p.size)
		if err := p.restart(); err != nil {
			return permanent{err}
		}
	}
	buf := make([]byte, 128<<10)
	for {
		n, err := body.Read(buf)
		if p.size+int64(n) > p.want.Size {
			return permanent{fmt.Errorf("%w: more than the %d bytes expected", ErrDigest, p.want.Size)}
		}
		if _, werr := p.file.Write(buf[:n]); werr != nil {
			return permanent{werr}
		}
		p.sum.Write(buf[:n])
		p.size += int64(n)
		count(int64(n))
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// finish checks size and digest and gives the file its name. A wrong file is emptied.
func (p *partial) finish() error {
	got := hex.EncodeToString(p.sum.Sum(nil))
	if p.size != p.want.Size || got != p.want.SHA256 {
		err := fmt.Errorf("%w: expected %d bytes with SHA-256 %s, got %d with %s", ErrDigest, p.want.Size, p.want.SHA256, p.size, got)
		return errors.Join(err, p.restart())
	}
	if err := p.file.Sync(); err != nil {
		return err
	}
	return os.Rename(p.file.Name(), p.dest)
}

func (p *partial) close() error { return p.file.Close() }
