package netboot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-os/slipway/builder/release"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/checksums"
	"github.com/slipway-os/slipway/images/manifest"
	"github.com/slipway-os/slipway/images/version"
)

// artifacts is the set of files that may be served: those that manifests in the folder name and machines boot. Each was
// compared with its manifest's size and digest when the server started and has been open since: baking into the same
// folder replaces files, but not what a running server serves.
type artifacts struct {
	files map[string]*artifact
	uki   map[imageKey]string // file name
	bios  map[string]string   // file name of the iPXE for legacy BIOS, by role

	refused []error // why machines will not install an image that they boot
}

type imageKey struct{ role, arch string }

type artifact struct {
	manifest.Artifact
	file    *os.File
	changed time.Time // when it was written last, as of when it was compared
}

// openArtifacts reads the manifests in a folder and picks each role's image, for each architecture there is: the wanted
// version, or the newest where wanted is empty (version.Compare).
//
// Each image must be what a trusted key has signed, if there are such keys.
func openArtifacts(ctx context.Context, folder, wanted string, roles []string, trust *release.Trust) (*artifacts, error) {
	return reopenArtifacts(ctx, folder, wanted, roles, trust, nil)
}

// reopenArtifacts is openArtifacts that doesn't compare again what was compared before and is the same file; before may be nil, and stays
// open.
func reopenArtifacts(ctx context.Context, folder, wanted string, roles []string, trust *release.Trust, before *artifacts) (*artifacts, error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, fmt.Errorf("cannot open the artifacts folder: %w (bake images into it: slipway bake --role ROLE --out %s)", err, folder)
	}
	defer root.Close()
	all, err := release.Images(root)
	if err != nil {
		return nil, fmt.Errorf("cannot serve %s: %w (bake the image again, or remove it)", folder, err)
	}
	a := &artifacts{files: map[string]*artifact{}, uki: map[imageKey]string{}, bios: map[string]string{}}
	for _, role := range roles {
		chosen := pick(all, role, wanted)
		if len(chosen) == 0 {
			err = fmt.Errorf("there is no image%s (bake it: slipway bake --role %s --out %s)", ofVersion(wanted), role, folder)
		}
		for _, m := range chosen {
			if _, e := trust.Check(ctx, release.Folder(root), m.Manifest, m.Data); e != nil {
				err = errors.Join(err, e)
				continue
			}
			err = errors.Join(err, a.add(root, m), a.addOwn(ctx, root, m.Manifest))
		}
		if err != nil {
			a.close()
			return nil, fmt.Errorf("cannot serve role %s from %s: %w", role, folder, err)
		}
	}
	if err := a.verify(before); err != nil {
		a.close()
		return nil, fmt.Errorf("cannot serve %s: %w", folder, err)
	}
	return a, nil
}

func ofVersion(wanted string) string {
	if wanted == "" {
		return ""
	}
	return " of version " + wanted
}

// pick chooses the manifests of a role, one for each architecture.
func pick(all []release.Image, role, wanted string) []release.Image {
	best := map[string]*manifest.Manifest{}
	for _, m := range all {
		if m.Role != role || (wanted != "" && m.Version != wanted) {
			continue
		}
		if b := best[m.Arch]; b == nil || version.Compare(m.Version, b.Version) > 0 {
			best[m.Arch] = m.Manifest
		}
	}
	var chosen []release.Image
	for _, m := range all { // in the order of their file names
		if best[m.Arch] == m.Manifest {
			chosen = append(chosen, m)
		}
	}
	return chosen
}

// boots says whether an artifact is of a kind that a machine boots from the network. Disk images are large and nobody
// fetches them from here: they needn't be there, and reading them would only delay the start.
func boots(kind string) bool {
	switch kind {
	case manifest.KindUKI, manifest.KindRoot, manifest.KindKernel, manifest.KindInitrd, manifest.KindCmdline, manifest.KindBIOS:
		return true
	}
	return false
}

// add opens a manifest's files.
func (a *artifacts) add(root *os.Root, m release.Image) error {
	uki, ok := m.Artifact(manifest.KindUKI)
	if !ok {
		return fmt.Errorf("the manifest of version %s names no UKI", m.Version)
	}
	a.uki[imageKey{m.Role, m.Arch}] = uki.Name
	if err := a.addManifest(root, m); err != nil {
		return err
	}
	if loader, ok := m.Artifact(manifest.KindBIOS); ok {
		a.bios[m.Role] = loader.Name
	}
	for _, entry := range m.Artifacts {
		if !boots(entry.Kind) {
			continue
		}
		if a.files[entry.Name] != nil {
			return fmt.Errorf("two manifests name %s", entry.Name)
		}
		file, err := root.Open(entry.Name)
		if err != nil {
			return fmt.Errorf("cannot open artifact: %w (bake the image again)", err)
		}
		a.files[entry.Name] = &artifact{Artifact: entry, file: file}
	}
	return nil
}

