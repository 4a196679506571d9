package archive

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/therootcompany/xz"
)

// Limits of index files in bytes.
const (
	maxRelease  = 8 << 20
	maxPackages = 64 << 20 // Packages.xz
	maxList     = 1 << 30  // Packages
)

// Release fetches a suite's signed index and verifies it: InRelease, or Release with Release.gpg where there is none.
// An index past its Valid-Until is refused unless the mirrors' settings allow it; that of a snapshot is judged at its moment.
func (s *Source) Release(ctx context.Context, suite Suite, now time.Time) (*Release, error) {
	read := s.firstRelease
	if s.snapshot() != "" {
		read = s.snapshotRelease
	}
	r, err := read(ctx, suite, now)
	if err != nil {
		return nil, fmt.Errorf("cannot read index of %s: %w", suite, err)
	}
	return r, nil
}

// firstRelease reads the index of the first of a suite's places that has one.
func (s *Source) firstRelease(ctx context.Context, suite Suite, now time.Time) (*Release, error) {
	bases := s.indexMirrors().of(suite.Archive)
	err := s.Mirrors.missing(suite.Archive)
	for _, base := range bases {
		var r *Release
		if r, err = s.releaseAt(ctx, base+"/dists/"+suite.Name, suite, now); err == nil {
			return r, nil
		}
		if !errors.Is(err, ErrGone) {
			break
		}
	}
	return nil, err
}

func (s *Source) releaseAt(ctx context.Context, dir string, suite Suite, now time.Time) (*Release, error) {
	url := dir + "/InRelease"
	data, text, signer, err := s.inRelease(ctx, url, suite.Keys, now)
	if errors.Is(err, ErrGone) {
		url = dir + "/Release"
		data, signer, err = s.detached(ctx, url, suite.Keys, now)
		text = data
	}
	if err != nil {
		return nil, err
	}
	r, err := readRelease(text, suite, clock{now, s.snapshot(), s.Mirrors.AllowExpired})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	sum := sha256.Sum256(data)
	r.SHA256, r.Signer = hex.EncodeToString(sum[:]), signer
	return r, nil
}

func (s *Source) inRelease(ctx context.Context, url string, keys Keys, now time.Time) (data, text []byte, signer string, err error) {
	data, err = s.Client.small(ctx, url, maxRelease)
	if err != nil {
		return nil, nil, "", err
	}
	text, signer, err = VerifyInline(data, keys, s.signedBy(now))
	if err != nil && s.snapshot() != "" { // a key may have expired since, or the mirror serves today's index: its date will tell
		text, signer, err = VerifyInline(data, keys, now)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", url, err)
	}
	return data, text, signer, err
}

func (s *Source) detached(ctx context.Context, url string, keys Keys, now time.Time) (data []byte, signer string, err error) {
	data, err = s.Client.small(ctx, url, maxRelease)
	if err != nil {
		return nil, "", err
	}
	signature, err := s.Client.small(ctx, url+".gpg", maxKey)
	if err != nil {
		return nil, "", err
	}
	signer, err = VerifyDetached(data, signature, keys, s.signedBy(now))
	if err != nil && s.snapshot() != "" {
		signer, err = VerifyDetached(data, signature, keys, now)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", url, err)
	}
	return data, signer, err
}

// signedBy is the moment at which keys must be good.
func (s *Source) signedBy(now time.Time) time.Time {
	if one := s.snapshot(); one != "" {
		return one.Time()
	}
	return now
}

// Packages fetches the package lists that a release names for its suite and reads them. Lists are kept in the cache.
func (s *Source) Packages(ctx context.Context, r *Release, progress Progress) ([]Package, error) {
	var lists []File
	for _, component := range r.Suite.Components {
		name := component + "/binary-" + r.Suite.Arch + "/Packages.xz"
		f, ok := r.files[name]
		if !ok {
			return nil, fmt.Errorf("cannot read packages of %s: the index names no %s", r.Suite, name)
		}
		lists = append(lists, f)
	}
	count := newCounter(lists, progress)
	var all []Package
	for _, f := range lists {
		if err := s.fetchOne(ctx, f, s.indexMirrors().indexURLs(f, r.byHash), count); err != nil {
			return nil, fmt.Errorf("cannot read packages of %s: %w", r.Suite, err)
		}
		err := s.readList(ctx, f, r.Suite.Archive, func(p Package) error {
			if p.Arch == r.Suite.Arch || p.Arch == "all" {
				all = append(all, p)
			}
			return ctx.Err()
		})
		if err != nil {
			return nil, fmt.Errorf("cannot read packages of %s: %s: %w", r.Suite, f.Path, err)
		}
	}
	return all, nil
}

func (s *Source) readList(_ context.Context, f File, archive string, add func(Package) error) error {
	file, err := s.Cache.Open(f.SHA256)
	if err != nil {
		return err
	}
	defer file.Close()
	if f.Size > maxPackages {
		return fmt.Errorf("%d bytes", f.Size)
	}
	plain, err := xz.NewReader(bufio.NewReaderSize(io.LimitReader(file, f.Size), 64<<10), xz.DefaultDictMax)
	if err != nil {
		return err
	}
	return readPackages(io.LimitReader(plain, maxList), archive, add)
}
