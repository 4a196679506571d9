package component

import (
	"debug/elf"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// upstream serves a program, and a component that takes it from there.
func upstream(t *testing.T, binary string) (content []byte, fs files, asked *int) {
	t.Helper()
	content, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	asked = new(int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked++
		if r.URL.Path != "/tool" {
			http.NotFound(w, r)
			return
		}
		w.Write(content)
	}))
	t.Cleanup(server.Close)
	spec := "apiVersion: slipway.dev/v1alpha1\nkind: Component\nmetadata: {name: tool}\nversion: v3\nsource: url\ndownloads:\n" +
		"  - {arch: amd64, url: \"%s/tool\", sha256: %s, size: %d, output: /usr/bin/tool, links: [/usr/sbin/tool]}\n"
	return content, files{"components/tool/component.yaml": fmt.Sprintf(spec, server.URL, digest(content), len(content))}, asked
}

func TestDownload(t *testing.T) {
	_, fs, asked := upstream(t, program(t, elf.EM_X86_64, elf.ET_EXEC, elf.PT_LOAD, "code"))
	b := newBench(t, fs)
	t.Setenv("PATH", t.TempDir()) // no Go is needed
	made, err := b.try(t.Context(), "tool", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	if len(made.Files) != 2 || made.Files[0].Path != "/usr/bin/tool" || made.Files[0].Mode != 0o755 || made.Files[1].Link != "../bin/tool" {
		t.Errorf("files are %+v", made.Files)
	}
	if sum, err := fileDigest(made.Files[0].Source); err != nil || sum != made.Files[0].SHA256 {
		t.Errorf("digest is %s, said is %s (%v)", sum, made.Files[0].SHA256, err)
	}
	if _, err := b.try(t.Context(), "tool", "amd64"); err != nil || *asked != 1 {
		t.Errorf("the server was asked %d times (%v)", *asked, err)
	}
	_, err = b.try(t.Context(), "tool", "arm64")
	wantFault(t, err, "no download for this architecture")
}

func TestFaultsOfDownload(t *testing.T) {
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no dynamic program here")
	}
	content, right, _ := upstream(t, program(t, elf.EM_X86_64, elf.ET_EXEC, elf.PT_LOAD, "code"))
	_, dynamic, _ := upstream(t, shell)
	change := func(old, new string) files {
		const name = "components/tool/component.yaml"
		return files{name: strings.Replace(right[name], old, new, 1)}
	}
	for name, c := range map[string]struct {
		files
		want string
	}{
		"other content": {change(digest(content), digest(nil)), "its SHA-256 is " + digest(content)},
		"too long":      {change(fmt.Sprintf("size: %d", len(content)), "size: 10"), "its size is not 10 bytes"},
		"too short":     {change(fmt.Sprintf("size: %d", len(content)), "size: 9999"), "its size is not 9999 bytes"},
		"not there":     {change("/tool\"", "/gone\""), "404"},
		"dynamic":       {dynamic, "not static"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newBench(t, c.files).try(t.Context(), "tool", "amd64")
			wantFault(t, err, c.want)
		})
	}
}

func TestFaultsOfDownloadDefinition(t *testing.T) {
	const wrong = `apiVersion: slipway.dev/v1alpha1
kind: Component
metadata: {name: tool}
version: v3
source: url
builds: [{package: ., output: /usr/bin/a}]
downloads:
  - {arch: mips}
  - {arch: amd64, url: "ftp://x/y", sha256: AB, size: -1, output: usr/bin/b}
  - {arch: amd64, url: "https://x/y", sha256: AB, size: 1, output: /c, links: [/c]}
`
	_, err := parse("component.yaml", []byte(wrong))
	wantFault(t, err, "6:9: builds: source url has none", "8:12: downloads[0].arch", "9:24: downloads[1].url",
		"9:45: downloads[1].sha256", "9:55: downloads[1].size", "9:67: downloads[1].output", "10:80: downloads[2].links[0]: /c is taken")
}