// addManifest opens a manifest itself: a node that installs itself checks by it what it fetches. It must still be what was
// read.
func (a *artifacts) addManifest(root *os.Root, m release.Image) error {
	file, err := root.Open(m.File)
	if err != nil {
		return fmt.Errorf("cannot open manifest: %w (bake the image again)", err)
	}
	a.files[m.File] = &artifact{Artifact: manifest.Artifact{Name: m.File, Size: int64(len(m.Data)), SHA256: fmt.Sprintf("%x", sha256.Sum256(m.Data))}, file: file}
	return nil
}

// addOwn opens a release's checksum file and its signatures, those that are there: a node whose image pins release keys asks for them
// before it installs itself.
func (a *artifacts) addOwn(ctx context.Context, root *os.Root, m *manifest.Manifest) error {
	own, err := release.ReadOwn(ctx, release.Folder(root), m.Version)
	if err != nil {
		return err
	}
	keys, err := checksums.ParseKeys(bootspec.ParseArgs(m.Cmdline)[bootspec.ArgReleaseKey])
	if err == nil && len(keys) > 0 {
		_, _, err = keys.Verify(m.Version, checksums.Signed(own))
	}
	if err != nil {
		a.refused = append(a.refused, fmt.Errorf("%s: %w", bootspec.ArtifactBase(m.Role, m.Version, m.Arch), err))
	}
	for name, data := range own.Files(m.Version) {
		if a.files[name] != nil { // another role's image is of the same release
			continue
		}
		file, err := root.Open(name)
		if err != nil {
			return fmt.Errorf("cannot open the release's signature: %w (sign it again: slipway sign)", err)
		}
		a.files[name] = &artifact{Artifact: manifest.Artifact{Name: name, Size: int64(len(data)), SHA256: fmt.Sprintf("%x", sha256.Sum256(data))}, file: file}
	}
	return nil
}

// verify compares all files with what their manifests say, several at the same time. It names every file that differs.
func (a *artifacts) verify(before *artifacts) error {
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	names := slices.Sorted(maps.Keys(a.files))
	faults := make([]error, len(names))
	for i, name := range names {
		group.Go(func() error {
			if f := a.files[name]; !f.compared(before) {
				faults[i] = f.verify()
			}
			return nil
		})
	}
	_ = group.Wait()
	return errors.Join(faults...)
}

// compared says whether a file was compared before, and is still the same.
func (f *artifact) compared(before *artifacts) bool {
	if before == nil || before.files[f.Name] == nil {
		return false
	}
	had := before.files[f.Name]
	info, err := f.file.Stat()
	was, err2 := had.file.Stat()
	if err != nil || err2 != nil || f.Artifact != had.Artifact || !os.SameFile(info, was) || !info.ModTime().Equal(had.changed) || info.Size() != f.Size {
		return false
	}
	f.changed = had.changed
	return true
}

func (f *artifact) verify() error {
	info, err := f.file.Stat()
	if err != nil {
		return fmt.Errorf("cannot verify %s: %w", f.Name, err)
	}
	f.changed = info.ModTime()
	if err := f.Verify(f.file); err != nil {
		return fmt.Errorf("%w (bake the image again)", err)
	}
	return nil
}

// shared is a served file as it was opened first: for reading at offsets, not to be closed. fs.ErrNotExist: no manifest names it.
func (a *artifacts) shared(name string) (*os.File, manifest.Artifact, error) {
	f, ok := a.files[name]
	if !ok {
		return nil, manifest.Artifact{}, fs.ErrNotExist
	}
	info, err := f.file.Stat()
	if err != nil {
		return nil, f.Artifact, fmt.Errorf("cannot open artifact: %w", err)
	}
	if info.Size() != f.Size || !info.ModTime().Equal(f.changed) {
		return nil, f.Artifact, fmt.Errorf("cannot open artifact: %s was written over since the server verified it (bake it again and restart the server)", name)
	}
	return f.file, f.Artifact, nil
}

// open opens a served file anew, at its beginning. fs.ErrNotExist: no manifest names it.
func (a *artifacts) open(name string) (*os.File, manifest.Artifact, error) {
	first, artifact, err := a.shared(name)
	if err != nil {
		return nil, artifact, err
	}
	// A file of its own (sendfile needs the offset) of the same inode, whatever has the name by now.
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", first.Fd()))
	if err != nil {
		return nil, artifact, fmt.Errorf("cannot open artifact %s: %w", name, err)
	}
	return file, artifact, nil
}

func (a *artifacts) close() {
	if a == nil {
		return
	}
	for _, f := range a.files {
		f.file.Close()
	}
}
