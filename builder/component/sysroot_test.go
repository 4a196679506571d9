package component

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// crossFiles is a component that is C and Go, with a library that only the sysroot has.
func crossFiles() files {
	return files{
		"components/greet/component.yaml": `apiVersion: slipway.dev/v1alpha1
kind: Component
metadata: {name: greet}
version: v1
builds: [{package: ., output: /usr/bin/greet, cgo: true}]
hostLibraries: {libgreet.a: libgreet-dev}
`,
		"components/greet/go.mod": "module example.com/greet\n\ngo 1.26.0\n",
		"components/greet/main.go": `package main

// #cgo pkg-config: greet
// #include <greet.h>
import "C"

func main() { println(C.greet() + C.GREETING) }
`,
	}
}

// sysroot is a folder with this machine's C library for arm64, laid out as Debian's own packages have it, and libgreet.
func sysroot(t *testing.T) string {
	t.Helper()
	const triple, host = "aarch64-linux-gnu", "/usr/aarch64-linux-gnu"
	compiler, err := exec.LookPath(triple + "-gcc")
	if err != nil || runtime.GOARCH == "arm64" {
		t.Skip("no cross compiler for arm64")
	}
	if _, err := exec.LookPath("pkg-config"); err != nil {
		t.Skip(err)
	}
	dir := filepath.Join(t.TempDir(), "0123456789abcdef")
	libraries, include := filepath.Join(dir, "usr/lib", triple), filepath.Join(dir, "usr/include")
	files{
		"pkgconfig/greet.pc": "prefix=/usr\nlibdir=${prefix}/lib/" + triple + "\nName: greet\nDescription: x\nVersion: 1\nLibs: -L${libdir} -lgreet\n",
		"greet.c":            "int greet(void) { return 41; }\n",
	}.write(t, libraries)
	found, err := filepath.Glob(host + "/lib/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if ext := filepath.Ext(f); ext == ".a" || ext == ".o" {
			if err := os.Symlink(f, filepath.Join(libraries, filepath.Base(f))); err != nil {
				t.Fatal(err)
			}
		}
	}
	headers, err := filepath.Glob(host + "/include/*")
	if err != nil || len(headers) == 0 {
		t.Skip("no headers of the C library for arm64: ", err)
	}
	if err := os.MkdirAll(include, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		if err := os.Symlink(h, filepath.Join(include, filepath.Base(h))); err != nil {
			t.Fatal(err)
		}
	}
	files{"greet.h": "int greet(void);\n#define GREETING 1\n"}.write(t, include)
	for _, words := range [][]string{{compiler, "-c", "greet.c", "-o", "greet.o"}, {triple + "-ar", "rcD", "libgreet.a", "greet.o"}} {
		command := exec.Command(words[0], words[1:]...)
		command.Dir = libraries
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return dir
}

func (b *bench) cross(libraries string) (Component, error) {
	b.Helper()
	builder, err := New(Options{ImagesDir: b.images, CacheDir: b.cache, Parallel: 2, Libraries: map[string]string{"arm64": libraries}})
	if err != nil {
		b.Fatal(err)
	}
	return builder.Build(context.Background(), "greet", "arm64")
}

// TestCrossBuildTakesItsLibrariesFromTheSysroot: a program for another architecture is static, and its bytes and key don't tell
// where the sysroot lies; a sysroot without the library is an error that says what to do, and a changed one another key.
func TestCrossBuildTakesItsLibrariesFromTheSysroot(t *testing.T) {
	first := newBench(t, crossFiles())
	made, err := first.cross(sysroot(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := checkStatic(made.Files[0].Source, "arm64"); err != nil {
		t.Error(err)
	}
	second := newBench(t, crossFiles())
	elsewhere := sysroot(t)
	again, err := second.cross(elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	if again.Key != made.Key || again.Files[0].SHA256 != made.Files[0].SHA256 {
		t.Errorf("from another folder: key %s, digest %s, and before %s, %s", again.Key, again.Files[0].SHA256, made.Key, made.Files[0].SHA256)
	}
	program, err := os.ReadFile(again.Files[0].Source)
	if err != nil || strings.Contains(string(program), elsewhere) {
		t.Errorf("the program has the path of its libraries (%v)", err)
	}
	renamed := filepath.Join(filepath.Dir(elsewhere), "fedcba9876543210")
	if err := os.Rename(elsewhere, renamed); err != nil {
		t.Fatal(err)
	}
	other, err := second.cross(renamed)
	if err != nil || other.Key == made.Key {
		t.Errorf("other libraries have the same key: %v", err)
	}
	if err := os.Remove(filepath.Join(renamed, "usr/lib/aarch64-linux-gnu/libgreet.a")); err != nil {
		t.Fatal(err)
	}
	_, err = second.cross(renamed)
	wantFault(t, err, "libgreet.a is missing among the libraries of the definition for arm64 (Debian package libgreet-dev)")
}
