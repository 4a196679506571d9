package plan

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/slipway-os/slipway/profiles/role"
)

const head = "apiVersion: slipway.dev/v1alpha1\nkind: Image\n"

// folder is an images folder of path: content pairs, beside the small definition as base.yaml.
func folder(files map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{"base.yaml": {Data: []byte(smallDefinition)}}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

func TestIncludeOverridesAddsAndRemoves(t *testing.T) {
	def, err := LoadDefinition(folder(map[string]string{
		"site/definition.yaml": head + `include: [../base.yaml, more.yaml]
version: 2.0.0
snapshot: 20261101T000000Z
archives:
  - {name: debian, suite: trixie, components: [main, contrib], keys: [test.asc]}
  - {name: debian, suite: trixie-updates, components: [main], keys: [test.asc]}
packages: [extra]
kernelArguments: [debug, quiet]
initrd: {modules: [nvme]}
compression: {level: 19, releaseLevel: 21}
exclude: ["!boot"]
firmwareFiles: [bnx2*]
containerImages:
  - {name: pause, reference: "slipway.local/pause:2", component: pause, entrypoint: [/pause], user: "2:2"}
files:
  - {path: /etc/motd, content: hello, mode: 0640, owner: "0:42"}
  - {path: /etc/tool.conf, source: tool.conf}
  - {path: /etc/localtime, link: /usr/share/zoneinfo/UTC}
  - {path: /opt/data, directory: true, mode: "0750"}
remove:
  omit: [debconf]
  initrd: {components: [ignition]}
`,
		"site/more.yaml": head + "packages: [more]\nfiles: [{path: /etc/motd, content: other}]\nkernelArguments: [debug]\n",
		"site/tool.conf": "setting\n",
	}), "site/definition.yaml", "images")
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintln(def.Version, def.Snapshot, def.Packages, def.Omit, def.Kernel, def.KernelArguments, def.Initrd, def.Compression, def.Exclude, def.FirmwareFiles)
	want := "2.0.0 20261101T000000Z [base more extra] [] linux-image-{arch} [debug quiet] {[loop nvme] []} {zstd 19 4096 21} [boot !boot] [bnx2*]\n"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if len(def.Archives) != 2 || len(def.Archives[0].Components) != 2 || def.Archives[1].Suite != "trixie-updates" {
		t.Errorf("archives %v", def.Archives)
	}
	if len(def.ContainerImages) != 1 || def.ContainerImages[0].User != "2:2" {
		t.Errorf("images %v", def.ContainerImages)
	}
	var files []string
	for _, f := range def.files {
		mode, _ := f.Mode.MarshalText()
		files = append(files, fmt.Sprintf("%s %s %d:%d %q %s", f.Path, mode, f.UID, f.GID, f.Content, f.Link))
	}
	if got, want := strings.Join(files, "\n"), `/etc/localtime 0777 0:0 "" /usr/share/zoneinfo/UTC
/etc/motd 0640 0:42 "hello" 
/etc/tool.conf 0644 0:0 "setting\n" 
/opt/data 0750 0:0 "" `; got != want {
		t.Errorf("files\n%s\nwant\n%s", got, want)
	}
}

const gaps = head + `include: [base.yaml]
absent:
  - {from: usr/bin/a, to: [bash], reason: old}
  - {from: usr/bin/b, to: [perl], reason: nobody calls it}
  - {from: usr/bin/c, to: [perl], reason: nobody calls it}
firmware:
  - {modules: [nic, disk, radio], reason: work without}
  - {modules: [clock], reason: nobody has one}
`

// What may be missing: the later entry for a file or a module counts, and each says where it is from.
func TestIncludeOfWhatMayBeMissing(t *testing.T) {
	files := map[string]string{"gaps.yaml": gaps, "site/d.yaml": head + `include: [../gaps.yaml]
absent:
  - {from: usr/bin/d, to: [tcsh], reason: new}
  - {from: usr/bin/a, to: [bash, zsh], reason: newer}
firmware:
  - {modules: [disk, other], reason: newer}
remove: {absent: [usr/bin/b], firmware: [radio, clock]}
`}
	def, err := LoadDefinition(folder(files), "site/d.yaml", "images")
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(def.Absent, def.Firmware)
	want := "[{usr/bin/a [bash zsh] newer site/d.yaml, absent[1]} {usr/bin/c [perl] nobody calls it gaps.yaml, absent[2]} {usr/bin/d [tcsh] new site/d.yaml, absent[0]}]" +
		" [{[nic] work without gaps.yaml, firmware[0]} {[disk other] newer site/d.yaml, firmware[0]}]"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	files["site/d.yaml"] = head + "include: [../gaps.yaml]\nremove: {absent: [usr/bin/x], firmware: [nic, nic], firmwareFiles: [bnx2]}\nfirmware: [{modules: [a.ko]}]\nabsent: [{from: /x}]\n"
	_, err = LoadDefinition(folder(files), "site/d.yaml", "images")
	if want := `cannot use image definition:
images/site/d.yaml:4:19: remove.absent[0]: no included definition has "usr/bin/x" in its absent (what is removed is what an included definition has)
images/site/d.yaml:4:47: remove.firmware[1]: no included definition has "nic" in its firmware (what is removed is what an included definition has)
images/site/d.yaml:4:69: remove.firmwareFiles[0]: no included definition has "bnx2" in its firmwareFiles (what is removed is what an included definition has)
images/site/d.yaml:5:12: firmware[0].reason: there is no reason (say what the cards do without, or why nobody has them)
images/site/d.yaml:5:23: firmware[0].modules[0]: "a.ko" is not a module's name (the module's name, without path and .ko)
images/site/d.yaml:6:10: absent[0].to: there is nothing (what it refers to, as the bake's message says it)
images/site/d.yaml:6:10: absent[0].reason: there is no reason (say why nobody misses it)
images/site/d.yaml:6:17: absent[0].from: "/x" is not a path without a slash at its beginning (who refers, such as usr/lib/systemd/system/debug-shell.service)`; err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// A document that includes nothing has the digest of its bytes; one that does, another for each change of what it includes.
func TestDefinitionDigest(t *testing.T) {
	digest := func(files map[string]string, name string) string {
		def, err := LoadDefinition(folder(files), name, "")
		if err != nil {
			t.Fatal(err)
		}
		return def.digest
	}
	if got := digest(nil, "base.yaml"); got != sha([]byte(smallDefinition)) {
		t.Errorf("digest %s", got)
	}
	site := head + "include: [base.yaml]\n"
	a := digest(map[string]string{"d.yaml": site}, "d.yaml")
	b := digest(map[string]string{"d.yaml": site, "base.yaml": smallDefinition + "# changed\n"}, "d.yaml")
	if a == b || a == sha([]byte(site)) {
		t.Error("the digest doesn't cover what is included")
	}
}

func TestDefinitionFaultsHavePlaces(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"cycle": {map[string]string{
			"d.yaml":   head + "include: [a/x.yaml]\n",
			"a/x.yaml": head + "include: [y.yaml]\n",
			"a/y.yaml": head + "packages: [b]\ninclude:\n  - ../base.yaml\n  - x.yaml\n",
		}, `images/a/y.yaml:6:5: include[1]: the definitions include each other: images/a/x.yaml:3:11 -> images/a/y.yaml:6:5 -> images/a/x.yaml (one of them must not)`},
		"itself": {map[string]string{"d.yaml": head + "include: [d.yaml]\n"},
			`images/d.yaml:3:11: include[0]: the definitions include each other: images/d.yaml:3:11 -> images/d.yaml (one of them must not)`},
		"out of the folder": {map[string]string{"d.yaml": head + "include: [../d.yaml, /etc/x.yaml]\n"},
			`images/d.yaml:3:11: include[0]: "../d.yaml" is outside of the images folder (keep it in the images folder)
images/d.yaml:3:22: include[1]: "/etc/x.yaml" is not a path relative to this file (keep it in the images folder)`},
		"missing": {map[string]string{"d.yaml": head + "include: [x.yaml]\n"},
			`images/d.yaml:3:11: include[0]: cannot read images/x.yaml: file does not exist (paths are relative to the file that names them, and stay in the images folder)`},
		"no definition": {nil, `images/d.yaml: cannot read images/d.yaml: file does not exist (paths are relative to the file that names them, and stay in the images folder)`},
		"a fault in what is included": {map[string]string{"d.yaml": head + "include: [x.yaml, base.yaml]\n", "x.yaml": head + "pakages: [a]\n"},
			`images/x.yaml:3:1: pakages: unknown field (did you mean packages?)`},
		"removes what is not there": {map[string]string{"d.yaml": head + "include: [base.yaml]\nremove: {packages: [vim], archives: [debian sid], files: [/x]}\n"},
			`images/d.yaml:4:21: remove.packages[0]: no included definition has "vim" in its packages (what is removed is what an included definition has)
images/d.yaml:4:38: remove.archives[0]: no included definition has "debian sid" in its archives (what is removed is what an included definition has)
images/d.yaml:4:59: remove.files[0]: no included definition has "/x" in its files (what is removed is what an included definition has)`},
		"omitted by another": {map[string]string{"d.yaml": head + "include: [base.yaml]\npackages: [debconf]\n"},
			`images/d.yaml:4:12: packages[0]: debconf is in omit too (take it out of one of them)`},
		"everything removed": {map[string]string{"d.yaml": head + "include: [base.yaml]\nremove: {archives: [debian trixie]}\n"},
			`images/d.yaml:1:1: archives: there are no archives (name at least one suite)`},
		"wrong values": {map[string]string{"d.yaml": head + "include: [base.yaml]\nsnapshot: yesterday\ncompression: {level: 30, releaseLevel: 23}\nkernel: a b\n"},
			`images/d.yaml:4:11: snapshot: "yesterday" is not a snapshot's date, such as 20261101T000000Z
images/d.yaml:5:22: compression.level: 30 is no level (1 (fast) to 22 (small))
images/d.yaml:5:40: compression.releaseLevel: 23 is no level (1 (fast) to 22 (small))
images/d.yaml:6:9: kernel: "a b" is not a package name (such as linux-image-{arch})`},
		"files": {map[string]string{"d.yaml": head + `include: [base.yaml]
files:
  - {path: etc/motd, content: a}
  - {path: /run/x, content: a}
  - {path: /etc/a, content: a, link: b}
  - {path: /etc/b, mode: "0999", content: a}
  - {path: /etc/c, owner: root, content: a}
  - {path: /etc/d, source: ../x}
  - {path: /etc/e, source: none}
  - {path: /etc/f, content: a}
  - {path: /etc/f/g, content: a}
  - {path: /bin/h}
`},
			`images/d.yaml:5:12: files[0].path: "etc/motd" is not a clean absolute path (such as /etc/motd)
images/d.yaml:6:12: files[1].path: /run is made anew at each boot: what is there in the image is never seen
images/d.yaml:7:5: files[2]: it says 2 of what the file is (say one of content, source, link and directory)
images/d.yaml:8:26: files[3].mode: "0999" is not a mode in octal, such as 0644
images/d.yaml:9:27: files[4].owner: "root" is not a numeric user and group (UID:GID, such as 0:42)
images/d.yaml:10:28: files[5].source: "../x" is outside of the images folder (paths are relative to the definition's file, and stay in the images folder)
images/d.yaml:11:28: files[6].source: cannot read images/none: file does not exist (paths are relative to the definition's file, and stay in the images folder)
images/d.yaml:13:5: files[8]: /etc/f is a file or link, and /etc/f/g is below it
images/d.yaml:14:5: files[9]: it says 0 of what the file is (say one of content, source, link and directory)
images/d.yaml:14:12: files[9].path: /bin is a link: put it into /usr/bin`},
		"images": {map[string]string{"d.yaml": head + `include: [base.yaml]
containerImages:
  - {name: a, reference: "r.example/a:1", source: "r.example/a:1"}
  - {name: b, reference: "r.example/b:1", archive: b.tar, component: pause}
  - {name: c, reference: "slipway.local/pause:1", archive: c.tar, user: "1:1"}
  - {name: d, reference: "r.example/d:1", archive: ../d.tar}
  - {name: e, reference: "r.example/e:1"}
`},
			`images/d.yaml:5:51: containerImages[0].source: "r.example/a:1" does not name an image of a registry by its digest (such as registry.example.com/team/exporter@sha256:4f2c... (64 digits))
images/d.yaml:6:5: containerImages[1]: an image has a component, an archive or a source (remove all but one)
images/d.yaml:7:26: containerImages[2].reference: "slipway.local/pause:1" is another image's reference (each once)
images/d.yaml:7:73: containerImages[2].user: an image that comes as it is says this itself (remove it)
images/d.yaml:8:52: containerImages[3].archive: "../d.tar" is outside of the images folder (keep it in the images folder)
images/d.yaml:9:5: containerImages[4].component: "" is not a component's name (an image has a component, an archive or a source)
images/d.yaml:9:5: containerImages[4].entrypoint: it does not begin with an absolute path (such as [/coredns])
images/d.yaml:9:5: containerImages[4].user: "" is not a numeric user and group (UID:GID, such as 65532:65532)`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := LoadDefinition(folder(c.files), "d.yaml", "images")
			if err == nil {
				t.Fatal("no error")
			}
			if got := strings.TrimPrefix(err.Error(), "cannot use image definition:\n"); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// A symbolic link does not lead out of the images folder either.
func TestIncludeThroughALink(t *testing.T) {
	s := newSite(t)
	s.write("secret.yaml", smallDefinition)
	s.write("images/definition.yaml", head+"include: [link.yaml]\n")
	if err := os.Symlink("../secret.yaml", filepath.Join(s.dir, "images/link.yaml")); err != nil {
		t.Fatal(err)
	}
	_, _, err := Open(filepath.Join(s.dir, "images"), DefinitionName, t.TempDir(), mirrorChoice(s))
	if err == nil || !strings.Contains(err.Error(), "definition.yaml:3:11: include[0]: cannot read ") || !strings.Contains(err.Error(), "escapes") {
		t.Errorf("%v", err)
	}
}

// A role's file and the definition's: neither wins silently.
func TestFileOfARoleToo(t *testing.T) {
	def, err := LoadDefinition(folder(map[string]string{"d.yaml": head + "include: [base.yaml]\nfiles: [{path: /etc/x, content: a}]\n"}), "d.yaml", "")
	if err != nil {
		t.Fatal(err)
	}
	err = def.checkFiles(&role.Role{Name: "worker", Files: []role.File{{Path: "/etc/x"}}})
	if err == nil || !strings.HasPrefix(err.Error(), "d.yaml:4:9: files[0]: role worker has /etc/x too") {
		t.Errorf("%v", err)
	}
}

func FuzzInclude(f *testing.F) {
	f.Add(head+"include: [base.yaml]\nremove: {packages: [base]}\n", head+"include: [d.yaml]\n")
	f.Add(head+"files: [{path: /a, source: x.yaml, mode: 0644}]\ninclude: [x.yaml]\n", head)
	f.Fuzz(func(t *testing.T, d, x string) {
		def, err := LoadDefinition(folder(map[string]string{"d.yaml": d, "x.yaml": x}), "d.yaml", "")
		if (def == nil) == (err == nil) {
			t.Fatalf("got %v and %v", def, err)
		}
	})
}
