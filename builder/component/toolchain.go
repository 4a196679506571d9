package component

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// toolchain is the compiler and the C libraries on this machine, for one target.
type toolchain struct {
	arch     string
	goTool   string            // path
	cc       string            // C compiler; empty without cgo
	triple   string            // as GNU tools name the target: aarch64-linux-gnu
	sysroot  string            // folder of C libraries and headers; empty: the compiler's own
	settings map[string]string // what `go env` says of all that changes a build's bytes
	cVersion string            // what the C compiler says of itself
	archives map[string]string // static C library -> SHA-256
}

// bytesDependOn are the variables of `go env` that change what the compiler writes.
func bytesDependOn() []string {
	return []string{"GOVERSION", "GOEXPERIMENT", "GOAMD64", "GOARM64", "GOFIPS140", "CC", "CGO_CFLAGS",
		"CGO_CPPFLAGS", "CGO_LDFLAGS", "GO_EXTLINK_ENABLED"}
}

// findToolchain looks for all that the component needs and says which Debian package has what is missing.
func findToolchain(ctx context.Context, spec Spec, arch, sysroot string) (*toolchain, error) {
	triple, err := gnuTriple(arch)
	if err != nil {
		return nil, err
	}
	t := &toolchain{arch: arch, triple: triple, sysroot: sysroot, archives: map[string]string{}}
	if t.goTool, err = exec.LookPath("go"); err != nil {
		return nil, fmt.Errorf("go is missing (Debian package golang-go, or a newer Go in PATH): %w", err)
	}
	if spec.cgo() {
		if err := t.findC(ctx, spec); err != nil {
			return nil, err
		}
	}
	settings, err := t.run(ctx, os.TempDir(), append([]string{"env", "-json"}, bytesDependOn()...)...)
	if err != nil {
		return nil, fmt.Errorf("cannot ask go for its settings: %w", err)
	}
	if err := json.Unmarshal(settings, &t.settings); err != nil {
		return nil, fmt.Errorf("cannot read go's settings: %w", err)
	}
	if t.cc != "" {
		t.settings["CC"] = t.cc // without flags, which say where the cache is
	}
	return t, nil
}

func gnuTriple(arch string) (string, error) {
	switch arch {
	case "amd64":
		return "x86_64-linux-gnu", nil
	case "arm64":
		return "aarch64-linux-gnu", nil
	}
	return "", fmt.Errorf("architecture %q is not supported (amd64, arm64)", arch)
}

// findC finds the C compiler and takes the digests of the libraries that get linked in.
func (t *toolchain) findC(ctx context.Context, spec Spec) error {
	name, pkg := "gcc", "gcc"
	if t.arch != runtime.GOARCH {
		name, pkg = t.triple+"-gcc", "gcc-"+strings.ReplaceAll(t.triple, "_", "-")
	}
	var err error
	if t.cc, err = exec.LookPath(name); err != nil {
		return fmt.Errorf("%s is missing (Debian package %s): %w", name, pkg, err)
	}
	version, err := t.command(ctx, os.TempDir(), t.cc, "--version").Output()
	if err != nil {
		return fmt.Errorf("cannot ask %s for its version: %w", t.cc, err)
	}
	t.cVersion = string(version)
	libraries := maps.Clone(spec.HostLibraries)
	if libraries == nil {
		libraries = map[string]string{}
	}
	libraries["libc.a"] = "libc6-dev"
	libraries["libgcc.a"] = pkg
	for _, library := range slices.Sorted(maps.Keys(libraries)) {
		digest, err := t.library(ctx, library)
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is missing%s (Debian package %s)", library, t.where(), libraries[library])
		}
		if err != nil {
			return err
		}
		t.archives[library] = digest
	}
	return nil
}

