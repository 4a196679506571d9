package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/slipway-os/slipway/builder/release"
	"github.com/slipway-os/slipway/images/version"
)

// Names in a place's folder.
const (
	IndexName = "index.json"
	Releases  = "releases" // a folder for each version, with its files
	lockName  = ".lock"
	newPrefix = ".new-" // a release that is being written
)

// Folder is a place in a folder of this machine.
//
// Readers take no lock. They read the index, which is replaced by one rename, and then files of a release that it names:
// those are there before the index names them, never change, and go only after no index names them.
type Folder struct {
	dir  string
	root *os.Root
	// Patience is how long another publisher is waited for.
	Patience time.Duration
	// Wait is called once when another publisher has the lock.
	Wait func(who string)
	// Guard is what readers want of the index; nil: nothing.
	Guard *Guard
	// at is called at points where a crash would hurt, by name; tests crash there.
	at func(point string)
}

// OpenFolder opens a place in a folder.
func OpenFolder(dir string) (*Folder, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open the published releases: %w", err)
	}
	return &Folder{dir: dir, root: root, Wait: func(string) {}, at: func(string) {}}, nil
}

// CreateFolder opens a place in a folder, which is made if it isn't there.
func CreateFolder(dir string) (*Folder, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the folder for published releases: %w", err)
	}
	return OpenFolder(dir)
}

// Close releases the folder.
func (f *Folder) Close() error { return f.root.Close() }

// String is the folder's name.
func (f *Folder) String() string { return f.dir }

// address is what the folder is remembered by.
func (f *Folder) address() string {
	if whole, err := filepath.Abs(f.dir); err == nil {
		return whole
	}
	return f.dir
}

// Index reads what is published. A folder where nothing is yet has an empty one.
func (f *Folder) Index(context.Context) (*Index, error) {
	x, err := f.index()
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", filepath.Join(f.dir, IndexName), err)
	}
	return x, nil
}

func (f *Folder) index() (*Index, error) {
	file, err := f.root.Open(IndexName)
	if errors.Is(err, fs.ErrNotExist) {
		return NewIndex(), nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, MaxIndex+1))
	if err != nil {
		return nil, err
	}
	return DecodeIndex(data)
}

// Find finds a release that is wanted.
func (f *Folder) Find(ctx context.Context, w Want) (Release, error) {
	x, err := f.Index(ctx)
	if err == nil {
		err = f.Guard.Check(f.address(), x, w.Version == "")
	}
	if err != nil {
		return Release{}, err
	}
	return x.Find(w)
}

// Open opens a file of a release at an offset. The file is the caller's to close.
func (f *Folder) Open(_ context.Context, r Release, file release.File, offset int64) (io.ReadCloser, error) {
	opened, err := f.root.Open(path.Join(Releases, r.Version, file.Name))
	if err != nil {
		return nil, err
	}
	if _, err := opened.Seek(offset, io.SeekStart); err != nil {
		opened.Close()
		return nil, err
	}
	return opened, nil
}

// Order is what is to be done to a place, in one step that readers see as a whole.
type Order struct {
	Release  *release.Release // to publish; nil: none
	From     *os.Root         // where its files are
	Channels []string         // that then name Version
	Version  string           // the release's, where there is one
	Back     bool             // channels may go back
	Keep     Keep
	Sealing  *Sealing // who signs the index; nil: nobody
	Dry      bool     // only tell
	Progress func(done, all int64)
}

// Result is what was done.
type Result struct {
	Place     string   `json:"place"`
	Version   string   `json:"version,omitempty"`
	Published bool     `json:"published"` // false: it was there already
	Channels  []Moved  `json:"channels,omitempty"`
	Pruned    []string `json:"pruned,omitempty"` // versions
	Index     int64    `json:"index,omitempty"`  // counter of the signed index
}

// Apply does what an order says, or nothing. Publishing a version again with the same bytes does nothing; with others it is an error
// that wraps ErrRefused. Only one publisher works in a folder at a time: others wait.
func (f *Folder) Apply(ctx context.Context, o Order) (Result, error) {
	r, err := f.apply(ctx, o)
	if err != nil {
		return Result{}, fmt.Errorf("cannot publish in %s: %w", f.dir, err)
	}
	return r, nil
}

