package container

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/slipway-os/slipway/builder/registry"
)

// open opens an origin, and tells what it names.
func open(ctx context.Context, o Origin) (content.ReadOnlyStorage, []ocispec.Descriptor, error) {
	if o.Archive != "" {
		return openArchive(ctx, o.Archive)
	}
	from, reference, err := registry.Remote(o.Source)
	if err != nil {
		return nil, nil, permanent{err}
	}
	d, err := from.Resolve(ctx, reference)
	if err != nil {
		return nil, nil, explain(err, from.Reference.Registry)
	}
	return from, []ocispec.Descriptor{d}, nil
}

// explain makes an answer that stays the same final, and says what to do.
func explain(err error, host string) error {
	var answer *errcode.ErrorResponse
	switch {
	case errors.Is(err, errdef.ErrNotFound):
		return permanent{fmt.Errorf("%w: %w", ErrGone, err)}
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return permanent{fmt.Errorf("%w (log in: docker login %s)", err, host)}
	case !errors.As(err, &answer):
		return err
	case answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden:
		return permanent{fmt.Errorf("%w (log in: docker login %s)", err, host)}
	case answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusRequestTimeout || answer.StatusCode >= 500:
		return err
	}
	return permanent{err}
}

// openArchive opens a tar of an image layout. Anything that is wrong in it stays so.
func openArchive(ctx context.Context, file string) (content.ReadOnlyStorage, []ocispec.Descriptor, error) {
	roots, err := readIndex(file)
	if err != nil {
		return nil, nil, permanent{err}
	}
	from, err := oci.NewFromTar(ctx, file)
	if err != nil {
		return nil, nil, permanent{fmt.Errorf("it is not an OCI archive: %w", err)}
	}
	return from, roots, nil
}

// readIndex finds index.json in the tar.
func readIndex(file string) ([]ocispec.Descriptor, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for t := tar.NewReader(f); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("it is not an OCI archive: it has no index.json (skopeo copy docker-archive:FILE oci-archive:OTHER makes one of what an older docker save wrote)")
		}
		if err != nil {
			return nil, fmt.Errorf("it is not an OCI archive, a tar without compression: %w", err)
		}
		if strings.TrimPrefix(path.Clean(h.Name), "/") != ocispec.ImageIndexFile {
			continue
		}
		data, err := limited(t, maxManifest)
		if err != nil {
			return nil, err
		}
		var index ocispec.Index
		if err := json.Unmarshal(data, &index); err != nil {
			return nil, fmt.Errorf("its index.json: %w", err)
		}
		return index.Manifests, nil
	}
}
