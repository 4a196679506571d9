package checkout

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// repository is a checkout with one commit and a folder images in it.
func repository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("GIT_CONFIG_GLOBAL", os.DevNull)
	t.Setenv("GIT_CONFIG_SYSTEM", os.DevNull)
	put(t, filepath.Join(dir, "images", "definition.yaml"), "x")
	put(t, filepath.Join(dir, "README"), "x")
	run(t, dir, "init", "-q")
	run(t, dir, "add", ".")
	run(t, dir, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "-m", "first")
	return dir
}

func run(t *testing.T, dir string, args ...string) {
	t.Helper()
	if out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

func put(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func find1(t *testing.T, dir string) Checkout {
	t.Helper()
	c, err := Find(context.Background(), filepath.Join(dir, "images"))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Commit) != 40 {
		t.Errorf("commit %q", c.Commit)
	}
	return c
}

func TestFind(t *testing.T) {
	dir := repository(t)
	if c := find1(t, dir); c.Dirty || c.URI != "" {
		t.Errorf("%+v", c)
	}
	run(t, dir, "remote", "add", "origin", "https://robot:secret@example.com/team/images.git")
	put(t, filepath.Join(dir, "out"), "what git doesn't know, elsewhere")
	if c := find1(t, dir); c.Dirty || c.URI != "git+https://example.com/team/images.git" {
		t.Errorf("%+v", c)
	}
	put(t, filepath.Join(dir, "images", "new"), "x")
	if c := find1(t, dir); !c.Dirty {
		t.Error("a new file beside the definition, and it is not dirty")
	}
	if err := os.Remove(filepath.Join(dir, "images", "new")); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "README"), "changed")
	if c := find1(t, dir); !c.Dirty {
		t.Error("a file was changed, and it is not dirty")
	}
}

func TestNone(t *testing.T) {
	if _, err := Find(context.Background(), t.TempDir()); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
	dir := t.TempDir()
	put(t, filepath.Join(dir, ".git"), "gitdir: nowhere")
	if _, err := Find(context.Background(), dir); err == nil || errors.Is(err, ErrNone) {
		t.Error(err)
	}
}

func TestURI(t *testing.T) {
	for remote, want := range map[string]string{
		"https://user:secret@example.com/a/b.git": "git+https://example.com/a/b.git",
		"git@example.com:a/b.git":                 "git+ssh://example.com/a/b.git",
		"ssh://git@example.com:2222/a/b.git":      "git+ssh://example.com:2222/a/b.git",
		"/srv/git/b.git":                          "",
		"../b.git":                                "",
		"file:///srv/git/b.git":                   "",
		"":                                        "",
	} {
		if got := uri(remote); got != want {
			t.Errorf("%s: %q, want %q", remote, got, want)
		}
	}
}
