package manifest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrWrong is what errors about an artifact that is not what its manifest says wrap.
var ErrWrong = errors.New("it is not what its manifest says")

// Verify reads an artifact to its end and compares it with its entry.
func (a Artifact) Verify(r io.Reader) error {
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(r, a.Size+1))
	if err != nil {
		return fmt.Errorf("cannot verify %s: %w", a.Name, err)
	}
	return a.compare(n, h.Sum(nil))
}

func (a Artifact) compare(size int64, sum []byte) error {
	if size > a.Size {
		return fmt.Errorf("%s: %w: more than %d bytes", a.Name, ErrWrong, a.Size)
	}
	if size < a.Size {
		return fmt.Errorf("%s: %w: %d bytes, not %d", a.Name, ErrWrong, size, a.Size)
	}
	if got := fmt.Sprintf("%x", sum); got != a.SHA256 {
		return fmt.Errorf("%s: %w: SHA-256 %s, not %s", a.Name, ErrWrong, got, a.SHA256)
	}
	return nil
}

// VerifyFolder verifies every artifact of the manifest in a folder. All faults are reported.
func (m *Manifest) VerifyFolder(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot verify artifacts: %w", err)
	}
	defer root.Close()
	var faults []error
	for _, a := range m.Artifacts {
		f, err := root.Open(a.Name)
		if err != nil {
			faults = append(faults, fmt.Errorf("cannot verify %s: %w", a.Name, err))
			continue
		}
		faults = append(faults, a.Verify(f))
		f.Close()
	}
	return errors.Join(faults...)
}
