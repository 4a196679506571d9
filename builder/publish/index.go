// Package publish knows where releases are published: which versions there are, which of them a channel names, and what
// may be changed about that. Versions are immutable, channels move forward, and what a channel names stays.
//
// A place is a folder, which any HTTP server may serve (Folder, Site), or a repository of a registry (builder/registry).
// What may be done to it is decided here, by an Index; a release itself is builder/release's, and fetching one builder/pull's.
package publish

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/release"
	"github.com/slipway-os/slipway/images/version"
)

// APIVersion and Kind are those of an index document.
const (
	APIVersion = "slipway.dev/v1alpha1"
	Kind       = "ReleaseIndex"
)

// MaxIndex bounds an index in bytes.
const MaxIndex = 32 << 20

// ErrRefused is what errors wrap about changes that the place's rules don't allow.
var ErrRefused = errors.New("the published releases don't allow it")

// ErrNone is what errors wrap about a version or a channel that isn't there.
var ErrNone = errors.New("it is not published")

// Index is what a place has.
type Index struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Channels   map[string]string `json:"channels"` // version, by name
	Releases   []Release         `json:"releases"` // in the order of version.Compare
	Seal       *Seal             `json:"seal,omitempty"`
}

// Release is one published version.
type Release struct {
	Version string         `json:"version"`
	Digest  string         `json:"digest"`             // SHA-256 of its checksum file
	Signer  string         `json:"signer,omitempty"`   // id of the key that its signature names
	OCI     string         `json:"manifest,omitempty"` // digest of its index in a registry
	Images  []Image        `json:"images"`
	Files   []release.File `json:"files"` // of all images, and the release's own
}

// Image is one image of a release.
type Image struct {
	Role string `json:"role"`
	Arch string `json:"arch"`
}

// NewIndex is the index of a place where nothing is.
func NewIndex() *Index {
	return &Index{APIVersion: APIVersion, Kind: Kind, Channels: map[string]string{}, Releases: []Release{}}
}

// Describe is what an index says about a release.
func Describe(r *release.Release, files []release.File) Release {
	described := Release{Version: r.Version, Digest: r.Digest(), Signer: r.Signer, Files: files}
	for _, i := range r.Images {
		described.Images = append(described.Images, Image{i.Role, i.Arch})
	}
	return described
}

// Encode is the index's canonical form.
func (x *Index) Encode() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(x); err != nil {
		panic("publish: " + err.Error()) // plain structs always encode
	}
	return b.Bytes()
}

// DecodeIndex reads an index strictly.
func DecodeIndex(data []byte) (*Index, error) {
	if len(data) > MaxIndex {
		return nil, fmt.Errorf("%d bytes are over the limit of %d", len(data), MaxIndex)
	}
	x := NewIndex()
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(x); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something comes after it")
	}
	if x.APIVersion != APIVersion || x.Kind != Kind {
		return nil, fmt.Errorf("apiVersion %q and kind %q are not %q and %q", x.APIVersion, x.Kind, APIVersion, Kind)
	}
	if x.Channels == nil { // null
		x.Channels = map[string]string{}
	}
	return x, x.check()
}

func (x *Index) check() error {
	if err := x.Seal.check(); err != nil {
		return err
	}
	for i, r := range x.Releases {
		if err := r.check(); err != nil {
			return err
		}
		if i > 0 && version.Compare(x.Releases[i-1].Version, r.Version) >= 0 {
			return fmt.Errorf("version %s comes after %s", r.Version, x.Releases[i-1].Version)
		}
	}
	for name, v := range x.Channels {
		if err := CheckChannel(name); err != nil {
			return err
		}
		if _, err := x.Release(v); err != nil {
			return fmt.Errorf("channel %s: %w", name, err)
		}
	}
	return nil
}

func (r Release) check() error {
	if err := version.Check(r.Version); err != nil {
		return err
	}
	if !isDigest(r.Digest) {
		return fmt.Errorf("version %s: %q is no SHA-256", r.Version, r.Digest)
	}
	seen := map[string]bool{}
	for _, f := range r.Files {
		if !release.IsFileName(f.Name) || f.Size < 0 || !isDigest(f.SHA256) || seen[f.Name] {
			return fmt.Errorf("version %s: file %q, size %d, sha256 %q", r.Version, f.Name, f.Size, f.SHA256)
		}
		seen[f.Name] = true
	}
	return nil
}

func isDigest(s string) bool { return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" }

var channelName = regexp.MustCompile(`^[a-z][a-z0-9._-]{0,62}$`)

// CheckChannel says what is wrong with a channel's name.
func CheckChannel(name string) error {
	if !channelName.MatchString(name) {
		return fmt.Errorf("%q is no name of a channel: up to 63 of a-z, 0-9, dots, hyphens and underscores, a letter first", name)
	}
	return nil
}

// Release finds a version.
func (x *Index) Release(v string) (Release, error) {
	if i, ok := x.search(v); ok {
		return x.Releases[i], nil
	}
	return Release{}, fmt.Errorf("version %s: %w (%s)", v, ErrNone, x.words())
}

func (x *Index) search(v string) (int, bool) {
	if version.Check(v) != nil {
		return 0, false
	}
	return slices.BinarySearchFunc(x.Releases, v, func(r Release, v string) int { return version.Compare(r.Version, v) })
}

// words tell what there is: the newest versions and all channels.
func (x *Index) words() string {
	if len(x.Releases) == 0 {
		return "nothing is published there yet"
	}
	var list []string
	for i := len(x.Releases) - 1; i >= max(0, len(x.Releases)-5); i-- {
		list = append(list, x.Releases[i].Version)
	}
	words := "there are versions " + strings.Join(list, ", ")
	if len(x.Releases) > len(list) {
		words += fmt.Sprintf(" and %d older ones", len(x.Releases)-len(list))
	}
	for i, name := range x.ChannelNames() {
		words += map[bool]string{true: "; channels ", false: ", "}[i == 0] + name + " (" + x.Channels[name] + ")"
	}
	return words
}

// ChannelNames are the channels in the order of their names.
func (x *Index) ChannelNames() []string {
	var names []string
	for name := range x.Channels {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
