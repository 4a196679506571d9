package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/slipway-os/slipway/builder/publish"
	"github.com/slipway-os/slipway/builder/release"
	"github.com/slipway-os/slipway/images/version"
)

// Scheme is what a repository's address begins with.
const Scheme = "oci://"

// Repository is a place of releases in a registry.
type Repository struct {
	remote *remote.Repository
	// Pause is how long to wait before something that failed is tried again the first time; then twice as long each time.
	Pause time.Duration
	// Settle is how long to wait before a new version's tag is read back: registries have no way to create a tag only
	// where there is none, so that two who publish at once find out afterwards.
	Settle time.Duration
	// Guard is what readers want of the signed index; nil: nothing, and tags are believed.
	Guard *publish.Guard
}

// Options say how a registry is reached.
type Options struct {
	PlainHTTP bool // HTTP, not HTTPS; localhost is always spoken to so
}

// Open opens a repository: oci://REGISTRY/REPOSITORY. The credentials are those of docker's configuration, if there are any.
func Open(address string, o Options) (*Repository, error) {
	reference, err := registry.ParseReference(strings.TrimPrefix(address, Scheme))
	if err != nil || reference.Reference != "" {
		return nil, fmt.Errorf("%q is no repository of a registry: write it like %sregistry.example.com/team/images", address, Scheme)
	}
	repository, err := connect(reference)
	if err != nil {
		return nil, err
	}
	repository.PlainHTTP = repository.PlainHTTP || o.PlainHTTP
	return &Repository{remote: repository, Pause: time.Second, Settle: 2 * time.Second}, nil
}

// Remote is the repository of an image as pods name it, registry.example.com/team/exporter@sha256:..., and the tag or
// digest behind it.
func Remote(image string) (*remote.Repository, string, error) {
	reference, err := registry.ParseReference(image)
	if err != nil {
		return nil, "", err
	}
	repository, err := connect(reference)
	return repository, reference.Reference, err
}

// connect makes a client with docker's credentials; localhost is spoken to without TLS.
func connect(reference registry.Reference) (*remote.Repository, error) {
	repository, err := remote.NewRepository(reference.Registry + "/" + reference.Repository)
	if err != nil {
		return nil, err
	}
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot read docker's configuration: %w", err)
	}
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.ResponseHeaderTimeout = 2 * time.Minute
	repository.Client = &auth.Client{Client: &http.Client{Transport: base}, Cache: auth.NewCache(), Credential: credentials.Credential(store)}
	repository.PlainHTTP = local(reference.Host())
	repository.TagListMaxPages = 1000
	return repository, nil
}

func local(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// String is the repository's address.
func (r *Repository) String() string {
	return Scheme + r.remote.Reference.Registry + "/" + r.remote.Reference.Repository
}

// explain makes an error that trying again doesn't help against final, and says what to do.
func (r *Repository) explain(err error) error {
	var answer *errcode.ErrorResponse
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errdef.ErrNotFound):
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return publish.Final{Err: fmt.Errorf("%w (log in: docker login %s)", err, r.remote.Reference.Registry)}
	case !errors.As(err, &answer):
		return err
	case answer.StatusCode == http.StatusNotFound: // tags of a repository where nothing is yet
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	case answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden:
		return publish.Final{Err: fmt.Errorf("%w (log in: docker login %s)", err, r.remote.Reference.Registry)}
	case answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusRequestTimeout || answer.StatusCode >= 500:
		return err
	}
	return publish.Final{Err: err}
}

// index fetches the index that a tag names. fs.ErrNotExist: there is no such tag.
func (r *Repository) index(ctx context.Context, tag string) (document, ocispec.Index, string, error) {
	d, body, err := r.remote.FetchReference(ctx, tag)
	if err != nil {
		return document{}, ocispec.Index{}, "", r.explain(err)
	}
	defer body.Close()
	data, err := readAll(body, d)
	if err != nil {
		return document{}, ocispec.Index{}, "", err
	}
	x, v, err := decodeIndex(data)
	if err != nil {
		return document{}, x, "", publish.Final{Err: fmt.Errorf("tag %s: %w", tag, err)}
	}
	return document{ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, ArtifactType: TypeRelease, Digest: d.Digest, Size: d.Size}, data}, x, v, nil
}

// readAll reads a manifest and compares it with its digest.
func readAll(body io.Reader, d ocispec.Descriptor) ([]byte, error) {
	if d.Size > maxManifest {
		return nil, publish.Final{Err: fmt.Errorf("the manifest %s is over the limit of %d bytes", d.Digest, maxManifest)}
	}
	return content.ReadAll(body, d)
}

