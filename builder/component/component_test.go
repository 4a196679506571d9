package component

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// files are written below a folder: name -> content.
type files map[string]string

func (fs files) write(t *testing.T, dir string) {
	t.Helper()
	for name, content := range fs {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

const helloSpec = `apiVersion: slipway.dev/v1alpha1
kind: Component
metadata: {name: hello}
version: v1.2.3
builds:
  - package: .
    output: /usr/bin/hello
    links: [/usr/bin/hi, /usr/libexec/hi]
    ldflags: ["-X main.greeting=hello"]
`

// hello is a component of one tiny program.
func hello() files {
	return files{
		"components/hello/component.yaml": helloSpec,
		"components/hello/go.mod":         "module example.com/hello\n\ngo 1.26.0\n",
		"components/hello/main.go":        "package main\n\nvar greeting string\n\nfunc main() { println(greeting) }\n",
		"components/hello/main_test.go":   "package main\n",
	}
}

// bench is a folder of images, a cache and the steps the last builder reported.
type bench struct {
	*testing.T
	images, cache string
	steps         []string
	warnings      []string
}

func newBench(t *testing.T, fs files) *bench {
	b := &bench{T: t, images: t.TempDir(), cache: t.TempDir()}
	fs.write(t, b.images)
	return b
}

func (b *bench) try(ctx context.Context, name, arch string) (Component, error) {
	b.Helper()
	b.steps = nil
	builder, err := New(Options{ImagesDir: b.images, CacheDir: b.cache, Parallel: 2, Warn: func(text string) { b.warnings = append(b.warnings, text) }, Progress: func(p Progress) {
		if !slices.Contains(b.steps, p.Step) {
			b.steps = append(b.steps, p.Step)
		}
	}})
	if err != nil {
		b.Fatal(err)
	}
	return builder.Build(ctx, name, arch)
}

func (b *bench) build(name string) Component {
	b.Helper()
	made, err := b.try(b.Context(), name, runtime.GOARCH)
	if err != nil {
		b.Fatal(err)
	}
	return made
}

func (b *bench) wantSteps(want ...string) {
	b.Helper()
	if !slices.Equal(b.steps, want) {
		b.Errorf("steps are %v, not %v", b.steps, want)
	}
}

func wantFault(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error is %q, without %q", err, part)
		}
	}
}

func TestBuildMakesRunnableProgramAndLinks(t *testing.T) {
	b := newBench(t, hello())
	made := b.build("hello")
	b.wantSteps("waiting", "compiling", "checking")
	if made.Name != "hello" || made.Version != "v1.2.3" || made.Arch != runtime.GOARCH || len(made.Key) != 64 {
		t.Errorf("component is %+v", made)
	}
	if len(made.Files) != 3 {
		t.Fatalf("files are %+v", made.Files)
	}
	program := made.Files[0]
	if program.Path != "/usr/bin/hello" || program.Mode != 0o755 || program.Size == 0 || len(program.SHA256) != 64 {
		t.Errorf("program is %+v", program)
	}
	said, err := exec.Command(program.Source).CombinedOutput()
	if err != nil || string(said) != "hello\n" {
		t.Errorf("program says %q (%v)", said, err)
	}
	if l := made.Files[1]; l.Path != "/usr/bin/hi" || l.Link != "hello" {
		t.Errorf("first link is %+v", l)
	}
	if l := made.Files[2]; l.Path != "/usr/libexec/hi" || l.Link != "../bin/hello" {
		t.Errorf("second link is %+v", l)
	}
}

