package publish

import (
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/images/version"
)

// Want is which release is meant: a version, else what a channel names.
type Want struct{ Version, Channel string }

// Stable is the channel that is meant where none is named.
const Stable = "stable"

// ParseWant reads VERSION or CHANNEL.
func ParseWant(word string) (Want, error) {
	if version.Check(word) == nil {
		return Want{Version: word}, nil
	}
	return Want{Channel: word}, CheckChannel(word)
}

// Find finds a release.
func (x *Index) Find(w Want) (Release, error) {
	if w.Version != "" {
		return x.Release(w.Version)
	}
	if w.Channel == "" {
		w.Channel = Stable
	}
	v, ok := x.Channels[w.Channel]
	if !ok {
		return Release{}, fmt.Errorf("channel %s: %w (%s)", w.Channel, ErrNone, x.words())
	}
	return x.Release(v)
}

// Same wants a release to be what is published as its version already.
func (r Release) Same(published Release) error {
	signed := func(r Release) string {
		if r.Signer == "" {
			return "unsigned"
		}
		return "signed by " + r.Signer
	}
	switch {
	case r.Digest != published.Digest:
		return fmt.Errorf("%w: version %s is published already, with other bytes (checksum file %.12s, not %.12s), and versions don't change: "+
			"give this one a version of its own (slipway bake --build)", ErrRefused, r.Version, published.Digest, r.Digest)
	case !slices.Equal(r.Files, published.Files): // the signature: all other files follow from the digest
		return fmt.Errorf("%w: version %s is published already, %s, not %s, and versions don't change", ErrRefused, r.Version, signed(published), signed(r))
	}
	return nil
}

// Add adds a release. Added is false when it is there already, with the same bytes; with others is an error.
func (x *Index) Add(r Release) (added bool, err error) {
	i, found := x.search(r.Version)
	if found {
		return false, r.Same(x.Releases[i])
	}
	x.Releases = slices.Insert(x.Releases, i, r)
	return true, nil
}

// Move makes a channel name a version that is there. A version that comes before the one it names is an error, unless it
// may go back. It tells what the channel named before, which may be nothing.
func (x *Index) Move(channel, v string, back bool) (before string, err error) {
	if err := CheckChannel(channel); err != nil {
		return "", err
	}
	if _, err := x.Release(v); err != nil {
		return "", err
	}
	before = x.Channels[channel]
	if err := Forward(channel, before, v, back); err != nil {
		return before, err
	}
	x.Channels[channel] = v
	return before, nil
}

// Forward wants a channel not to go back, unless it may.
func Forward(channel, before, v string, back bool) error {
	if before == "" || back || version.Precedence(v, before) >= 0 {
		return nil
	}
	return fmt.Errorf("%w: channel %s names %s, and %s comes before that (--back moves it back all the same)", ErrRefused, channel, before, v)
}

// Keep is what is kept when older releases go.
type Keep struct {
	Newest   int      // so many of the newest versions; 0: all
	Versions []string // these too, whether they are there or not
}

// Gone are the releases that go: all but the newest ones, those that a channel names, and those that are kept.
func (x *Index) Gone(k Keep) []Release {
	if k.Newest <= 0 {
		return nil
	}
	named := slices.Clone(k.Versions)
	for _, v := range x.Channels {
		named = append(named, v)
	}
	return slices.DeleteFunc(slices.Clone(x.Releases[:max(0, len(x.Releases)-k.Newest)]), func(r Release) bool { return slices.Contains(named, r.Version) })
}

// Prune takes those that go out of the index, and tells which they were.
func (x *Index) Prune(k Keep) []Release {
	gone := x.Gone(k)
	x.Releases = slices.DeleteFunc(x.Releases, func(r Release) bool {
		return slices.ContainsFunc(gone, func(g Release) bool { return g.Version == r.Version })
	})
	return gone
}

// Moved is a channel that names another version now.
type Moved struct {
	Channel string `json:"channel"`
	Before  string `json:"before,omitempty"`
	Version string `json:"version"`
}

// String is it in words.
func (m Moved) String() string {
	switch m.Before {
	case m.Version:
		return fmt.Sprintf("channel %s names %s already", m.Channel, m.Version)
	case "":
		return fmt.Sprintf("channel %s names %s now", m.Channel, m.Version)
	}
	return fmt.Sprintf("channel %s names %s now, before %s", m.Channel, m.Version, m.Before)
}

// Versions are those of releases, in a line.
func Versions(list []Release) string {
	var words []string
	for _, r := range list {
		words = append(words, r.Version)
	}
	return strings.Join(words, ", ")
}
