package archive

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"
)

// Snapshot is a moment at which archives are wanted as they were then: 20261101T000000Z, as services that keep an archive's
// past name it. The empty one is today.
//
// Such a service has an archive's state at URL/archive/NAME/SNAPSHOT/, with pool and dists as in the archive itself, and
// answers with the newest state that is not after it (snapshot.debian.org, "Usage").
type Snapshot string

const snapshotForm = "20060102T150405Z"

// ParseSnapshot reads a moment: year, month, day, T, hour, minute, second and Z.
func ParseSnapshot(s string) (Snapshot, error) {
	if _, err := time.Parse(snapshotForm, s); err != nil {
		return "", fmt.Errorf("%q is not a snapshot's date, such as 20261101T000000Z", s)
	}
	return Snapshot(s), nil
}

// UnmarshalText reads a snapshot in a document.
func (s *Snapshot) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSnapshot(string(text))
	return err
}

// Time is the moment; of the empty snapshot the zero time.
func (s Snapshot) Time() time.Time {
	t, _ := time.Parse(snapshotForm, string(s)) // it was parsed before
	return t
}

// At is the source with archives as they were: indexes are those of the first snapshot, files may be of any of them, or
// still be where the archives are today. Without any it is the source of today.
func (s *Source) At(snapshots ...Snapshot) *Source {
	changed := *s
	changed.snapshots = nil
	for _, one := range snapshots {
		if one != "" {
			changed.snapshots = append(changed.snapshots, one)
		}
	}
	return &changed
}

// snapshot is the moment of the indexes.
func (s *Source) snapshot() Snapshot {
	if len(s.snapshots) == 0 {
		return ""
	}
	return s.snapshots[0]
}

// urls is where a file may be.
func (s *Source) urls(f File) []string {
	var urls []string
	for _, one := range s.snapshots {
		urls = append(urls, s.Mirrors.at(one).urls(f)...)
	}
	return append(urls, s.Mirrors.urls(f)...)
}

// indexMirrors is where indexes are looked for.
func (s *Source) indexMirrors() Mirrors {
	if one := s.snapshot(); one != "" {
		return s.Mirrors.at(one)
	}
	return s.Mirrors
}

var datedFolder = regexp.MustCompile(`/[0-9]{8}T[0-9]{6}Z$`)

// at is the mirrors' archives at a moment. A mirror is told as for today, by where its archives are (URL/debian) or where a
// snapshot service has them (URL/archive/debian); so both places are looked at.
func (m Mirrors) at(s Snapshot) Mirrors {
	dated := Mirrors{Origin: m.Origin, AllowExpired: m.AllowExpired, bases: map[string][]string{}}
	for name := range m.bases {
		dated.bases[name] = datedBases(m.bases[name], s)
	}
	dated.beside = func(name string) []string { return datedBases(m.of(name), s) }
	return dated
}

func datedBases(bases []string, s Snapshot) []string {
	var all []string
	for _, base := range bases {
		base = datedFolder.ReplaceAllString(base, "")
		host := strings.Index(base, "://") + len("://")
		slash := strings.LastIndexByte(base, '/')
		if slash >= host && path.Base(base[:slash]) != "archive" {
			all = append(all, base[:slash]+"/archive"+base[slash:]+"/"+string(s))
		}
		all = append(all, base+"/"+string(s))
	}
	return all
}

// snapshotRelease is Release of a snapshot: what the index says of time is judged at its moment.
func (s *Source) snapshotRelease(ctx context.Context, suite Suite, now time.Time) (*Release, error) {
	if s.snapshot().Time().After(now) {
		return nil, fmt.Errorf("snapshot %s is in the future (now %s)", s.snapshot(), stamp(now))
	}
	r, err := s.firstRelease(ctx, suite, now)
	if errors.Is(err, ErrGone) {
		return nil, fmt.Errorf("the mirror of %s has no snapshot %s of it: %w; give one that keeps snapshots, at URL/archive/%s/%s/, with --mirror URL", s.Mirrors.Origin, s.snapshot(), err, suite.Archive, s.snapshot())
	}
	return r, err
}
