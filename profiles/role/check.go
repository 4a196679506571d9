package role

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/images/document"
)

// Forms of names. Each is what the tools that read them take, or less.
var (
	roleName    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`) // Debian Policy 5.6.1
	imageName   = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)
	moduleName  = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	unitName    = regexp.MustCompile(`^[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?\.(service|socket|target|timer|path|mount|automount|swap|slice)$`) // systemd.unit(5)
	targetName  = regexp.MustCompile(`^[a-z0-9:_.-]+\.target$`)
	sysctlName  = regexp.MustCompile(`^[A-Za-z0-9_-]+([./*][A-Za-z0-9_*-]+)+$`) // sysctl.d(5)
	filePath    = regexp.MustCompile(`^(/[^/\x00-\x1f]+)+$`)
	programName = regexp.MustCompile(`^(/?[A-Za-z0-9_.+-]+)+$`)
	overridable = regexp.MustCompile(filePath.String() + "|" + sysctlName.String())
)

// checker collects the faults of one document.
type checker struct {
	source *document.Source
	faults document.Faults
}

func (c *checker) fault(path, message, hint string) {
	c.faults = append(c.faults, c.source.Fault(path, message, hint))
}

// names checks the form of each name in a list and that none stands there twice.
func (c *checker) names(field string, names []string, form *regexp.Regexp, what string) {
	for i, name := range names {
		at := fmt.Sprintf("%s[%d]", field, i)
		if !form.MatchString(name) || (name[0] == '/' && path.Clean(name) != name) {
			c.fault(at, fmt.Sprintf("%q is not %s", name, what), "")
		} else if slices.Index(names, name) < i {
			c.fault(at, fmt.Sprintf("%q stands here twice", name), "remove one")
		}
	}
}

func (c *checker) sysctls(sysctls map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(sysctls)) {
		at := document.Key("sysctls", name)
		if !sysctlName.MatchString(name) {
			c.fault(at, fmt.Sprintf("%q is not a sysctl", name), "write it like net.ipv4.ip_forward")
		}
		if strings.ContainsAny(sysctls[name], "\n\r\x00") {
			c.fault(at, "the value is longer than a line", "")
		}
	}
}

func (c *checker) links(links map[string]string) {
	for _, at := range slices.Sorted(maps.Keys(links)) {
		if !filePath.MatchString(at) || path.Clean(at) != at {
			c.fault(document.Key("links", at), fmt.Sprintf("%q is not a clean absolute path", at), "")
		} else if problem := Misplaced(at); problem != "" {
			c.fault(document.Key("links", at), problem, "")
		}
		if links[at] == "" || strings.ContainsAny(links[at], "\n\x00") {
			c.fault(document.Key("links", at), "has no target", "write path: target")
		}
	}
}

func (c *checker) runs(runs map[string][]string) {
	for _, program := range slices.Sorted(maps.Keys(runs)) {
		at := document.Key("runs", program)
		if !filePath.MatchString(program) || path.Clean(program) != program {
			c.fault(at, fmt.Sprintf("%q is not a clean absolute path", program), "write it like /usr/bin/kubelet: [mount, umount]")
		}
		if len(runs[program]) == 0 {
			c.fault(at, "it runs nothing", "name the programs, or take it out")
		}
		c.names(at, runs[program], programName, "a program's name or absolute path")
	}
}

func (c *checker) atBoot(list []AtBoot) {
	seen := map[string]bool{}
	for i, b := range list {
		at := document.Index("atBoot", i)
		if strings.TrimSpace(b.By) == "" {
			c.fault(at+".by", "is empty", "say who makes them")
		}
		for k, one := range b.Paths {
			where := document.Index(at+".paths", k)
			if p := strings.TrimSuffix(one, "/"); !filePath.MatchString(p) || path.Clean(p) != p {
				c.fault(where, fmt.Sprintf("%q is not a clean absolute path", one), "a slash at its end makes it stand for all below it")
			} else if seen[one] {
				c.fault(where, fmt.Sprintf("%q stands here twice", one), "remove one")
			}
			seen[one] = true
		}
	}
}

func (c *checker) absent(list []Absence) {
	for i, a := range list {
		at := document.Index("absent", i)
		if !filePath.MatchString("/"+a.From) || path.Clean("/"+a.From) != "/"+a.From {
			c.fault(at+".from", fmt.Sprintf("%q is not a path without a slash at its beginning", a.From), "who refers, such as usr/bin/ldd")
		}
		if len(a.To) == 0 {
			c.fault(at+".to", "is empty", "what it refers to, as the bake's message says it")
		}
		for k, to := range a.To {
			if _, err := path.Match(to, ""); err != nil || to == "" {
				c.fault(document.Index(at+".to", k), fmt.Sprintf("%q is nothing that can be referred to", to), "")
			}
		}
		if strings.TrimSpace(a.Reason) == "" {
			c.fault(at+".reason", "is empty", "say why nobody misses it")
		}
	}
}

// Misplaced says why a file can't be at a path of the image, or nothing.
func Misplaced(at string) string {
	for _, folder := range []string{"/dev", "/proc", "/run", "/sys", "/tmp"} {
		if at == folder || strings.HasPrefix(at, folder+"/") {
			return folder + " is made anew at each boot: what is there in the image is never seen"
		}
	}
	for _, link := range []string{"/bin", "/lib", "/lib64", "/sbin"} {
		if at == link || strings.HasPrefix(at, link+"/") {
			return link + " is a link: put it into /usr" + link
		}
	}
	return ""
}
