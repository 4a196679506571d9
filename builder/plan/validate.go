package plan

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/deb"
	"github.com/slipway-os/slipway/images/document"
	"github.com/slipway-os/slipway/images/version"
)

// checker collects what is wrong in a definition that could be decoded.
type checker struct {
	source *document.Source
	faults document.Faults
}

func (c *checker) fault(path, hint, format string, args ...any) {
	c.faults = append(c.faults, c.source.Fault(path, fmt.Sprintf(format, args...), hint))
}

var (
	word      = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)
	module    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)
	suiteName = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]*$`)
	reference = regexp.MustCompile(`^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	numbers   = regexp.MustCompile(`^[0-9]{1,9}:[0-9]{1,9}$`)
	port      = regexp.MustCompile(`^[0-9]{1,5}/(tcp|udp|sctp)$`)
)

func (c *checker) definition(d *Definition) {
	if d.APIVersion != APIVersion {
		c.fault("apiVersion", "use "+APIVersion, "unknown version %q", d.APIVersion)
	}
	if d.Kind != "Image" {
		c.fault("kind", "use Image", "unknown kind %q", d.Kind)
	}
	if err := version.Check(d.Version); err != nil {
		c.fault("version", "such as 0.1.0 or 0.2.0-rc.1", "%v", err)
	}
	c.archives(d.Archives)
	c.each("packages", d.Packages, "", packageName)
	c.each("omit", d.Omit, "", packageName)
	c.each("tools", d.Tools, "", packageName)
	for i, name := range d.Packages {
		if slices.Contains(d.Omit, name) {
			c.fault(index("packages", i), "take it out of one of them", "%s is in omit too", name)
		}
	}
	if !deb.ValidName(strings.ReplaceAll(d.Kernel, "{arch}", "amd64")) {
		c.fault("kernel", "such as linux-image-{arch}", "%q is not a package name", d.Kernel)
	}
	c.each("kernelArguments", d.KernelArguments, "one argument each", kernelArgument)
	c.each("initrd.modules", d.Initrd.Modules, "the module's name, without path and .ko", match(module, "a module's name"))
	c.each("initrd.components", d.Initrd.Components, "", match(word, "a component's name"))
	c.each("pruneModules", d.PruneModules, "", checkPattern)
	c.each("exclude", d.Exclude, "", checkPattern)
	c.compression(d.Compression)
	c.images(d.ContainerImages)
	c.absent(d.Absent)
	c.firmware(d.Firmware)
}

func index(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }

// each checks every value of a list, and that none is there twice.
func (c *checker) each(list string, values []string, hint string, check func(string) error) {
	for i, v := range values {
		if err := check(v); err != nil {
			c.fault(index(list, i), hint, "%v", err)
		} else if slices.Contains(values[:i], v) {
			c.fault(index(list, i), "", "%q is in the list twice", v)
		}
	}
}

func packageName(s string) error {
	if !deb.ValidName(s) {
		return fmt.Errorf("%q is not a package name", s)
	}
	return nil
}

func kernelArgument(s string) error {
	if s == "" || strings.ContainsAny(s, " \t\n\x00") || strings.HasPrefix(s, "slipway.root.") {
		return fmt.Errorf("%q cannot be a kernel argument here", s)
	}
	return nil
}

func match(re *regexp.Regexp, what string) func(string) error {
	return func(s string) error {
		if !re.MatchString(s) {
			return fmt.Errorf("%q is not %s", s, what)
		}
		return nil
	}
}

func (c *checker) archives(list []Archive) {
	if len(list) == 0 {
		c.fault("archives", "name at least one suite", "there are no archives")
	}
	for i, a := range list {
		at := index("archives", i)
		if !word.MatchString(a.Name) {
			c.fault(at+".name", "such as debian", "%q is not an archive's name", a.Name)
		}
		if !suiteName.MatchString(a.Suite) {
			c.fault(at+".suite", "such as trixie", "%q is not a suite", a.Suite)
		}
		if len(a.Components) == 0 {
			c.fault(at+".components", "such as [main]", "there are no components")
		}
		c.each(at+".components", a.Components, "", match(word, "a component"))
		if len(a.Keys) == 0 {
			c.fault(at+".keys", "name files in images/"+KeysName, "there are no keys: nothing could be trusted")
		}
		c.each(at+".keys", a.Keys, "a file in images/"+KeysName, keyFile)
	}
}