// load reads what a tag names: a release with all its files.
func (r *Repository) load(ctx context.Context, tag string) (publish.Release, error) {
	d, x, v, err := r.index(ctx, tag)
	if err != nil {
		return publish.Release{}, err
	}
	found := publish.Release{Version: v, Signer: x.Annotations[signerKey], OCI: d.Digest.String()}
	for _, child := range x.Manifests {
		data, err := r.child(ctx, child)
		if err != nil {
			return found, err
		}
		if err := addFiles(&found, child, data); err != nil {
			return found, publish.Final{Err: fmt.Errorf("manifest %s: %w", child.Digest, err)}
		}
	}
	slices.SortFunc(found.Files, func(a, b release.File) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

func (r *Repository) child(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	body, err := r.remote.Manifests().Fetch(ctx, d)
	if err != nil {
		return nil, r.explain(err)
	}
	defer body.Close()
	return readAll(body, d)
}

// Find finds a release that is wanted.
func (r *Repository) Find(ctx context.Context, w publish.Want) (publish.Release, error) {
	if r.Guard.Wanted() {
		return r.findSigned(ctx, w)
	}
	return r.findTag(ctx, w)
}

// findTag finds what a tag names.
func (r *Repository) findTag(ctx context.Context, w publish.Want) (publish.Release, error) {
	name, what := tag(w.Version), "version "+w.Version
	if w.Version == "" {
		if name = w.Channel; name == "" {
			name = publish.Stable
		}
		what = "channel " + name
	}
	found, err := r.load(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		tags, _ := r.tags(ctx) // only to help
		return found, fmt.Errorf("%s: %w (%s)", what, publish.ErrNone, tagWords(tags))
	}
	return found, err
}

func tagWords(tags []string) string {
	tags = slices.DeleteFunc(slices.Clone(tags), func(t string) bool { return t == indexTag || strings.HasPrefix(t, "sha256-") }) // lists of referrers
	switch {
	case len(tags) == 0:
		return "nothing is published there yet"
	case len(tags) > 12:
		return fmt.Sprintf("there are tags %s and %d more", strings.Join(tags[:12], ", "), len(tags)-12)
	}
	return "there are tags " + strings.Join(tags, ", ")
}

// Open opens a file of a release, which its digest names, at an offset.
func (r *Repository) Open(ctx context.Context, _ publish.Release, f release.File, offset int64) (io.ReadCloser, error) {
	body, err := r.remote.Blobs().Fetch(ctx, ocispec.Descriptor{Digest: digest.NewDigestFromEncoded(digest.SHA256, f.SHA256), Size: f.Size})
	if err != nil {
		return nil, r.explain(err)
	}
	if seeker, ok := body.(io.Seeker); ok && offset > 0 {
		_, err = seeker.Seek(offset, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, body, offset)
	}
	if err != nil {
		body.Close()
		return nil, err
	}
	return body, nil
}

// tags are all tags, in their order; of a repository that isn't there, none.
func (r *Repository) tags(ctx context.Context) ([]string, error) {
	var list []string
	err := r.remote.Tags(ctx, "", func(tags []string) error {
		list = append(list, tags...)
		return nil
	})
	if err = r.explain(err); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	slices.Sort(list)
	return list, err
}

// Index reads what is published: the signed index where there is one, else every version and every channel that have tags. Tags of
// others are left out.
func (r *Repository) Index(ctx context.Context) (*publish.Index, error) {
	var x *publish.Index
	err := r.retry(ctx, func(ctx context.Context) (err error) {
		defer func() {
			if publish.Unreachable(err) {
				err = publish.Final{Err: err}
			}
		}()
		if signed, err := r.signed(ctx); err == nil {
			x = signed.index
			return nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		x, err = r.all(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", r, err)
	}
	return x, nil
}

// list reads all versions, with add, and all channels.
func (r *Repository) list(ctx context.Context, add func(x *publish.Index, v string) error) (*publish.Index, error) {
	tags, err := r.tags(ctx)
	if err != nil {
		return nil, err
	}
	x := publish.NewIndex()
	for _, t := range tags {
		if v, ok := untag(t); ok {
			if err := add(x, v); err != nil {
				return nil, err
			}
			continue
		}
		if publish.CheckChannel(t) != nil {
			continue
		}
		var foreign publish.Final
		switch _, _, v, err := r.index(ctx, t); {
		case errors.As(err, &foreign):
		case err != nil:
			return nil, err
		default:
			x.Channels[t] = v
		}
	}
	for _, v := range x.Channels { // a channel may name what has no tag of its own any more
		if _, err := x.Release(v); err != nil && version.Check(v) == nil {
			_, _ = x.Add(publish.Release{Version: v})
		}
	}
	return x, nil
}