func TestBuildAgain(t *testing.T) {
	b := newBench(t, hello())
	first := b.build("hello")

	t.Run("same inputs come from the cache", func(t *testing.T) {
		again := b.build("hello")
		b.wantSteps("cached")
		if again.Key != first.Key || !slices.Equal(again.Files, first.Files) {
			t.Errorf("cached %+v, built %+v", again, first)
		}
	})
	t.Run("another folder gives the same bytes", func(t *testing.T) {
		other := newBench(t, hello())
		again := other.build("hello")
		if again.Key != first.Key || again.Files[0].SHA256 != first.Files[0].SHA256 {
			t.Errorf("%s with key %s, before %s with key %s", again.Files[0].SHA256, again.Key, first.Files[0].SHA256, first.Key)
		}
	})
	t.Run("settings of the caller don't matter", func(t *testing.T) {
		t.Setenv("GOFLAGS", "-tags=other -mod=vendor")
		t.Setenv("GOOS", "windows")
		t.Setenv("CGO_CFLAGS", "-O0")
		if again := b.build("hello"); again.Key != first.Key {
			t.Error("the key changed")
		}
	})
	t.Run("a change of tests doesn't matter", func(t *testing.T) {
		files{"components/hello/main_test.go": "package main // changed\n"}.write(t, b.images)
		if again := b.build("hello"); again.Key != first.Key {
			t.Error("the key changed")
		}
	})
	for name, change := range map[string]files{
		"source":     {"components/hello/main.go": "package main\n\nvar greeting string\n\nfunc main() { println(greeting + \"!\") }\n"},
		"definition": {"components/hello/component.yaml": strings.Replace(helloSpec, "=hello", "=hullo", 1)},
		"go.sum":     {"components/hello/go.sum": "example.com/other v1.0.0 h1:AAAA=\n"},
		"embedded":   {"components/hello/data/text": "changed"},
	} {
		t.Run("a change of "+name+" changes the key", func(t *testing.T) {
			changed := newBench(t, hello())
			changed.cache = b.cache
			change.write(t, changed.images)
			if again := changed.build("hello"); again.Key == first.Key {
				t.Error("the key is the same")
			}
		})
	}
}

func TestDamagedResultIsBuiltAgain(t *testing.T) {
	b := newBench(t, hello())
	first := b.build("hello")
	program := first.Files[0].Source
	damages := map[string]func() error{
		"flipped byte": func() error {
			content, err := os.ReadFile(program)
			if err != nil {
				return err
			}
			content[len(content)/2] ^= 1
			return os.WriteFile(program, content, 0o755)
		},
		"cut file":       func() error { return os.Truncate(program, 100) },
		"missing file":   func() error { return os.Remove(program) },
		"missing record": func() error { return os.Remove(filepath.Join(filepath.Dir(program), recordName)) },
		"flipped record": func() error { // a file's mode, which is in no digest of its own
			name := filepath.Join(filepath.Dir(program), recordName)
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			changed := bytes.Replace(content, []byte(`"mode":493`), []byte(`"mode":492`), 1)
			if bytes.Equal(changed, content) {
				return errors.New("no mode in the record")
			}
			return os.WriteFile(name, changed, 0o644)
		},
		"unreadable file": func() error { return errors.Join(os.Remove(program), os.Mkdir(program, 0o755)) },
		"cut record":      func() error { return os.Truncate(filepath.Join(filepath.Dir(program), recordName), 50) },
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			b.warnings = nil
			again := b.build("hello")
			b.wantSteps("waiting", "compiling", "checking")
			if len(b.warnings) == 0 || !strings.HasPrefix(b.warnings[0], "component hello in the cache is damaged (") {
				t.Errorf("warnings: %q", b.warnings)
			}
			if sum, err := fileDigest(again.Files[0].Source); err != nil || sum != first.Files[0].SHA256 {
				t.Errorf("digest is %s, before %s (%v)", sum, first.Files[0].SHA256, err)
			}
		})
	}
}