// library asks the C compiler where a library is and takes its digest.
func (t *toolchain) library(ctx context.Context, name string) (string, error) {
	args := append(t.ccFlags(), "-print-file-name="+name)
	said, err := t.command(ctx, os.TempDir(), t.cc, args...).Output()
	if err != nil {
		return "", fmt.Errorf("cannot ask %s for %s: %w", t.cc, name, err)
	}
	where := strings.TrimSpace(string(said))
	if !filepath.IsAbs(where) { // the compiler repeats the name when it doesn't know
		return "", os.ErrNotExist
	}
	return fileDigest(where)
}

// ccFlags make the C compiler use the sysroot and nothing of this machine's: cross compilers look into a folder of their own
// before the sysroot, unless they are told.
func (t *toolchain) ccFlags() []string {
	if t.sysroot == "" {
		return nil
	}
	include := filepath.Join(t.sysroot, "usr/include")
	return []string{"--sysroot=" + t.sysroot, "-B" + t.libraries() + "/", "-L" + t.libraries(),
		"-isystem", filepath.Join(include, t.triple), "-isystem", include, "-ffile-prefix-map=" + t.sysroot + "=/"}
}

// libraries is the sysroot's folder of libraries.
func (t *toolchain) libraries() string { return filepath.Join(t.sysroot, "usr/lib", t.triple) }

// where says for messages where libraries are looked for, when it is not this machine.
func (t *toolchain) where() string {
	if t.sysroot == "" {
		return ""
	}
	return " among the libraries of the definition for " + t.arch
}

// quoted is a command as Go reads it from the environment.
func quoted(words []string) string {
	for i, w := range words {
		if strings.ContainsAny(w, " \t\"") {
			words[i] = "'" + w + "'"
		}
	}
	return strings.Join(words, " ")
}

func fileDigest(name string) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// environment is the caller's without what would change the bytes of a build. Proxies and folders stay. GOFLAGS isn't
// empty because an empty one would let the user's `go env -w` settings in.
func (t *toolchain) environment() []string {
	drop := []string{"GOOS", "GOARCH", "GOFLAGS", "GOWORK", "GOTOOLCHAIN", "GOEXPERIMENT", "GOAMD64", "GOARM64",
		"GODEBUG", "GO111MODULE", "GOFIPS140", "CC", "CXX", "LC_ALL", "SOURCE_DATE_EPOCH", "GO_EXTLINK_ENABLED"}
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(drop, name) || strings.HasPrefix(name, "CGO_")
	})
	env = append(env, "GOOS=linux", "GOARCH="+t.arch, "GOFLAGS=-mod=readonly", "GOWORK=off", "GOTOOLCHAIN=local",
		"GOAMD64=v1", "GOARM64=v8.0", "CGO_ENABLED=0", "CGO_CFLAGS=-O2", "CGO_LDFLAGS=-O2", "LC_ALL=C")
	if t.cc != "" {
		env = append(env, "CC="+quoted(append([]string{t.cc}, t.ccFlags()...)))
	}
	if t.sysroot != "" {
		env = append(env, "PKG_CONFIG_PATH=", "PKG_CONFIG_LIBDIR="+filepath.Join(t.libraries(), "pkgconfig"), "PKG_CONFIG_SYSROOT_DIR="+t.sysroot)
	}
	return env
}

// run runs `go` quietly and gives what it prints.
func (t *toolchain) run(ctx context.Context, dir string, args ...string) ([]byte, error) {
	return said(ctx, t.command(ctx, dir, t.goTool, args...))
}

// said runs a command of `go` and gives what it prints.
func said(ctx context.Context, command *exec.Cmd) ([]byte, error) {
	var problems bytes.Buffer
	command.Stderr = &problems
	out, err := command.Output()
	sweep(ctx, command)
	if err != nil {
		return nil, fmt.Errorf("go %s: %w: %s", command.Args[1], cause(ctx, err), tail(problems.String()))
	}
	return out, nil
}

// cause prefers the reason the context gives to "signal: interrupt".
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// tail keeps the last lines of what a program said.
func tail(said string) string {
	const most = 4 << 10
	said = strings.TrimSpace(said)
	if len(said) > most {
		said = "... " + said[len(said)-most:]
	}
	return said
}