func (f *Folder) apply(ctx context.Context, o Order) (Result, error) {
	unlock, err := f.lock(ctx)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	x, err := f.begin(o.Sealing)
	if err != nil {
		return Result{}, err
	}
	described, err := o.Describe()
	if err != nil {
		return Result{}, err
	}
	result, err := o.Decide(x, described)
	result.Place = f.dir
	if err != nil || o.Dry {
		return result, err
	}
	if described != nil {
		if err := f.put(ctx, o, *described); err != nil {
			return Result{}, err
		}
	}
	if o.Sealing != nil {
		if err := o.Sealing.Seal(x); err != nil {
			return Result{}, err
		}
		result.Index = x.Seal.Counter
	}
	f.at("before the index")
	if err := f.writeIndex(x); err != nil {
		return Result{}, err
	}
	f.at("after the index")
	return result, errors.Join(f.Guard.Wrote(f.address(), x), f.sweep(x))
}

// Describe is what an index says about the order's release; nil: it has none.
func (o Order) Describe() (*Release, error) {
	if o.Release == nil {
		return nil, nil
	}
	files, err := o.Release.Files(o.From)
	if err != nil {
		return nil, err
	}
	r := Describe(o.Release, files)
	return &r, nil
}

// Decide changes an index as an order says.
func (o Order) Decide(x *Index, r *Release) (Result, error) {
	result := Result{Version: o.Version}
	if r != nil {
		var err error
		result.Version = r.Version
		if result.Published, err = x.Add(*r); err != nil {
			return Result{}, err
		}
		o.Keep.Versions = append([]string{r.Version}, o.Keep.Versions...)
	}
	for _, channel := range o.Channels {
		before, err := x.Move(channel, result.Version, o.Back)
		if err != nil {
			return Result{}, err
		}
		result.Channels = append(result.Channels, Moved{channel, before, result.Version})
	}
	for _, gone := range x.Prune(o.Keep) {
		result.Pruned = append(result.Pruned, gone.Version)
	}
	return result, nil
}

// begin reads the index and takes away what a publisher that crashed has left. The index is there before the first
// release is: without one, releases in the folder are nobody's to delete.
func (f *Folder) begin(s *Sealing) (*Index, error) {
	x, err := f.index()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", IndexName, err)
	}
	if err := f.Guard.Writes(f.address(), x, s); err != nil { // before anything is deleted that it does not name
		return nil, err
	}
	if _, err := f.root.Stat(IndexName); err == nil {
		return x, f.sweep(x)
	}
	if entries, err := fs.ReadDir(f.root.FS(), Releases); err == nil && len(entries) > 0 {
		return nil, fmt.Errorf("%s is gone, though there are releases: bring it back from a backup, or publish into an empty folder", IndexName)
	}
	if err := f.root.Mkdir(Releases, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := f.root.Chmod(Releases, 0o755); err != nil {
		return nil, err
	}
	return x, f.writeIndex(x)
}

// sweep deletes what no index names: unfinished releases, and those that are gone from it.
func (f *Folder) sweep(x *Index) error {
	entries, err := fs.ReadDir(f.root.FS(), Releases)
	if err != nil {
		return err
	}
	for _, e := range entries {
		rest, unfinished := strings.CutPrefix(e.Name(), newPrefix)
		if version.Check(rest) != nil {
			continue // not ours
		}
		if _, named := x.search(rest); named && !unfinished {
			continue
		}
		if err := f.root.RemoveAll(path.Join(Releases, e.Name())); err != nil {
			return err
		}
		f.at("while deleting")
	}
	return nil
}

// writeIndex replaces the index by one rename.
func (f *Folder) writeIndex(x *Index) error {
	const hidden = "." + IndexName + ".new"
	if err := f.write(hidden, func(w io.Writer) error {
		_, err := w.Write(x.Encode())
		return err
	}); err != nil {
		return err
	}
	f.at("before the index is renamed")
	if err := f.root.Rename(hidden, IndexName); err != nil {
		return err
	}
	return f.sync(".")
}

// write makes a file that everybody may read, durably, or none.
func (f *Folder) write(name string, fill func(io.Writer) error) error {
	file, err := f.root.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(file), file.Chmod(0o644), file.Sync(), file.Close()); err != nil {
		return errors.Join(err, f.root.Remove(name))
	}
	return nil
}

// sync makes renames in a folder durable.
func (f *Folder) sync(name string) error {
	d, err := f.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
