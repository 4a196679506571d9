package publish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/slipway-os/slipway/builder/release"
	"github.com/slipway-os/slipway/images/manifest"
)

// put writes a release's folder beside and renames it when all of it is there and durable.
func (f *Folder) put(ctx context.Context, o Order, r Release) error {
	final := path.Join(Releases, r.Version)
	if _, err := f.root.Stat(final); err == nil {
		return f.whole(r)
	}
	hidden := path.Join(Releases, newPrefix+r.Version)
	if err := f.fill(ctx, o, r, hidden); err != nil {
		return errors.Join(err, f.root.RemoveAll(hidden))
	}
	f.at("before the release is renamed")
	if err := f.root.Rename(hidden, final); err != nil {
		return err
	}
	return f.sync(Releases)
}

// whole wants a published release to have all its files.
func (f *Folder) whole(r Release) error {
	for _, file := range r.Files {
		info, err := f.root.Stat(path.Join(Releases, r.Version, file.Name))
		if err != nil || info.Size() != file.Size {
			return fmt.Errorf("the published version %s is damaged: %s is missing or has another size; delete the folder %s and publish it again",
				r.Version, file.Name, path.Join(f.dir, Releases, r.Version))
		}
	}
	return nil
}

func (f *Folder) fill(ctx context.Context, o Order, r Release, hidden string) error {
	if err := f.root.Mkdir(hidden, 0o755); err != nil {
		return err
	}
	if err := f.root.Chmod(hidden, 0o755); err != nil { // whatever the umask is
		return err
	}
	own := o.Release.Own.Files(r.Version)
	p := &counter{all: total(r.Files), show: o.Progress}
	for _, file := range r.Files {
		open := func() (io.ReadCloser, error) { return o.From.Open(file.Name) }
		if data, ok := own[file.Name]; ok {
			open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
		}
		if err := f.copy(ctx, path.Join(hidden, file.Name), file, open, p); err != nil {
			return err
		}
		f.at("between files")
	}
	return f.sync(hidden)
}

// copy copies a file, holes as holes, and compares it with what it should be.
func (f *Folder) copy(ctx context.Context, name string, want release.File, open func() (io.ReadCloser, error), p *counter) error {
	in, err := open()
	if err != nil {
		return err
	}
	defer in.Close()
	return f.write(name, func(w io.Writer) error {
		sum := sha256.New()
		out := NewSparse(w.(*os.File), 0)
		n, err := io.CopyBuffer(out, io.TeeReader(io.LimitReader(contextReader{ctx, in, p}, want.Size+1), sum), make([]byte, 1<<20))
		if err := errors.Join(err, out.End()); err != nil {
			return fmt.Errorf("cannot copy %s: %w", want.Name, err)
		}
		if n != want.Size || fmt.Sprintf("%x", sum.Sum(nil)) != want.SHA256 {
			return fmt.Errorf("%s: %w (it was changed; bake the image again and sign the release)", want.Name, manifest.ErrWrong)
		}
		return nil
	})
}

// counter tells how many bytes are done.
type counter struct {
	done, all int64
	show      func(done, all int64)
}

func total(files []release.File) (n int64) {
	for _, f := range files {
		n += f.Size
	}
	return n
}

// contextReader ends with its context, and counts.
type contextReader struct {
	ctx context.Context
	io.Reader
	*counter
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.Reader.Read(p)
	if r.done += int64(n); r.show != nil {
		r.show(r.done, r.all)
	}
	return n, err
}