func keyFile(s string) error {
	if path.Base(s) != s || path.Ext(s) != ".asc" {
		return fmt.Errorf("%q is not a key's file name", s)
	}
	return nil
}

func (c *checker) compression(z Compression) {
	if z.Algorithm != "zstd" {
		c.fault("compression.algorithm", "use zstd", "unknown algorithm %q", z.Algorithm)
	}
	if z.Level < 1 || z.Level > 22 {
		c.fault("compression.level", "1 (fast) to 22 (small)", "%d is no level", z.Level)
	}
	if z.ReleaseLevel < 0 || z.ReleaseLevel > 22 {
		c.fault("compression.releaseLevel", "1 (fast) to 22 (small)", "%d is no level", z.ReleaseLevel)
	}
	if n := z.BlockSize; n < 4<<10 || n > 1<<20 || n&(n-1) != 0 {
		c.fault("compression.blockSize", "4096 to 1048576 bytes", "%d is not a power of two in range", n)
	}
}

func (c *checker) images(list []ContainerImage) {
	var names, references []string
	for i, image := range list {
		at := index("containerImages", i)
		names, references = append(names, image.Name), append(references, image.Reference)
		if !word.MatchString(image.Component) {
			c.fault(at+".component", "", "%q is not a component's name", image.Component)
		}
		if len(image.Entrypoint) == 0 || !path.IsAbs(image.Entrypoint[0]) {
			c.fault(at+".entrypoint", "such as [/coredns]", "it does not begin with an absolute path")
		}
		if !numbers.MatchString(image.User) {
			c.fault(at+".user", "UID:GID, such as 65532:65532", "%q is not a numeric user and group", image.User)
		}
		c.each(at+".ports", image.Ports, "such as 53/udp", match(port, "a port"))
	}
	for i := range list {
		at := index("containerImages", i)
		if !word.MatchString(names[i]) || slices.Contains(names[:i], names[i]) {
			c.fault(at+".name", "lower-case letters, digits and -; each once", "%q is not a new name", names[i])
		}
		if !reference.MatchString(references[i]) || slices.Contains(references[:i], references[i]) {
			c.fault(at+".reference", "such as slipway.local/pause:0.1.0; each once", "%q is not a new reference with a tag", references[i])
		}
	}
}

func (c *checker) absent(list []Absence) {
	for i, a := range list {
		at := index("absent", i)
		if path.Clean("/"+a.From) != "/"+a.From || a.From == "" || checkPattern(a.From) != nil {
			c.fault(at+".from", "who refers, such as usr/lib/systemd/system/debug-shell.service", "%q is not a path without a slash at its beginning", a.From)
		}
		c.each(at+".to", a.To, "what it refers to, as the bake's message says it", checkAbsent)
		if len(a.To) == 0 {
			c.fault(at+".to", "what it refers to, as the bake's message says it", "there is nothing")
		}
		if strings.TrimSpace(a.Reason) == "" {
			c.fault(at+".reason", "say why nobody misses it", "there is no reason")
		}
		if slices.ContainsFunc(list[:i], func(b Absence) bool { return a.From == b.From }) {
			c.fault(at+".from", "one entry for each file", "%s is in the list twice", a.From)
		}
	}
}

func checkAbsent(to string) error {
	if _, err := path.Match(to, ""); err != nil || to == "" {
		return fmt.Errorf("%q is nothing that can be referred to", to)
	}
	return nil
}

func (c *checker) firmware(list []Firmware) {
	var before []string
	for i, f := range list {
		at := index("firmware", i)
		c.each(at+".modules", f.Modules, "the module's name, without path and .ko", match(module, "a module's name"))
		if len(f.Modules) == 0 {
			c.fault(at+".modules", "name the drivers", "there are no modules")
		}
		for k, m := range f.Modules {
			if slices.Contains(before, m) {
				c.fault(index(at+".modules", k), "", "%s is in another entry too", m)
			}
		}
		before = append(before, f.Modules...)
		if strings.TrimSpace(f.Reason) == "" {
			c.fault(at+".reason", "say what the cards do without, or why nobody has them", "there is no reason")
		}
	}
}
