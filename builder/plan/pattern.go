package plan

import (
	"fmt"
	"path"
	"strings"
)

// matches tells whether a list of patterns holds a clean relative path. A pattern matches the path or a folder it is in,
// with * and ? for anything but "/" (path.Match); one that begins with "!" takes back; the last that matches counts.
func matches(patterns []string, name string) bool {
	held := false
	for _, p := range patterns {
		p, back := strings.CutPrefix(p, "!")
		if held == back && matchesOrHolds(p, name) {
			held = !back
		}
	}
	return held
}

// matchesOrHolds compares the pattern with as much of the path as it has elements.
func matchesOrHolds(pattern, name string) bool {
	end := 0
	for n := strings.Count(pattern, "/") + 1; n > 0; n-- {
		i := strings.IndexByte(name[end:], '/')
		if i < 0 {
			if n > 1 {
				return false
			}
			end = len(name)
			break
		}
		end += i + 1
	}
	ok, _ := path.Match(pattern, strings.TrimSuffix(name[:end], "/")) // patterns were checked by checkPattern
	return ok
}

func checkPattern(p string) error {
	p = strings.TrimPrefix(p, "!")
	if p == "" || path.Clean(p) != p || p[0] == '/' || p == "." || strings.HasPrefix(p, "../") || p == ".." {
		return fmt.Errorf("%q is not a clean relative path", p)
	}
	if _, err := path.Match(p, ""); err != nil {
		return fmt.Errorf("%q: %w", p, err)
	}
	return nil
}

// Excludes tells whether a path (usr/share/man/man1/true.1.gz) is left out of the root tree.
func (p *Plan) Excludes(name string) bool { return matches(p.Exclude, name) }

// Prunes tells whether a kernel module, by its path below kernel/ (drivers/gpu/drm/drm.ko.xz), is left out.
func (p *Plan) Prunes(module string) bool { return matches(p.PruneModules, module) }

// FirmwareFolder is where firmware files lie.
const FirmwareFolder = "usr/lib/firmware/"

// TakesFirmware tells whether a file or folder, by its path below usr/lib/firmware (bnx2/bnx2-mips-06-6.2.3.fw), is wanted.
func (p *Plan) TakesFirmware(name string) bool {
	return len(p.FirmwareFiles) == 0 || matches(p.FirmwareFiles, name)
}
