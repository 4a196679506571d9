// Package cli tries slipway's command line as people and pipelines use it: the built program, scripts in testdata/*.txtar,
// exit codes, and words on standard output and standard error.
package cli

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/slipway-os/slipway/builder/provenance"
	"github.com/slipway-os/slipway/builder/rootfs"
	"github.com/slipway-os/slipway/builder/uki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

func TestMain(m *testing.M) { os.Exit(withProgram(m)) }

// withProgram builds slipway once and puts it into PATH.
func withProgram(m *testing.M) int {
	dir, err := os.MkdirTemp("", "slipway-cli-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "slipway"), "../../builder/slipway")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "cannot build slipway: %v\n%s", err, out)
		return 1
	}
	os.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	return m.Run()
}

// Variables that name the programs which `make test` and `make test-cosign` build from test/cosign.
const (
	verifyVariable = "SLIPWAY_SIGSTORE_VERIFY"
	cosignVariable = "SLIPWAY_COSIGN"
)

func TestScripts(t *testing.T) {
	images, err := filepath.Abs("../../images")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("IMAGES", images)
			e.Setenv(verifyVariable, os.Getenv(verifyVariable))
			e.Setenv(cosignVariable, os.Getenv(cosignVariable))
			e.Setenv("XDG_STATE_HOME", filepath.Join(e.WorkDir, ".state"))
			e.Setenv("SLIPWAY_CACHE", filepath.Join(e.WorkDir, ".cache"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": code, "mode": mode, "diskimage": diskImage, "seal": seal, "proven": proven, "kernelimage": kernelImage, "loop": loop, "webserver": webServer, "registry": registry, "archive": signedArchive},
		Condition: func(name string) (bool, error) {
			switch name {
			case "root":
				return os.Geteuid() == 0, nil
			case "docker-registry":
				_, err := exec.LookPath(name)
				return err == nil, nil
			case "sigstore-go":
				return os.Getenv(verifyVariable) != "", nil
			case "cosign":
				return os.Getenv(cosignVariable) != "", nil
			case "sigstore":
				return os.Getenv(verifyVariable)+os.Getenv(cosignVariable) != "", nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
	})
}

// code runs a command that must end with an exit code: code 2 slipway bake.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N command...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := err.(*exec.ExitError); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// mode wants a file's permission bits: mode 0600 identity/ca.key.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: mode 0600 file")
	}
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%#o", info.Mode().Perm()); (got == args[0]) == neg {
		ts.Fatalf("%s has mode %s", args[1], got)
	}
}

// diskImage makes a small disk image with a place for a node's configuration, and its manifest: diskimage x.disk.raw worker. A third
// word is its version, 0.1.0 without.
func diskImage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: diskimage file role [version]")
	}
	version := "0.1.0"
	if len(args) == 3 {
		version = args[2]
	}
	path := ts.MkAbs(args[0])
	ts.Check(os.WriteFile(path, nil, 0o600))
	ts.Check(os.Truncate(path, 16<<20))
	ts.Check(ts.Exec("sgdisk", "--new=1:4096:20479", "--change-name=1:"+bootspec.LabelConfig, path))
	data, err := os.ReadFile(path)
	ts.Check(err)
	m := manifest.Manifest{
		APIVersion: manifest.Version, Kind: manifest.Kind, Role: args[1], Version: version, Arch: "amd64", Plan: strings.Repeat("a", 64),
		Root:      manifest.Root{Hash: strings.Repeat("b", 64), Data: 4096},
		Artifacts: []manifest.Artifact{{Name: filepath.Base(path), Kind: manifest.KindDisk, Size: int64(len(data)), SHA256: fmt.Sprintf("%x", sha256.Sum256(data))}},
	}
	ts.Check(os.WriteFile(strings.TrimSuffix(path, bootspec.ExtDisk)+bootspec.ExtManifest, m.Encode(), 0o600))
}

// seal writes into a manifest the sizes and digests of those artifacts that lie beside it: seal slipway-worker-0.1.0-amd64.json.
func seal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: seal manifest...")
	}
	for _, name := range args {
		file := ts.MkAbs(name)
		text, err := os.ReadFile(file)
		ts.Check(err)
		m, err := manifest.Decode(text)
		ts.Check(err)
		for i, a := range m.Artifacts {
			data, err := os.ReadFile(filepath.Join(filepath.Dir(file), a.Name))
			if os.IsNotExist(err) {
				continue
			}
			ts.Check(err)
			m.Artifacts[i].Size, m.Artifacts[i].SHA256 = int64(len(data)), fmt.Sprintf("%x", sha256.Sum256(data))
		}
		ts.Check(os.WriteFile(file, m.Encode(), 0o600))
	}
}

