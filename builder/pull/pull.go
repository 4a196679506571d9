// Package pull fetches a published release into a folder, from which slipway serve and slipway flash take it.
//
// What a place says about a release is not believed. Its checksum file is, when a trusted key has signed it; that vouches for
// the manifests, and every byte of an artifact is compared with both. A file has its name only when it is whole, and a
// manifest comes after all that it names.
package pull

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/builder/provenance"
	"github.com/slipway-os/slipway/builder/publish"
	"github.com/slipway-os/slipway/builder/release"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
	"github.com/slipway-os/slipway/images/version"
)

// maxOther bounds files that no manifest tells the size of, in bytes: provenance.
const maxOther = 32 << 20

// Source is a place that releases are published in.
type Source interface {
	// Find tells what the place has. An error that wraps publish.ErrNone says that it hasn't what is wanted.
	Find(ctx context.Context, w publish.Want) (publish.Release, error)
	// Open opens a file of a release at an offset in bytes. What it reads is not verified, and may break off: then it is
	// opened again. fs.ErrNotExist and publish.Final are errors that trying again doesn't help against.
	Open(ctx context.Context, r publish.Release, f release.File, offset int64) (io.ReadCloser, error)
	String() string
}

// Order is what to fetch.
type Order struct {
	Source   Source
	Want     publish.Want
	Out      string   // folder; it is made if it isn't there
	Roles    []string // none: all
	Arches   []string // none: all
	Trust    *release.Trust
	Pause    time.Duration // before something that failed is tried again the first time; then twice as long each time
	Progress func(name string, done, all int64)
}

// Result is what was fetched.
type Result struct {
	Place   string   `json:"place"`
	Version string   `json:"version"`
	Signer  string   `json:"signer,omitempty"` // id of the trusted key that signed it
	Images  []string `json:"images"`           // role/arch
	Files   int      `json:"files"`
	Bytes   int64    `json:"bytes"`   // of all files
	Fetched int64    `json:"fetched"` // of them, those that were not there yet
}

// Pull fetches a release. Run again after it broke off, it goes on where it was.
func Pull(ctx context.Context, o Order) (Result, error) {
	r, err := pull(ctx, o)
	if err != nil {
		return Result{}, fmt.Errorf("cannot pull from %s: %w", o.Source, err)
	}
	return r, nil
}

func pull(ctx context.Context, o Order) (Result, error) {
	p := &puller{Order: o}
	if err := p.find(ctx); err != nil {
		return Result{}, err
	}
	if err := p.readSums(ctx); err != nil {
		return Result{}, err
	}
	if err := p.readManifests(ctx); err != nil {
		return Result{}, err
	}
	wanted, err := p.choose()
	if err != nil {
		return Result{}, err
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return Result{}, err
	}
	if p.root, err = os.OpenRoot(o.Out); err != nil {
		return Result{}, err
	}
	defer p.root.Close()
	unlock, err := p.lock()
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	if err := p.refuseOthers(); err != nil {
		return Result{}, err
	}
	err = p.fetchAll(ctx, wanted)
	return p.result, err
}

// puller is one run: what each step leaves for the next.
type puller struct {
	Order
	found  publish.Release
	own    []small // the checksum file and its signature
	sums   release.Sums
	images []release.Image
	root   *os.Root
	result Result
	done   int64 // bytes
}

// small is a file that is held in memory until its turn comes.
type small struct {
	name string
	data []byte
}

func (p *puller) find(ctx context.Context) error {
	return p.retry(ctx, func(ctx context.Context, _ func()) error {
		var err error
		p.found, err = p.Source.Find(ctx, p.Want)
		p.result.Place, p.result.Version = p.Source.String(), p.found.Version
		switch v := p.found.Version; {
		case errors.Is(err, publish.ErrNone), errors.Is(err, release.ErrSignature), publish.Unreachable(err):
			return publish.Final{Err: err}
		case err == nil && (version.Check(v) != nil || p.Want.Version != "" && v != p.Want.Version):
			return publish.Final{Err: fmt.Errorf("it answers with version %q", v)}
		}
		return err
	})
}

// readSums reads the release's own files, and wants a trusted key's signature where there are such keys.
func (p *puller) readSums(ctx context.Context) error {
	own, err := release.ReadOwn(ctx, func(ctx context.Context, name string, most int64) ([]byte, error) {
		f, ok := p.file(name)
		if !ok {
			return nil, fs.ErrNotExist
		}
		return p.read(ctx, f, most)
	}, p.found.Version)
	if err != nil {
		return err
	}
	if own.Sums == nil {
		return fmt.Errorf("the release is not whole: %s is not there", release.FileName(p.found.Version, release.ExtSums))
	}
	files := own.Files(p.found.Version)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		p.own = append(p.own, small{name, files[name]})
	}
	var key release.Key
	p.sums, key, err = p.Trust.Vouch(p.found.Version, own)
	p.result.Signer = key.ID
	return err
}

// file is what the place says about a file.
func (p *puller) file(name string) (release.File, bool) {
	i := slices.IndexFunc(p.found.Files, func(f release.File) bool { return f.Name == name })
	if i < 0 {
		return release.File{}, false
	}
	return p.found.Files[i], true
}

