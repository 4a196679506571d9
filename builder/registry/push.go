package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/slipway-os/slipway/builder/publish"
	"github.com/slipway-os/slipway/builder/release"
)

const (
	attempts = 6
	stall    = 2 * time.Minute // a registry that takes nothing for so long is asked again
)

// Apply does what an order says. Tags come last, the version's before those of channels: a reader sees all of a release or
// nothing of it. What was pushed before something failed is not pushed again.
func (r *Repository) Apply(ctx context.Context, o publish.Order) (publish.Result, error) {
	result, err := r.apply(ctx, o)
	if err != nil {
		return publish.Result{}, fmt.Errorf("cannot publish in %s: %w", r, err)
	}
	return result, nil
}

func (r *Repository) apply(ctx context.Context, o publish.Order) (publish.Result, error) {
	described, err := o.Describe()
	if err != nil {
		return publish.Result{}, err
	}
	var l layout
	if described != nil {
		l = arrange(o.Release, *described)
		described.OCI = l.index.Digest.String()
	}
	var before sealed
	if err := r.retry(ctx, func(ctx context.Context) (err error) {
		if before, err = r.before(ctx, o, described); publish.Unreachable(err) {
			err = publish.Final{Err: err}
		}
		return err
	}); err != nil {
		return publish.Result{}, err
	}
	result, err := o.Decide(before.index, described)
	result.Place = r.String()
	if err != nil || o.Dry {
		return result, err
	}
	var index document
	switch {
	case result.Published:
		index, err = l.index, r.publish(ctx, o, *described, l)
	case len(o.Channels) > 0:
		index, err = r.named(ctx, before.index, result.Version)
	}
	if err != nil {
		return publish.Result{}, err
	}
	for _, m := range result.Channels {
		if m.Before == m.Version {
			continue
		}
		if err := r.pushManifest(ctx, index, m.Channel); err != nil {
			return publish.Result{}, fmt.Errorf("cannot move channel %s: %w", m.Channel, err)
		}
	}
	if o.Sealing != nil {
		if err := r.seal(ctx, o.Sealing, before); err != nil {
			return publish.Result{}, err
		}
		result.Index = before.index.Seal.Counter
	}
	return result, r.delete(ctx, result.Pruned)
}

// state is as much of what is published as an order touches.
func (r *Repository) state(ctx context.Context, o publish.Order, described *publish.Release) (*publish.Index, error) {
	x := publish.NewIndex()
	if o.Keep.Newest > 0 {
		var err error
		if x, err = r.list(ctx, func(x *publish.Index, v string) error {
			_, err := x.Add(publish.Release{Version: v})
			return err
		}); err != nil {
			return nil, err
		}
	}
	v := o.Version
	if described != nil {
		v = described.Version
		x.Releases = slices.DeleteFunc(x.Releases, func(r publish.Release) bool { return r.Version == v }) // it is read whole, below
	}
	for _, channel := range o.Channels {
		_, _, before, err := r.index(ctx, channel)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("channel %s: %w", channel, err)
		}
		x.Channels[channel] = before
		if before != v {
			_, _ = x.Add(publish.Release{Version: before})
		}
	}
	if v == "" {
		return x, nil
	}
	published, err := r.load(ctx, tag(v))
	if err == nil {
		_, err = x.Add(published)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return x, nil
}

// publish pushes a release: files, artifacts, the index under its digest, and then the version's tag.
func (r *Repository) publish(ctx context.Context, o publish.Order, described publish.Release, l layout) error {
	p := &pusher{Repository: r, order: o, own: o.Release.Own.Files(described.Version)}
	for _, f := range described.Files {
		p.all += f.Size
	}
	if err := p.blob(ctx, ocispec.DescriptorEmptyJSON, func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(ocispec.DescriptorEmptyJSON.Data)), nil
	}); err != nil {
		return err
	}
	for _, f := range described.Files {
		if err := p.file(ctx, f); err != nil {
			return fmt.Errorf("cannot push %s: %w", f.Name, err)
		}
	}
	for _, child := range l.children {
		if err := r.pushManifest(ctx, child, child.Digest.String()); err != nil {
			return fmt.Errorf("cannot push a manifest: %w", err)
		}
	}
	if err := r.pushManifest(ctx, l.index, l.index.Digest.String()); err != nil {
		return fmt.Errorf("cannot push the index: %w", err)
	}
	if o.Sealing != nil && o.Sealing.By.Sigstore != nil {
		if err := r.attest(ctx, o, l); err != nil {
			return err
		}
	}
	return r.tagVersion(ctx, described, l.index)
}