// kernelImage makes a unified kernel image with an initrd of one file, /init of so many bytes: kernelimage x.efi 1000.
func kernelImage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: kernelimage file bytes")
	}
	size, err := strconv.Atoi(args[1])
	ts.Check(err)
	tree := rootfs.New()
	ts.Check(tree.Add(rootfs.Entry{Path: "init", Type: rootfs.Regular, Mode: 0o755, Content: rootfs.Inline(make([]byte, size))}))
	var initrd bytes.Buffer
	z, err := zstd.NewWriter(&initrd)
	ts.Check(err)
	ts.Check(errors.Join(tree.CPIO(1 << 30)[0].Write(z, 0), z.Close()))
	stub := make([]byte, 1024) // a PE32+ header without sections (Microsoft, "PE Format"): room for the kernel image's
	copy(stub, "MZ")
	stub[60] = 64
	copy(stub[64:], "PE\x00\x00")
	for at, value := range map[int]uint16{84: 240, 88: 0x20b, 88 + 32: 4096, 88 + 36: 512, 88 + 60: 1024} {
		binary.LittleEndian.PutUint16(stub[at:], value)
	}
	image, err := uki.Build(stub, uki.Image{OSRelease: []byte("ID=x"), Cmdline: "quiet", Uname: "6.12.1", Kernel: []byte("kernel"), Initrd: initrd.Bytes()})
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), image, 0o600))
}

// proven puts an image's provenance beside its manifest: proven slipway-worker-0.1.0-amd64.json BUILDER COMMIT.
func proven(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: proven manifest builder commit")
	}
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	m, err := manifest.Decode(data)
	ts.Check(err)
	text, err := provenance.Build{Origin: provenance.Origin{Builder: args[1], Source: &provenance.Source{Commit: args[2]}}, Manifest: m}.Encode()
	ts.Check(err)
	ts.Check(os.WriteFile(strings.TrimSuffix(path, bootspec.ExtManifest)+provenance.Ext, text, 0o600))
}

// webServer serves a folder and puts its URL into a variable: webserver URL folder.
func webServer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: webserver VARIABLE folder")
	}
	server := httptest.NewServer(http.FileServer(http.Dir(ts.MkAbs(args[1]))))
	ts.Defer(server.Close)
	ts.Setenv(args[0], server.URL)
}

// loop makes a loop device of so many MiB and of sectors of so many bytes, and puts its name into a variable: loop DEVICE 16 512.
func loop(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: loop VARIABLE MIB SECTOR")
	}
	file := ts.MkAbs(args[0] + ".backing")
	size, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.WriteFile(file, nil, 0o600))
	ts.Check(os.Truncate(file, size<<20))
	out, err := exec.Command("losetup", "--find", "--show", "--sector-size", args[2], file).Output()
	ts.Check(err)
	device := strings.TrimSpace(string(out))
	ts.Defer(func() {
		_ = exec.Command("swapoff", device).Run() // where a script ended early
		_ = exec.Command("losetup", "--detach", device).Run()
	})
	ts.Setenv(args[0], device)
}

// registry starts docker-registry and puts its address into a variable: registry ADDRESS.
func registry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: registry VARIABLE")
	}
	config := filepath.Join(ts.MkAbs("."), ".registry.yml")
	ts.Check(os.WriteFile(config, []byte("version: 0.1\nstorage: {filesystem: {rootdirectory: "+ts.MkAbs(".registry")+"}}\nhttp: {addr: '127.0.0.1:0'}\n"), 0o600))
	c := exec.Command("docker-registry", "serve", config)
	words, err := c.StderrPipe()
	ts.Check(err)
	ts.Check(c.Start())
	ts.Defer(func() { _, _ = c.Process.Kill(), c.Wait() })
	for lines := bufio.NewScanner(words); lines.Scan(); {
		if _, rest, ok := strings.Cut(lines.Text(), "listening on "); ok {
			go func() { _, _ = io.Copy(io.Discard, words) }()
			ts.Setenv(args[0], strings.FieldsFunc(rest, func(r rune) bool { return r == '"' || r == ' ' })[0])
			return
		}
	}
	ts.Fatalf("docker-registry ended")
}