// Results that were not used for longest make room; one that is used again stays.
func TestCacheKeepsWhatWasUsedLast(t *testing.T) {
	c := cache{t.TempDir(), func(string) {}}
	make := func(version string) Component {
		t.Helper()
		in := inputs{"version": version}
		want := Component{Name: "hello", Version: version, Arch: "amd64", Key: in.key()}
		made, err := c.put(want, in, func(dir string) ([]File, error) {
			return []File{{Path: "/a", Source: "a", SHA256: digest(nil)}}, os.WriteFile(filepath.Join(dir, "a"), nil, 0o755)
		})
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	var all []Component
	for i := range kept + 2 {
		made := make(string(rune('a' + i)))
		used := time.Unix(int64(1000+i), 0)
		if err := os.Chtimes(filepath.Join(c.dir, made.Key), used, used); err != nil {
			t.Fatal(err)
		}
		if all = append(all, made); i == kept-1 {
			if _, ok := c.get(all[0]); !ok {
				t.Fatal("the first result is gone before there are too many")
			}
		}
	}
	var left strings.Builder
	for _, made := range all {
		if _, ok := c.get(made); ok {
			left.WriteString(made.Version)
		}
	}
	if left.String() != "adefg" {
		t.Errorf("versions %s are left", left.String())
	}
}

func TestFaultsOfBuild(t *testing.T) {
	broken := hello()
	broken["components/hello/main.go"] = "package main\n\nfunc main() { nothing() }\n"
	unpinned := hello()
	unpinned["components/hello/go.mod"] += "\nrequire example.com/b v0.0.0\n\nreplace example.com/b => ../b\n"
	newer := hello()
	newer["components/hello/go.mod"] = "module example.com/hello\n\ngo 1.999\n"
	for name, c := range map[string]struct {
		files
		component, arch string
		want            []string
	}{
		"unknown name":     {hello(), "hallo", "amd64", []string{`"hallo"`, "(hello)"}},
		"unknown arch":     {hello(), "hello", "mips", []string{`"mips"`, "amd64, arm64"}},
		"does not compile": {broken, "hello", "amd64", []string{"component hello for amd64", "main.go:3", "undefined: nothing"}},
		"local replace":    {unpinned, "hello", "amd64", []string{"replaces example.com/b by the folder ../b", "pinned"}},
		"newer go":         {newer, "hello", "amd64", []string{"1.999", "install that version of Go"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, c.files)
			_, err := b.try(t.Context(), c.component, c.arch)
			wantFault(t, err, c.want...)
			if left, _ := filepath.Glob(filepath.Join(b.cache, "components", ".building*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestMissingGoNamesPackage(t *testing.T) {
	b := newBench(t, hello())
	t.Setenv("PATH", t.TempDir())
	_, err := b.try(t.Context(), "hello", runtime.GOARCH)
	wantFault(t, err, "go is missing", "golang-go")
}

func TestOtherArchitecture(t *testing.T) {
	b := newBench(t, hello())
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	made, err := b.try(t.Context(), "hello", other)
	if err != nil {
		t.Fatal(err)
	}
	program, err := elf.Open(made.Files[0].Source)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if program.Machine != machine(other) {
		t.Errorf("machine is %v", program.Machine)
	}
	wantFault(t, checkStatic(made.Files[0].Source, runtime.GOARCH), "wrong architecture", program.Machine.String(), runtime.GOARCH)
}

func TestInterruptedBuildLeavesNothing(t *testing.T) {
	b := newBench(t, hello())
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the operator pressed Ctrl-C")
	builder, err := New(Options{ImagesDir: b.images, CacheDir: b.cache, Progress: func(p Progress) {
		if p.Step == "compiling" {
			cancel(reason)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := builder.Build(ctx, "hello", runtime.GOARCH); !errors.Is(err, reason) {
		t.Errorf("error is %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(b.cache, "components", "[^.]*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	b.build("hello") // the lock is free again
}

// A process that `go` started, and that outlives it, ends with the build.
func TestInterruptEndsTheWholeGroup(t *testing.T) {
	started := filepath.Join(t.TempDir(), "started")
	if err := syscall.Mkfifo(started, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	chain := &toolchain{arch: runtime.GOARCH}
	// The grandchild ignores the interrupt and holds the pipe open for as long as it lives.
	command := chain.command(ctx, t.TempDir(), "/bin/sh", "-c",
		`sh -c 'trap "" INT; exec 3>"$0"; echo up >&3; while :; do sleep 1; done' "$0" & exit 0`, started)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.Open(started)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	_ = command.Wait()
	cancel()
	sweep(ctx, command)
	if _, err := readAll(pipe); err != nil { // ends when the grandchild is gone
		t.Fatal(err)
	}
}
