// Package checkout tells which commit a folder is of, by asking git (git-rev-parse(1), git-status(1)).
package checkout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Checkout is what git says about a folder.
type Checkout struct {
	Commit string // hexadecimal
	URI    string // of the remote that is named origin: git+https://..., without a password; may be empty
	Dirty  bool   // a file that git knows was changed, or the folder has one that git doesn't know
}

// ErrNone says that a folder is in no checkout.
var ErrNone = errors.New("it is in no git checkout")

var commitID = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)

// Find tells what checkout a folder is in. ErrNone says that it is in none; any other error is git's.
func Find(ctx context.Context, dir string) (Checkout, error) {
	if !below(dir) {
		return Checkout{}, ErrNone
	}
	c, err := find(ctx, dir)
	if err != nil {
		return Checkout{}, fmt.Errorf("cannot tell which commit %s is of: %w", dir, err)
	}
	return c, nil
}

// below tells whether a folder or one above it has a .git.
func below(dir string) bool {
	dir, err := filepath.Abs(dir)
	for err == nil {
		if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
			return true
		}
		if dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return false
}

func find(ctx context.Context, dir string) (Checkout, error) {
	head, err := git(ctx, dir, "rev-parse", "--verify", "HEAD")
	if err != nil {
		return Checkout{}, err
	}
	c := Checkout{Commit: strings.TrimSpace(head)}
	if !commitID.MatchString(c.Commit) {
		return Checkout{}, fmt.Errorf("git says HEAD is %q", c.Commit)
	}
	for _, args := range [][]string{{"--untracked-files=no"}, {"--untracked-files=all", "--", "."}} {
		changed, err := git(ctx, dir, append([]string{"status", "--porcelain"}, args...)...)
		if err != nil {
			return Checkout{}, err
		}
		c.Dirty = c.Dirty || changed != ""
	}
	if remote, err := git(ctx, dir, "config", "--get", "remote.origin.url"); err == nil { // else there is none
		c.URI = uri(strings.TrimSpace(remote))
	}
	return c, nil
}

// uri is a remote as package managers write it (SPDX 2.3, chapter 7.7): of those that others can reach, and without who reaches them.
func uri(remote string) string {
	u, err := url.Parse(remote)
	if err != nil || u.Host == "" && u.Scheme == "" {
		host, path, ok := strings.Cut(remote, ":") // git@example.com:team/images.git
		if _, after, named := strings.Cut(host, "@"); named {
			host = after
		}
		if !ok || host == "" || strings.ContainsAny(host, "/\\") {
			return ""
		}
		u = &url.URL{Scheme: "ssh", Host: host, Path: "/" + strings.TrimPrefix(path, "/")}
	}
	switch u.Scheme {
	case "https", "http", "ssh", "git":
		return (&url.URL{Scheme: "git+" + u.Scheme, Host: u.Host, Path: u.Path}).String()
	}
	return ""
}

func git(ctx context.Context, dir string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
	c.Env = append(os.Environ(), "LC_ALL=C", "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0")
	var words bytes.Buffer
	c.Stderr = &words
	out, err := c.Output()
	if err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(words.String()), "\n")
		return "", fmt.Errorf("git %s: %w (%s)", args[0], err, first)
	}
	return string(out), nil
}
