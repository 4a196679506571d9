package addons

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestReadManifestsInOrder(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	write(t, first, "20-b.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\n")
	write(t, first, "10-a.yaml", "---\n# nothing\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a1}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a2}\n")
	write(t, first, "notes.txt", "not a manifest")
	write(t, second, "05-c.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n")
	manifests, err := read([]string{first, filepath.Join(first, "missing"), second})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range manifests {
		names = append(names, m.object.GetName())
	}
	if got := strings.Join(names, " "); got != "a1 a2 b c" {
		t.Errorf("manifests are %s", got)
	}
}

func TestFaultsOfManifests(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"not YAML": {"a: [", "bad.yaml, document 1"},
		"no name":  {"apiVersion: v1\nkind: ConfigMap\n", "metadata.name must be set"},
		"no kind":  {"apiVersion: v1\nmetadata: {name: a}\n---\n", "document 1"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "bad.yaml", c.content)
			_, err := read([]string{dir})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestFingerprintSeesChanges(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", "a: 1\n")
	seen := map[string]bool{fingerprint([]string{dir}): true}
	for what, change := range map[string]func(){
		"added":   func() { write(t, dir, "b.yaml", "b: 1\n") },
		"longer":  func() { write(t, dir, "a.yaml", "a: 1000\n") },
		"removed": func() { os.Remove(filepath.Join(dir, "a.yaml")) },
	} {
		change()
		now := fingerprint([]string{dir})
		if seen[now] {
			t.Errorf("a file was %s, and nothing is seen", what)
		}
		seen[now] = true
	}
}
