// Package flash writes disk images to devices and puts a node's configuration there. It is the only package of the
// builder that writes to devices.
//
// Words: a target is a device, or a file that is to become a copy of the image; pieces are an image's content in order,
// data or zeros; the frame of an image is its first and last MiB, where the partition tables are. What is held back (the
// frame, the configuration place) is kept in memory until everything else is written, verified, read back and right.
// So a write that ends early, for whatever reason, leaves nothing that boots, and the next one starts from the beginning.
//
// It makes no images (builder/bake), decides nothing about configurations (builder/nodeconfig), and asks nobody
// anything: the command line does that.
package flash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Order says what to write where.
type Order struct {
	Image  *Image
	Target *Target
	Config *bootspec.Config // nil: none, its place stays empty; Generation is ignored
	// Progress is told how far it is, often. It may be nil.
	Progress func(Progress)
}

// Phase is what a flash is at.
type Phase string

// Phases in their order.
const (
	PhaseWrite Phase = "writing"
	PhaseCheck Phase = "reading back"
)

// Progress is how far a phase is, in bytes of the image.
type Progress struct {
	Phase       Phase
	Done, Total int64
}

// Result is what was done, in bytes.
type Result struct {
	Written int64 `json:"written"` // data that went to the target
	Zeroed  int64 `json:"zeroed"`  // where the image holds nothing, and the target too now
}

// Write writes an image, verifies it on the way, reads it back from the target and compares. The partition tables come
// last. The target is left without a bootable image by every error but one that says otherwise.
func Write(ctx context.Context, o Order) (Result, error) {
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	result, err := write(ctx, o)
	if err != nil {
		return Result{}, fmt.Errorf("cannot flash %s to %s: %w", o.Image.Name, o.Target.Path, err)
	}
	return result, nil
}

func write(ctx context.Context, o Order) (Result, error) {
	if o.Target.Device && o.Target.Size < o.Image.Size {
		return Result{}, fmt.Errorf("it has %d bytes, and the image needs %d", o.Target.Size, o.Image.Size)
	}
	if f, ok := o.Image.shelf.(folder); ok && !o.Target.Device && sameFile(filepath.Join(string(f), o.Image.file), o.Target.Path) {
		return Result{}, errors.New("that is the image itself: nothing is written into images")
	}
	w, err := newWriter(o)
	if err != nil {
		return Result{}, err
	}
	defer w.close()
	for _, verb := range []func(context.Context) error{
		w.copyImage,   // all but what is held back; the digest is right after it
		w.placeConfig, //
		w.readBack,
		w.writeFrame,
		w.readBack, // the frame
		w.publish,
	} {
		if err := verb(ctx); err != nil {
			return Result{}, &unfinished{err, w.state()}
		}
	}
	return w.result, nil
}

func sameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// unfinished is an error with what it leaves behind.
type unfinished struct {
	cause error
	state string // empty: nothing
}

func (u *unfinished) Unwrap() error { return u.cause }
func (u *unfinished) Error() string {
	words := u.cause.Error()
	if errors.Is(u.cause, context.Canceled) {
		words = "interrupted"
	}
	if u.state == "" {
		return words
	}
	return words + "\n" + u.state
}