// tagVersion makes a release visible, unless somebody else has published the version meanwhile.
func (r *Repository) tagVersion(ctx context.Context, described publish.Release, index document) error {
	name := tag(described.Version)
	err := r.retry(ctx, func(ctx context.Context) error {
		published, err := r.load(ctx, name)
		if err != nil {
			return err
		}
		if err := described.Same(published); err != nil {
			return publish.Final{Err: err}
		}
		return nil
	})
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := r.pushManifest(ctx, index, name); err != nil {
		return fmt.Errorf("cannot push tag %s: %w", name, err)
	}
	if err := wait(ctx, r.Settle); err != nil {
		return err
	}
	var d ocispec.Descriptor
	if err := r.retry(ctx, func(ctx context.Context) (err error) {
		d, err = r.remote.Resolve(ctx, name)
		return err
	}); err != nil {
		return fmt.Errorf("cannot read tag %s back: %w", name, err)
	}
	if d.Digest != index.Digest {
		return fmt.Errorf("%w: somebody else published version %s at the same moment, with other bytes", publish.ErrRefused, described.Version)
	}
	return nil
}

// retry does something until it succeeds, or fails for good: what is not there is not there, too.
func (r *Repository) retry(ctx context.Context, do func(context.Context) error) error {
	for failed := 0; ; failed++ {
		err := r.explain(do(ctx))
		var final publish.Final
		if err == nil || ctx.Err() != nil || errors.As(err, &final) || errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, ctx.Err())
		}
		if failed+1 == attempts {
			return fmt.Errorf("given up after %d attempts: %w", attempts, err)
		}
		if err := wait(ctx, r.Pause<<failed); err != nil {
			return err
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (r *Repository) pushManifest(ctx context.Context, d document, reference string) error {
	return r.retry(ctx, func(ctx context.Context) error {
		return r.remote.PushReference(ctx, d.Descriptor, bytes.NewReader(d.data), reference)
	})
}

// pusher is one release on its way.
type pusher struct {
	*Repository
	order     publish.Order
	own       map[string][]byte
	done, all int64 // bytes
}

func (p *pusher) file(ctx context.Context, f release.File) error {
	d := ocispec.Descriptor{MediaType: TypeFile, Digest: digest.NewDigestFromEncoded(digest.SHA256, f.SHA256), Size: f.Size}
	data, own := p.own[f.Name]
	err := p.blob(ctx, d, func() (io.ReadCloser, error) {
		if own {
			return io.NopCloser(bytes.NewReader(data)), nil
		}
		return p.order.From.Open(f.Name)
	})
	p.done += f.Size
	p.show(0)
	return err
}

func (p *pusher) show(more int64) {
	if p.order.Progress != nil {
		p.order.Progress(p.done+more, p.all)
	}
}

// blob pushes content, unless the registry has it. The registry compares it with its digest, and so do we, to tell damage
// from a fault on the way.
func (p *pusher) blob(ctx context.Context, d ocispec.Descriptor, open func() (io.ReadCloser, error)) error {
	return p.retry(ctx, func(ctx context.Context) error {
		if there, err := p.remote.Blobs().Exists(ctx, d); err != nil || there {
			return err
		}
		in, err := open()
		if err != nil {
			return publish.Final{Err: err}
		}
		defer in.Close()
		inner, stop := context.WithCancel(ctx)
		defer stop()
		watch := time.AfterFunc(stall, stop)
		defer watch.Stop()
		sent := &sending{in: io.LimitReader(in, d.Size), verifier: d.Digest.Verifier()}
		sent.on = func() { watch.Reset(stall); p.show(sent.n) }
		err = p.remote.Blobs().Push(inner, d, sent)
		if err != nil && sent.n == d.Size && !sent.verifier.Verified() {
			return publish.Final{Err: errors.New("it is not what its manifest says: it was changed; bake the image again and sign the release")}
		}
		if err = p.explain(err); errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("the upload is gone: %s", err.Error()) // and begins anew
		}
		return err
	})
}

// sending is content while it is sent.
type sending struct {
	in       io.Reader
	n        int64
	verifier interface {
		io.Writer
		Verified() bool
	}
	on func()
}

func (s *sending) Read(b []byte) (int, error) {
	n, err := s.in.Read(b)
	_, _ = s.verifier.Write(b[:n]) // a hash
	s.n += int64(n)
	s.on()
	return n, err
}

// delete deletes versions: their indexes, so that they are gone for readers, and then what these named. The registry
// frees the bytes when it collects its garbage.
func (r *Repository) delete(ctx context.Context, versions []string) error {
	for _, v := range versions {
		if err := r.deleteVersion(ctx, v); err != nil {
			return fmt.Errorf("cannot delete version %s: %w", v, err)
		}
	}
	return nil
}

func (r *Repository) deleteVersion(ctx context.Context, v string) error {
	var d document
	var x ocispec.Index
	err := r.retry(ctx, func(ctx context.Context) (err error) {
		d, x, _, err = r.index(ctx, tag(v))
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	gone := append([]ocispec.Descriptor{d.Descriptor}, x.Manifests...)
	for _, m := range slices.Clone(gone) {
		attached, err := r.referrers(ctx, m)
		if err != nil {
			return err
		}
		gone = append(gone, attached...)
	}
	for _, m := range gone {
		err := r.retry(ctx, func(ctx context.Context) error { return r.remote.Manifests().Delete(ctx, m) })
		var answer *errcode.ErrorResponse
		if errors.As(err, &answer) && answer.StatusCode == http.StatusMethodNotAllowed {
			return errors.New("the registry deletes nothing: allow it there, or leave --keep out and let the registry do it")
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
