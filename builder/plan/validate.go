package plan

import (
	"errors"
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
	// pinnedImage is an image of a registry by its digest.
	pinnedImage = regexp.MustCompile(`^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64}$`)
	port        = regexp.MustCompile(`^[0-9]{1,5}/(tcp|udp|sctp)$`)
)

// checkPart checks what can be seen in one document alone, and joins that to the faults of decoding it.
func checkPart(p *part, decoded error) document.Faults {
	c := &checker{source: p.source}
	c.document(&p.document)
	return joined(p.source, decoded, c.faults)
}

// joined are the faults of decoding a document and of checking it.
func joined(source *document.Source, decoded error, found document.Faults) document.Faults {
	var faults document.Faults
	if err := document.Join(decoded, found); err != nil && !errors.As(err, &faults) {
		faults = document.Faults{source.Fault("", err.Error(), "")}
	}
	return faults
}

func (c *checker) document(d *Definition) {
	if d.APIVersion != APIVersion {
		c.fault("apiVersion", "use "+APIVersion, "unknown version %q", d.APIVersion)
	}
	if d.Kind != "Image" {
		c.fault("kind", "use Image", "unknown kind %q", d.Kind)
	}
	c.archives(d.Archives)
	c.each("include", d.Include, "", func(string) error { return nil })
	c.each("packages", d.Packages, "", packageName)
	c.each("omit", d.Omit, "", packageName)
	c.each("tools", d.Tools, "", packageName)
	c.each("kernelArguments", d.KernelArguments, "one argument each", kernelArgument)
	c.each("initrd.modules", d.Initrd.Modules, "the module's name, without path and .ko", match(module, "a module's name"))
	c.each("initrd.components", d.Initrd.Components, "", match(word, "a component's name"))
	c.each("pruneModules", d.PruneModules, "", checkPattern)
	c.each("exclude", d.Exclude, "", checkPattern)
	c.each("firmwareFiles", d.FirmwareFiles, "below usr/lib/firmware, such as bnx2*", checkPattern)
	c.images(d.ContainerImages)
	c.absent(d.Absent)
	c.firmware(d.Firmware)
	c.files(d.Files)
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
	if s == "" || strings.ContainsAny(s, " \t\n\x00") || strings.HasPrefix(s, "slipway.root.") || strings.HasPrefix(s, "slipway.uki.") {
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
	for i, a := range list {
		at := index("archives", i)
		if slices.ContainsFunc(list[:i], func(b Archive) bool { return archiveKey(a) == archiveKey(b) }) {
			c.fault(at, "remove one", "%s is in the list twice", archiveKey(a))
		}
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

func (m *merger) checkVersion() {
	if err := version.Check(m.def.Version); err != nil {
		m.fault(m.at("version"), "such as 0.1.0 or 0.2.0-rc.1", "%v", err)
	}
}

func (m *merger) checkKernel() {
	if !deb.ValidName(strings.ReplaceAll(m.def.Kernel, "{arch}", "amd64")) {
		m.fault(m.at("kernel"), "such as linux-image-{arch}", "%q is not a package name", m.def.Kernel)
	}
}

func (m *merger) checkCompression() {
	z := m.def.Compression
	if z.Algorithm != "zstd" {
		m.fault(m.at("compression.algorithm"), "use zstd", "unknown algorithm %q", z.Algorithm)
	}
	if z.Level < 1 || z.Level > 22 {
		m.fault(m.at("compression.level"), "1 (fast) to 22 (small)", "%d is no level", z.Level)
	}
	if z.ReleaseLevel < 0 || z.ReleaseLevel > 22 {
		m.fault(m.at("compression.releaseLevel"), "1 (fast) to 22 (small)", "%d is no level", z.ReleaseLevel)
	}
	if n := z.BlockSize; n < 4<<10 || n > 1<<20 || n&(n-1) != 0 {
		m.fault(m.at("compression.blockSize"), "4096 to 1048576 bytes", "%d is not a power of two in range", n)
	}
}

// checkReferences checks that no two container images have one reference.
func (m *merger) checkReferences() {
	list := m.def.ContainerImages
	for i, image := range list {
		if slices.ContainsFunc(list[:i], func(o ContainerImage) bool { return o.Reference == image.Reference }) {
			at := m.at(document.Key("containerImages", image.Name))
			at.path += ".reference"
			m.fault(at, "each once", "%q is another image's reference", image.Reference)
		}
	}
}

func (c *checker) images(list []ContainerImage) {
	for i, image := range list {
		at := index("containerImages", i)
		if !word.MatchString(image.Name) || slices.ContainsFunc(list[:i], func(o ContainerImage) bool { return o.Name == image.Name }) {
			c.fault(at+".name", "lower-case letters, digits and -; each once", "%q is not a new name", image.Name)
		}
		if !reference.MatchString(image.Reference) {
			c.fault(at+".reference", "such as slipway.local/pause:0.1.0", "%q is not a reference with a tag", image.Reference)
		}
		c.each(at+".roles", image.Roles, "", match(word, "a role's name"))
		if image.external() {
			c.externalImage(at, image)
		} else {
			c.builtImage(at, image)
		}
	}
}

// builtImage is one that is made of a component.
func (c *checker) builtImage(at string, image ContainerImage) {
	if !word.MatchString(image.Component) {
		c.fault(at+".component", "an image has a component, an archive or a source", "%q is not a component's name", image.Component)
	}
	if len(image.Entrypoint) == 0 || !path.IsAbs(image.Entrypoint[0]) {
		c.fault(at+".entrypoint", "such as [/coredns]", "it does not begin with an absolute path")
	}
	if !numbers.MatchString(image.User) {
		c.fault(at+".user", "UID:GID, such as 65532:65532", "%q is not a numeric user and group", image.User)
	}
	c.each(at+".ports", image.Ports, "such as 53/udp", match(port, "a port"))
}

// externalImage is one that comes as it is.
func (c *checker) externalImage(at string, image ContainerImage) {
	if image.Archive != "" && image.Source != "" || image.Component != "" {
		c.fault(at, "remove all but one", "an image has a component, an archive or a source")
	}
	if image.Source != "" && !pinnedImage.MatchString(image.Source) {
		c.fault(at+".source", "such as registry.example.com/team/exporter@sha256:4f2c... (64 digits)", "%q does not name an image of a registry by its digest", image.Source)
	}
	for field, given := range map[string]bool{"entrypoint": image.Entrypoint != nil, "args": image.Args != nil, "user": image.User != "", "ports": image.Ports != nil} {
		if given {
			c.fault(at+"."+field, "remove it", "an image that comes as it is says this itself")
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
