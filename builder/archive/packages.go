package archive

import (
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/slipway-os/slipway/builder/deb"
)

// readPackages reads a package list and calls add for each package. The list is bounded by who gives the reader.
func readPackages(r io.Reader, archive string, add func(Package) error) error {
	paragraphs := deb.NewReader(r)
	for {
		p, err := paragraphs.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		pkg, err := readPackage(p, archive)
		if err != nil {
			return fmt.Errorf("package %q at line %d: %w", p.Get("Package"), p.Line, err)
		}
		if err := add(pkg); err != nil {
			return err
		}
	}
}

// readPackage copies what it keeps: a paragraph's values share one large string.
func readPackage(p deb.Paragraph, archive string) (Package, error) {
	var pkg Package
	var size string
	for _, f := range p.Fields {
		switch strings.ToLower(f.Name) {
		case "package":
			pkg.Name = strings.Clone(f.Value)
		case "version":
			pkg.Version = strings.Clone(f.Value)
		case "architecture":
			pkg.Arch = strings.Clone(f.Value)
		case "filename":
			pkg.File.Path = archive + "/" + f.Value
		case "size":
			size = f.Value
		case "sha256":
			pkg.File.SHA256 = strings.Clone(f.Value)
		case "pre-depends":
			pkg.PreDepends = strings.Clone(f.Value)
		case "depends":
			pkg.Depends = strings.Clone(f.Value)
		case "conflicts":
			pkg.Conflicts = strings.Clone(f.Value)
		case "breaks":
			pkg.Breaks = strings.Clone(f.Value)
		case "provides":
			pkg.Provides = strings.Clone(f.Value)
		}
	}
	return pkg, pkg.check(size)
}

// maxDeb bounds a package file in bytes.
const maxDeb = 4 << 30

func (p *Package) check(size string) error {
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n <= 0 || n > maxDeb {
		return fmt.Errorf("bad Size %q", size)
	}
	p.File.Size = n
	switch {
	case !deb.ValidName(p.Name):
		return fmt.Errorf("bad name")
	case p.Version == "" || strings.ContainsAny(p.Version, " \n"):
		return fmt.Errorf("bad Version %.60q", p.Version)
	case !deb.ValidName(p.Arch):
		return fmt.Errorf("bad Architecture %.60q", p.Arch)
	case !isDigest(p.File.SHA256):
		return fmt.Errorf("bad SHA256 %.80q", p.File.SHA256)
	case !safePath(p.File.Path):
		return fmt.Errorf("bad Filename %.200q", p.File.Path)
	}
	return nil
}

// safePath: a clean relative path of printable characters, without anything a URL would read otherwise.
func safePath(p string) bool {
	if p == "" || len(p) > 1024 || path.Clean(p) != p || p[0] == '/' || strings.HasPrefix(p, "../") || p == ".." {
		return false
	}
	return !strings.ContainsFunc(p, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`?#%\`, c) })
}
