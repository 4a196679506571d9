package bake

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/slipway-os/slipway/builder/layer"
	"github.com/slipway-os/slipway/builder/rootfs"
)

func hostZstd(t *testing.T) toolbox {
	t.Helper()
	tool, err := exec.LookPath("zstd")
	if err != nil {
		t.Skip("zstd is not installed")
	}
	return toolbox{zstd: func(ctx context.Context, args ...string) *exec.Cmd { return exec.CommandContext(ctx, tool, args...) }}
}

// TestZstd: what the program makes unpacks to what went in, is the same twice, and has a window that kernels take.
func TestZstd(t *testing.T) {
	t.Setenv("ZSTD_CLEVEL", "1")
	want := bytes.Repeat([]byte("0123456789abcdef!"), 600_000)
	var made [2]bytes.Buffer
	for i := range made {
		err := hostZstd(t).zstdWriter(t.Context())(&made[i], func(w io.Writer) error {
			for rest := want; len(rest) > 0; {
				n := min(len(rest), 12345*(i+1))
				if _, err := w.Write(rest[:n]); err != nil {
					return err
				}
				rest = rest[n:]
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(made[0].Bytes(), made[1].Bytes()) {
		t.Error("other bytes of the same input in other portions")
	}
	z, err := zstd.NewReader(&made[0], zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
}

func TestZstdFails(t *testing.T) {
	mine := errors.New("can't be read")
	if err := hostZstd(t).zstdWriter(t.Context())(io.Discard, func(io.Writer) error { return mine }); !errors.Is(err, mine) {
		t.Errorf("feeding failed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := hostZstd(t).zstdWriter(ctx)(io.Discard, func(io.Writer) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	wrong := toolbox{zstd: func(ctx context.Context, _ ...string) *exec.Cmd {
		return exec.CommandContext(ctx, "sh", "-c", "echo no memory >&2; exit 1")
	}}
	err := wrong.zstdWriter(t.Context())(io.Discard, func(w io.Writer) error {
		for { // until it is gone
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return err
			}
		}
	})
	if err == nil || !strings.Contains(err.Error(), "zstd: exit status 1: no memory") {
		t.Errorf("the program failed: %v", err)
	}
	if (toolbox{}).zstdWriter(t.Context()) != nil {
		t.Error("there is a program without any")
	}
}

// TestVersions: a program is of the package that brings it and of those that this one needs, and of no other tool's.
func TestVersions(t *testing.T) {
	l := func(name, depends, provides string, paths ...string) *layer.Layer {
		l := &layer.Layer{About: layer.About{Package: name, Version: "1", Depends: depends, Provides: provides}}
		for _, p := range paths {
			l.Entries = append(l.Entries, rootfs.Entry{Path: p})
		}
		return l
	}
	layers := []*layer.Layer{
		l("libc6", "libgcc-s1", ""), l("libgcc-s1", "gcc-14-base (= 14), libc6 (>= 2.35)", ""), l("libstdc++6", "libc6", ""),
		l("libz-ng", "libc6", "zlib1g (= 1:1.2)"), l("squashfs-tools", "libc6 (>= 2.34), zlib1g | libother", "", "usr/bin/mksquashfs"), l("zstd", "libstdc++6", "", "usr/bin/zstd"),
	}
	for program, want := range map[string]string{
		"mksquashfs": "libc6 1, libgcc-s1 1, libz-ng 1, squashfs-tools 1",
		"zstd":       "libc6 1, libgcc-s1 1, libstdc++6 1, zstd 1",
		"gzip":       "",
	} {
		if got := versions(program, layers); got != want {
			t.Errorf("%s: %q, not %q", program, got, want)
		}
	}
}
