package plan

import (
	"archive/tar"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-os/slipway/builder/archive"
	"github.com/slipway-os/slipway/builder/deb"
	"github.com/slipway-os/slipway/profiles/role"
)

// benchSource is the real mirror with a cache that keeps files between runs, and the committed lock's packages in it.
func benchSource(b *testing.B) (*Definition, *Lock, Options) {
	b.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		b.Skip(err)
	}
	choice := archive.Choice{Environment: os.Getenv("SLIPWAY_MIRROR"), Apt: os.DirFS("/etc/apt")}
	def, source, err := Open("../../images", DefinitionName, filepath.Join(cache, "slipway"), choice)
	if err != nil {
		b.Skip(err)
	}
	lock, err := ReadLock("../../images/lock.json")
	if err != nil {
		b.Fatal(err)
	}
	o := Options{Images: "../../images", Arches: []string{"amd64"}, Source: source, Now: time.Now()}
	for name, packages := range lock.Architectures["amd64"].Asked.Roles {
		o.Roles = append(o.Roles, &role.Role{Name: name, Packages: packages})
	}
	if lock, err = FetchOrResolve(context.Background(), def, lock, o, func(why string) { b.Log(why) }); err != nil {
		b.Skip(err)
	}
	return def, lock, o
}

// BenchmarkLock resolves from the mirror's indexes: signatures, lists, closures. "cold" also downloads the lists.
func BenchmarkLock(b *testing.B) {
	def, _, o := benchSource(b)
	for _, name := range []string{"cold", "warm"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if name == "cold" {
					o.Source.Cache = archive.NewCache(b.TempDir())
				}
				if _, err := Resolve(context.Background(), def, o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkFetch gets all packages of the lock: "cold" from the mirror, "warm" verifies the cached ones.
func BenchmarkFetch(b *testing.B) {
	_, lock, o := benchSource(b)
	for _, name := range []string{"warm", "cold"} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(total(lock))
			for b.Loop() {
				if name == "cold" {
					o.Source.Cache = archive.NewCache(b.TempDir())
				}
				if err := fetchLock(context.Background(), lock, o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func total(lock *Lock) (n int64) {
	for _, p := range lock.Architectures["amd64"].Packages {
		n += p.Size
	}
	return n
}

// BenchmarkUnpack unpacks every package of the lock into memory, as many at once as there are processors, and, beside
// it, with dpkg-deb -x into a folder.
func BenchmarkUnpack(b *testing.B) {
	_, lock, o := benchSource(b)
	packages := slices.Clone(lock.Architectures["amd64"].Packages)
	slices.SortFunc(packages, func(a, b Package) int { return int(b.Size - a.Size) }) // the kernel takes longest
	each := func(b *testing.B, do func(name string) error) {
		b.SetBytes(total(lock))
		for b.Loop() {
			var group errgroup.Group
			group.SetLimit(runtime.GOMAXPROCS(0))
			for _, p := range packages {
				group.Go(func() error { return do(o.Source.Cache.Path(p.SHA256)) })
			}
			if err := group.Wait(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("ours", func(b *testing.B) { each(b, unpack) })
	b.Run("dpkg-deb", func(b *testing.B) {
		dpkg, err := exec.LookPath("dpkg-deb")
		if err != nil {
			b.Skip(err)
		}
		dir := b.TempDir()
		each(b, func(name string) error {
			return exec.Command(dpkg, "-x", name, filepath.Join(dir, filepath.Base(name))).Run()
		})
	})
}

func unpack(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return deb.Unpack(f, info.Size(), func(_ *tar.Header, r io.Reader) error {
		_, err := io.ReadAll(r)
		return err
	})
}
