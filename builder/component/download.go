package component

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"time"
)

// downloadDeadline bounds one download.
const downloadDeadline = 15 * time.Minute

// downloadInputs are what a component of downloads depends on: its definition holds the digests.
func downloadInputs(spec Spec, arch string) inputs {
	return inputs{"recipe": recipe, "arch": arch, "file component.yaml": digest(spec.text)}
}

// downloadAll fetches every file of a component for an architecture into dir. Nothing but the digest is trusted.
func downloadAll(ctx context.Context, spec Spec, arch, dir string, report reporter) ([]File, error) {
	var files []File
	for i, d := range spec.Downloads {
		if d.Arch != arch {
			continue
		}
		report("downloading", d.URL, 0)
		name := fmt.Sprintf("%d-%s", i, path.Base(d.Output))
		binary := filepath.Join(dir, name)
		if err := d.fetch(ctx, binary); err != nil {
			return nil, fmt.Errorf("cannot download %s: %w", d.URL, err)
		}
		if err := checkProgram(binary, arch); err != nil {
			return nil, fmt.Errorf("cannot use %s: %w", d.URL, err)
		}
		file, err := finish(binary)
		if err != nil {
			return nil, fmt.Errorf("cannot keep %s: %w", d.URL, err)
		}
		file.Path, file.Source = d.Output, name
		linked, err := links(d.Output, d.Links)
		if err != nil {
			return nil, err
		}
		files = append(append(files, file), linked...)
	}
	if len(files) == 0 {
		return nil, errors.New("its definition has no download for this architecture")
	}
	return files, nil
}

// fetch writes the file and checks its size and digest while it comes.
func (d Download) fetch(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, downloadDeadline)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.URL, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return cause(ctx, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answers %s", response.Status)
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	defer file.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(file, sum), io.LimitReader(response.Body, d.Size+1))
	switch {
	case err != nil:
		return cause(ctx, err)
	case n != d.Size:
		return fmt.Errorf("its size is not %d bytes (%d came)", d.Size, n)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != d.SHA256 {
		return fmt.Errorf("its SHA-256 is %s, not %s: it was changed, or the definition is wrong", got, d.SHA256)
	}
	return file.Close()
}
