package component

import (
	"archive/zip"
	"bytes"
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// library is a module proxy's folder with one module, example.com/library v1.0.0.
func library(t *testing.T) files {
	t.Helper()
	content := files{
		"go.mod":     "module example.com/library\n\ngo 1.26.0\n",
		"library.go": "package library\n\n// Word is said.\nfunc Word() string {\n\treturn \"as published\"\n}\n",
	}
	var packed bytes.Buffer
	z := zip.NewWriter(&packed)
	for _, name := range []string{"go.mod", "library.go"} {
		w, err := z.Create("example.com/library@v1.0.0/" + name)
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(content[name]))
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return files{
		"example.com/library/@v/v1.0.0.info": `{"Version":"v1.0.0"}`,
		"example.com/library/@v/v1.0.0.mod":  content["go.mod"],
		"example.com/library/@v/v1.0.0.zip":  packed.String(),
		"example.com/library/@v/list":        "v1.0.0\n",
	}
}

const wordPatch = `Says something else.

--- a/library.go	2026-01-01
+++ b/library.go
@@ -3,4 +3,4 @@
 // Word is said.
 func Word() string {
-	return "as published"
+	return "as patched"
 }
`

// patchedHello is a component whose program says what the library says.
func patchedHello(t *testing.T) files {
	t.Helper()
	fs := hello()
	fs["components/hello/component.yaml"] = strings.Replace(helloSpec, "builds:", "patches:\n  - {module: example.com/library, file: word.patch}\nbuilds:", 1)
	fs["components/hello/word.patch"] = wordPatch
	fs["components/hello/go.mod"] += "\nrequire example.com/library v1.0.0\n"
	fs["components/hello/main.go"] = "package main\n\nimport \"example.com/library\"\n\nvar greeting string\n\nfunc main() { println(greeting, library.Word()) }\n"
	proxy, modules, sums := t.TempDir(), t.TempDir(), t.TempDir()
	library(t).write(t, proxy)
	for name, value := range map[string]string{"GOPROXY": "file://" + proxy, "GONOSUMDB": "*", "GOMODCACHE": modules, "GOFLAGS": ""} {
		t.Setenv(name, value)
	}
	t.Cleanup(func() { exec.Command("go", "clean", "-modcache").Run() }) // its folders are read-only
	files{"go.mod": fs["components/hello/go.mod"], "main.go": fs["components/hello/main.go"]}.write(t, sums)
	tidy := exec.Command("go", "mod", "tidy")
	tidy.Dir = sums
	if out, err := tidy.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sum, err := os.ReadFile(filepath.Join(sums, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	fs["components/hello/go.sum"] = string(sum)
	return fs
}

func TestPatchedModule(t *testing.T) {
	fs := patchedHello(t)
	b := newBench(t, fs)
	made := b.build("hello")
	if said, err := exec.Command(made.Files[0].Source).CombinedOutput(); err != nil || string(said) != "hello as patched\n" {
		t.Errorf("program says %q (%v)", said, err)
	}
	info, err := buildinfo.ReadFile(made.Files[0].Source)
	if err != nil || len(info.Deps) != 1 || info.Deps[0].Replace == nil || info.Deps[0].Replace.Path != "./patched/0" {
		t.Errorf("the program was built of %+v (%v)", info.Deps, err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(made.Files[0].Source), "source")); !os.IsNotExist(err) {
		t.Errorf("the sources stay in the cache: %v", err)
	}
	if other := newBench(t, fs).build("hello"); other.Key != made.Key || other.Files[0].SHA256 != made.Files[0].SHA256 {
		t.Error("another folder, another program")
	}
	fs["components/hello/word.patch"] = strings.Replace(wordPatch, "as patched", "otherwise", 1)
	changed := newBench(t, fs).build("hello")
	if said, _ := exec.Command(changed.Files[0].Source).CombinedOutput(); changed.Key == made.Key || string(said) != "hello otherwise\n" {
		t.Errorf("another patch: program says %q, key is the same: %v", said, changed.Key == made.Key)
	}
}

func TestFaultsOfPatches(t *testing.T) {
	good := patchedHello(t)
	for name, c := range map[string]struct{ file, old, new, want string }{
		"not that file":  {"word.patch", `"as published"`, `"as it was"`, "not the file that was patched"},
		"no such file":   {"word.patch", "library.go", "other.go", "other.go"},
		"leads out":      {"word.patch", "/library.go", "/../../main.go", "escapes"},
		"makes a file":   {"word.patch", wordPatch, "--- /dev/null\n+++ b/new.go\n@@ -0,0 +1,1 @@\n+package library\n", "only change lines"},
		"no diff":        {"word.patch", wordPatch, "words\n", "no change in it"},
		"another module": {"component.yaml", "module: example.com/library", "module: example.com/none", "example.com/none"},
		"a sum of ours":  {"go.sum", "example.com/library v1.0.0 h1:", "example.com/library v1.0.0 h1:A", "go.sum"},
		"no patch":       {"component.yaml", "file: word.patch", "file: none.patch", "none.patch"},
		"not here":       {"component.yaml", "file: word.patch", "file: ../word.patch", "not the name of a file in the component's module"},
	} {
		t.Run(name, func(t *testing.T) {
			fs := files{}
			for p, content := range good {
				fs[p] = content
			}
			p := "components/hello/" + c.file
			if fs[p] = strings.ReplaceAll(good[p], c.old, c.new); fs[p] == good[p] {
				t.Fatal("nothing was changed")
			}
			b := newBench(t, fs)
			builder, err := New(Options{ImagesDir: b.images, CacheDir: b.cache})
			if err == nil {
				_, err = builder.Build(t.Context(), "hello", runtime.GOARCH)
			}
			wantFault(t, err, c.want)
			if left, _ := filepath.Glob(filepath.Join(b.cache, "components", "[^.]*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
