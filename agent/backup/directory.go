package backup

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Directory is a folder on the node: another disk, or what is mounted there.
type Directory struct {
	Path    string
	MinFree int // percent of its file system that is left to others
}

// List is what is in the folder. One that isn't there has none.
func (d Directory) List(context.Context) ([]string, error) {
	entries, err := os.ReadDir(d.Path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Put copies beside, syncs and renames.
func (d Directory) Put(ctx context.Context, name string, f *os.File) error {
	if err := os.MkdirAll(d.Path, 0o700); err != nil {
		return err
	}
	if err := roomy(d.Path, d.MinFree); err != nil {
		return err
	}
	dir, err := os.OpenRoot(d.Path)
	if err != nil {
		return err
	}
	defer dir.Close()
	node, _, _ := bootspec.ParseSnapshotName(name)
	beside := temporary + node // one name a node, so that what a power cut left is written over
	if err := copyTo(ctx, dir, beside, f); err != nil {
		_ = dir.Remove(beside)
		return err
	}
	if err := dir.Rename(beside, name); err != nil {
		return err
	}
	return syncFolder(d.Path)
}

func copyTo(ctx context.Context, dir *os.Root, name string, from io.Reader) error {
	to, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, cancelled{ctx, from})
	return errors.Join(err, to.Sync(), to.Close())
}

// cancelled ends reading when ctx does.
type cancelled struct {
	ctx  context.Context
	from io.Reader
}

func (c cancelled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.from.Read(p)
}

// Remove removes a file.
func (d Directory) Remove(_ context.Context, name string) error {
	return os.Remove(filepath.Join(d.Path, filepath.Base(name)))
}
