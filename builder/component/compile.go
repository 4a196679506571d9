package component

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// reporter takes a step, a detail and a count of packages.
type reporter func(step, detail string, packages int)

// compileAll makes every file of a component in dir. The paths of the sources are file names in dir.
func compileAll(ctx context.Context, spec Spec, t *toolchain, parallel int, dir string, report reporter) ([]File, error) {
	module, err := sources(ctx, spec, t, dir)
	if err != nil {
		return nil, err
	}
	var files []File
	for i, b := range spec.Builds {
		name := fmt.Sprintf("%d-%s", i, path.Base(b.Output))
		binary := filepath.Join(dir, name)
		if err := compile(ctx, spec, module, b, t, parallel, binary, report); err != nil {
			return nil, fmt.Errorf("cannot compile %s: %w", b.Package, err)
		}
		report("checking", b.Output, 0)
		if err := checkStatic(binary, t.arch); err != nil {
			return nil, fmt.Errorf("cannot use what %s compiled to: %w", b.Package, err)
		}
		file, err := finish(binary)
		if err != nil {
			return nil, fmt.Errorf("cannot keep what %s compiled to: %w", b.Package, err)
		}
		file.Path, file.Source = b.Output, name
		linked, err := links(b.Output, b.Links)
		if err != nil {
			return nil, err
		}
		files = append(append(files, file), linked...)
	}
	if module != spec.ModuleDir() {
		err = os.RemoveAll(module)
	}
	return files, err
}

// links are symbolic links to a file of the image, relative so that they also hold below a root.
func links(output string, from []string) ([]File, error) {
	var files []File
	for _, link := range from {
		target, err := filepath.Rel(path.Dir(link), output)
		if err != nil {
			return nil, fmt.Errorf("cannot link %s to %s: %w", link, output, err)
		}
		files = append(files, File{Path: link, Mode: 0o777, Link: target})
	}
	return files, nil
}

// finish gives a binary its mode, brings it to disk and takes its digest.
func finish(binary string) (File, error) {
	file, err := os.Open(binary)
	if err != nil {
		return File{}, err
	}
	defer file.Close()
	if err := file.Chmod(0o755); err != nil {
		return File{}, err
	}
	if err := file.Sync(); err != nil {
		return File{}, err
	}
	info, err := file.Stat()
	if err != nil {
		return File{}, err
	}
	sum, err := fileDigest(binary)
	return File{Mode: 0o755, SHA256: sum, Size: info.Size()}, err
}

// compile runs `go build` so that the bytes depend on nothing but the inputs: no paths, no version control state, no
// build id.
func compile(ctx context.Context, spec Spec, module string, b Build, t *toolchain, parallel int, binary string, report reporter) error {
	flags := []string{"-s", "-w", "-buildid="}
	if b.CGO {
		flags = append(flags, "-linkmode=external", `"-extldflags=-static -Wl,--build-id=none"`)
	}
	args := []string{"build", "-v", "-trimpath", "-buildvcs=false", "-mod=readonly", "-tags=" + strings.Join(b.Tags, ","),
		"-ldflags=" + strings.Join(append(flags, b.LDFlags...), " "), "-o", binary}
	if parallel > 0 {
		args = append(args, "-p", strconv.Itoa(parallel))
	}
	command := t.command(ctx, module, t.goTool, append(args, "--", b.Package)...)
	command.Env = append(command.Env, b.cgoSetting())
	reader, writer := io.Pipe()
	command.Stdout, command.Stderr = writer, writer
	problems := make(chan string, 1)
	go func() { problems <- listen(reader, report) }()
	report("compiling", b.Package, 0)
	err := command.Run()
	sweep(ctx, command)
	writer.Close()
	if said := <-problems; err != nil {
		return fmt.Errorf("%w: %s%s", cause(ctx, err), said, spec.hint(said))
	}
	return nil
}

// listen follows what `go build -v` says: a package a line is progress, everything else is kept as the reason why it
// may fail.
func listen(said io.Reader, report reporter) string {
	var kept strings.Builder
	packages := 0
	lines := bufio.NewReaderSize(said, 64<<10)
	for {
		line, err := lines.ReadString('\n')
		line = strings.TrimRight(line, "\n")
		module, downloading := strings.CutPrefix(line, "go: downloading ")
		switch {
		case line == "":
		case downloading:
			report("downloading", module, packages)
		case !strings.ContainsAny(line, " \t"):
			packages++
			report("compiling", line, packages)
		case kept.Len() < 1<<20:
			kept.WriteString(line + "\n")
		}
		if err != nil {
			return tail(kept.String())
		}
	}
}

// hint says what to do about faults that people meet on a fresh machine.
func (s Spec) hint(said string) string {
	switch {
	case strings.Contains(said, "go.mod requires go >="):
		return " (install that version of Go or a newer one)"
	case len(s.HostPackages) > 0 && (strings.Contains(said, "fatal error:") || strings.Contains(said, "pkg-config")):
		return fmt.Sprintf(" (needs the Debian packages %s)", strings.Join(s.HostPackages, ", "))
	}
	return ""
}
