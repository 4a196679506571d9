package toolset

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/layer"
	"github.com/slipway-os/slipway/builder/rootfs"
)

func file(path, content string) rootfs.Entry {
	return rootfs.Entry{Path: path, Type: rootfs.Regular, Content: rootfs.Inline([]byte(content)), Origin: "package test"}
}

func developmentLayers() []*layer.Layer {
	return []*layer.Layer{{Entries: []rootfs.Entry{
		{Path: "usr/include", Type: rootfs.Directory},
		file("usr/include/stdio.h", "int puts();"),
		{Path: "usr/include/aarch64-linux-gnu/asm", Type: rootfs.Symlink, Link: "../../lib/linux/uapi/arm64/asm"},
		file("usr/lib/linux/uapi/arm64/asm/errno.h", "#define E 1"),
		file("lib/aarch64-linux-gnu/libc.a", "the library"),
		file("usr/lib/aarch64-linux-gnu/pkgconfig/x.pc", "Libs: -lx"),
		file("usr/lib/aarch64-linux-gnu/libc.so.6", "not for a static program"),
		file("usr/bin/rpcgen", "not for a compiler"),
	}}}
}

// TestLibrariesAreThereAsInThePackages: what compilers need is there, links lead where they led, and nothing else is there.
func TestLibrariesAreThereAsInThePackages(t *testing.T) {
	dir := t.TempDir()
	folder, err := InstallLibraries(dir, developmentLayers())
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"usr/include/stdio.h":                       "int puts();",
		"usr/include/aarch64-linux-gnu/asm/errno.h": "#define E 1",
		"usr/lib/aarch64-linux-gnu/libc.a":          "the library",
		"usr/lib/aarch64-linux-gnu/pkgconfig/x.pc":  "Libs: -lx",
		"usr/lib/aarch64-linux-gnu/libc.so.6":       "",
		"usr/bin/rpcgen":                            "",
	} {
		got, err := os.ReadFile(filepath.Join(folder, path))
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	again, err := InstallLibraries(dir, developmentLayers())
	if err != nil || again != folder {
		t.Errorf("installed again: %s, %v", again, err)
	}
	// Damage, and something that is missing, is found and made good.
	for path, do := range map[string]func(string) error{
		"usr/lib/aarch64-linux-gnu/libc.a": func(p string) error { return os.WriteFile(p, []byte("the libXary"), 0o644) },
		"usr/include/stdio.h":              os.Remove,
	} {
		if err := do(filepath.Join(folder, path)); err != nil {
			t.Fatal(err)
		}
		if _, err := InstallLibraries(dir, developmentLayers()); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(folder, path)); err != nil || strings.Contains(string(got), "X") {
			t.Errorf("%s stays as it was: %q, %v", path, got, err)
		}
	}
}

// TestLibrariesStayInTheirFolder: a package's link can't make another's file land outside.
func TestLibrariesStayInTheirFolder(t *testing.T) {
	dir := t.TempDir()
	_, err := InstallLibraries(filepath.Join(dir, "libraries"), []*layer.Layer{{Entries: []rootfs.Entry{
		{Path: "usr/include/out", Type: rootfs.Symlink, Link: "../../../..", Origin: "package a"},
		file("usr/include/out/escaped.h", "x"),
	}}})
	if err == nil {
		t.Error("it was installed")
	}
	if _, err := os.Lstat(filepath.Join(dir, "escaped.h")); err == nil {
		t.Error("a file lies outside of the folder")
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "libraries")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}