// readManifests reads all manifests that the checksum file names.
func (p *puller) readManifests(ctx context.Context) error {
	for name, sum := range p.sums {
		if !manifest.IsName(name) {
			continue
		}
		f, ok := p.file(name)
		if !ok {
			return fmt.Errorf("the release is not whole: %s is not there", name)
		}
		f.SHA256 = sum
		data, err := p.read(ctx, f, manifest.MaxSize)
		if err != nil {
			return err
		}
		m, err := manifest.Decode(data)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if m.Version != p.found.Version || name != bootspec.ArtifactBase(m.Role, m.Version, m.Arch)+bootspec.ExtManifest {
			return fmt.Errorf("%s is the manifest of another image", name)
		}
		p.images = append(p.images, release.Image{Manifest: m, File: name, Data: data})
	}
	slices.SortFunc(p.images, func(a, b release.Image) int { return strings.Compare(a.File, b.File) })
	return nil
}

// choose picks the files to fetch: all that the checksum file names but for those of images that aren't wanted. Their
// sizes are the manifests', and for others what the place says.
func (p *puller) choose() ([]release.File, error) {
	sizes, others := map[string]int64{}, map[string]bool{}
	for _, i := range p.images {
		wanted := p.wants(i)
		if wanted {
			p.result.Images = append(p.result.Images, i.Role+"/"+i.Arch)
		}
		for _, a := range i.Artifacts {
			if p.sums[a.Name] != a.SHA256 {
				return nil, fmt.Errorf("%s and the checksum file have different digests for %s", i.File, a.Name)
			}
			sizes[a.Name], others[a.Name] = a.Size, !wanted
		}
		others[i.File] = true // read already
		others[provenance.FileName(i.Role, i.Version, i.Arch)] = !wanted
		others[bootspec.ArtifactBase(i.Role, i.Version, i.Arch)+release.ExtAttestation] = !wanted
	}
	if len(p.result.Images) == 0 {
		return nil, fmt.Errorf("version %s has no image for %s: it has %s", p.found.Version, p.wanted(), p.has())
	}
	var files []release.File
	for name, sum := range p.sums {
		if others[name] {
			continue
		}
		f, ok := p.file(name)
		if !ok {
			return nil, fmt.Errorf("the release is not whole: %s is not there", name)
		}
		if size, ok := sizes[name]; ok {
			f.Size = size
		} else if f.Size > maxOther {
			return nil, fmt.Errorf("%s would have %d bytes: over %d are too many for what is no artifact", name, f.Size, maxOther)
		}
		f.SHA256 = sum
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b release.File) int { return strings.Compare(a.Name, b.Name) })
	return files, nil
}

func (p *puller) wants(i release.Image) bool {
	has := func(list []string, word string) bool { return len(list) == 0 || slices.Contains(list, word) }
	return has(p.Roles, i.Role) && has(p.Arches, i.Arch)
}

func (p *puller) wanted() string {
	return strings.TrimSpace(strings.Join(p.Roles, ", ") + " " + strings.Join(p.Arches, ", "))
}

func (p *puller) has() string {
	var list []string
	for _, i := range p.images {
		list = append(list, i.Role+"/"+i.Arch)
	}
	return strings.Join(list, ", ")
}

// lock keeps another pull out of the folder.
func (p *puller) lock() (unlock func(), err error) {
	d, err := p.root.Open(".")
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		d.Close()
		return nil, fmt.Errorf("another slipway pull writes into %s: wait for it, or name another folder", p.Out)
	} // a file system that has no locks has no locks
	return func() { d.Close() }, nil
}

// refuseOthers wants no other release of the same version in the folder: its files have the same names.
func (p *puller) refuseOthers() error {
	var files []small
	files = append(files, p.own...)
	for _, i := range p.images {
		files = append(files, small{i.File, i.Data})
	}
	for _, f := range files {
		there, err := p.root.ReadFile(f.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if string(there) != string(f.data) {
			return fmt.Errorf("%s holds another release of version %s (%s differs): remove it, or name another folder", p.Out, p.found.Version, f.name)
		}
	}
	return nil
}

// fetchAll fetches the artifacts, then writes what vouches for them, then the manifests.
func (p *puller) fetchAll(ctx context.Context, files []release.File) error {
	last := slices.Clone(p.own)
	for _, i := range p.images {
		if p.wants(i) {
			last = append(last, small{i.File, i.Data})
		}
	}
	for _, f := range files {
		p.result.Bytes += f.Size
	}
	for _, f := range files {
		if err := p.fetch(ctx, f); err != nil {
			return err
		}
	}
	for _, f := range last {
		if err := p.write(f); err != nil {
			return err
		}
		p.result.Bytes += int64(len(f.data))
	}
	p.result.Files = len(files) + len(last)
	return p.syncFolder()
}

func (p *puller) write(f small) error {
	hidden := part(f.name)
	file, err := p.root.OpenFile(hidden, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(f.data)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, p.root.Remove(hidden))
	}
	return p.root.Rename(hidden, f.name)
}

func (p *puller) syncFolder() error {
	d, err := p.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// part is the name of a file that isn't whole yet.
func part(name string) string { return "." + name + ".part" }

func digest(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }
