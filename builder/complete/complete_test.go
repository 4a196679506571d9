package complete

import (
	"debug/elf"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/kmod"
	"github.com/slipway-os/slipway/builder/rootfs"
)

// image is one that lacks nothing, to be spoiled.
type image struct {
	t *testing.T
	Image
}

func put(t *testing.T, tree *rootfs.Tree, e rootfs.Entry) {
	t.Helper()
	if e.Origin == "" {
		e.Origin = "package demo"
	}
	if err := tree.Replace(e); err != nil {
		t.Fatal(err)
	}
}

// file puts a file into the root tree; programs have a mode with x.
func (i *image) file(path, content string) { i.with(path, content, 0o644) }

func (i *image) program(path, content string) { i.with(path, content, 0o755) }

func (i *image) with(path, content string, mode uint32) {
	i.t.Helper()
	put(i.t, i.Root, rootfs.Entry{Path: path, Type: rootfs.Regular, Mode: mode, Content: rootfs.Inline([]byte(content))})
}

func (i *image) link(path, to string) {
	i.t.Helper()
	put(i.t, i.Root, rootfs.Entry{Path: path, Type: rootfs.Symlink, Link: to})
}

func (i *image) unit(name, content string) {
	i.t.Helper()
	i.file("usr/lib/systemd/system/"+name, content)
}

func newImage(t *testing.T) *image {
	i := &image{t, Image{Arch: "amd64", Root: rootfs.New(), Initrd: rootfs.New(), Target: "slipway-worker.target", ModuleFolder: "usr/lib/modules/6.12"}}
	for _, folder := range []string{"usr/lib64", "usr/lib", "usr/bin", "usr/sbin"} {
		put(t, i.Root, rootfs.Entry{Path: folder, Type: rootfs.Directory, Mode: 0o755})
	}
	for _, l := range [][2]string{{"lib64", "usr/lib64"}, {"lib", "usr/lib"}, {"bin", "usr/bin"}, {"sbin", "usr/sbin"}, {"etc/mtab", "../proc/self/mounts"}, {"var/run", "/run"}} {
		i.link(l[0], l[1])
	}
	i.file("etc/passwd", "root:x:0:0::/root:/bin/sh\nmessagebus:x:996:996::/:/bin/false\n")
	i.file("etc/group", "root:x:0:\nmessagebus:x:996:\ndisk:x:6:\n")
	i.program("usr/lib64/ld-linux-x86-64.so.2", binaryFile{soname: "ld-linux-x86-64.so.2"}.String())
	i.with("usr/lib/x86_64-linux-gnu/libc.so.6", binaryFile{soname: "libc.so.6", needed: []string{"ld-linux-x86-64.so.2"}, defines: []string{"GLIBC_2.34", "GLIBC_2.41"}}.String(), 0o755)
	i.link("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "../../lib64/ld-linux-x86-64.so.2")
	i.program("usr/lib/systemd/systemd", binaryFile{interpreter: loader, needed: []string{"libc.so.6"}, wants: [][2]string{{"libc.so.6", "GLIBC_2.34"}}}.String())
	i.unit("slipway-worker.target", "[Unit]\nDescription=a worker\nWants=absent.service\nAfter=absent.service\n")
	i.link("etc/systemd/system/default.target", "/usr/lib/systemd/system/slipway-worker.target")
	put(t, i.Initrd, rootfs.Entry{Path: "init", Type: rootfs.Regular, Mode: 0o755, Origin: "component agent", Content: rootfs.Inline([]byte(binaryFile{}.String()))})
	coredns := rootfs.New()
	put(t, coredns, rootfs.Entry{Path: "coredns", Type: rootfs.Regular, Mode: 0o755, Origin: "component coredns", Content: rootfs.Inline([]byte(binaryFile{}.String()))})
	i.Containers = []Container{{Name: "coredns", Reference: "slipway.local/coredns:1", Files: coredns}}
	return i
}

// faults are the image's, one a line.
func (i *image) faults() []string {
	i.t.Helper()
	_, err := Check(i.Image)
	if err == nil {
		return nil
	}
	var faults Faults
	if !errors.As(err, &faults) {
		i.t.Fatal(err)
	}
	var lines []string
	for _, f := range faults {
		lines = append(lines, f.String())
	}
	return lines
}

// spoiled is one way to spoil an image, and the one fault that must follow.
type spoiled struct {
	spoil func(*image)
	want  string // empty: nothing is wrong
}

// try spoils an image in each way.
func try(t *testing.T, cases map[string]spoiled) {
	t.Helper()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			i := newImage(t)
			c.spoil(i)
			got := strings.Join(i.faults(), "\n")
			if got != c.want {
				t.Errorf("faults:\n%s\nwant:\n%s", got, c.want)
			}
		})
	}
}

func TestWholeImage(t *testing.T) {
	p, err := Check(newImage(t).Image)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(p.Proven)
	if got != "map[interpreters:1 libraries:2 links:8 processors:5 units:2]" || len(p.Absent) != 0 {
		t.Errorf("proven: %s, absent: %v", got, p.Absent)
	}
}

func TestPrograms(t *testing.T) {
	tool := func(b binaryFile) func(*image) {
		b.interpreter = loader
		return func(i *image) { i.program("usr/bin/tool", b.String()) }
	}
	library := func(i *image, path string, b binaryFile) { i.file(path, b.String()) }
	lost := "/usr/bin/tool (package demo): is linked to libx.so.1, which "
	try(t, map[string]spoiled{
		"library": {tool(binaryFile{needed: []string{"libc.so.6", "libx.so.1"}}), lost + "is not in the image"},
		"library of a library": {func(i *image) {
			library(i, "usr/lib/x86_64-linux-gnu/liby.so.1", binaryFile{needed: []string{"libx.so.1"}})
			tool(binaryFile{needed: []string{"liby.so.1"}})(i)
		}, "/usr/lib/x86_64-linux-gnu/liby.so.1 (package demo): is linked to libx.so.1, which is not in the image"},
		"library elsewhere": {func(i *image) {
			library(i, "opt/lib/libx.so.1", binaryFile{})
			tool(binaryFile{needed: []string{"libx.so.1"}})(i)
		}, lost + "is in the image as /opt/lib/libx.so.1, where ld.so doesn't look (/lib/x86_64-linux-gnu, /usr/lib/x86_64-linux-gnu, /lib, /usr/lib)"},
		"library only for newer processors": {func(i *image) {
			library(i, "usr/lib/x86_64-linux-gnu/glibc-hwcaps/x86-64-v3/libx.so.1", binaryFile{})
			tool(binaryFile{needed: []string{"libx.so.1"}})(i)
		}, lost + "is in the image as /usr/lib/x86_64-linux-gnu/glibc-hwcaps/x86-64-v3/libx.so.1, where ld.so doesn't look (/lib/x86_64-linux-gnu, /usr/lib/x86_64-linux-gnu, /lib, /usr/lib)"},
		"ld.so.conf without a cache": {func(i *image) {
			library(i, "opt/lib/libx.so.1", binaryFile{})
			i.file("etc/ld.so.conf", "/opt/lib\n")
			tool(binaryFile{needed: []string{"libx.so.1"}})(i)
		}, lost + "is in the image as /opt/lib/libx.so.1, where ld.so doesn't look (/lib/x86_64-linux-gnu, /usr/lib/x86_64-linux-gnu, /lib, /usr/lib)"},
		"ld.so.conf with a cache": {func(i *image) {
			library(i, "opt/lib/libx.so.1", binaryFile{})
			i.file("etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n")
			i.file("etc/ld.so.conf.d/opt.conf", "# ours\n/opt/lib\n")
			i.file("etc/ld.so.cache", "cache")
			tool(binaryFile{needed: []string{"libx.so.1"}})(i)
		}, ""},
		"dangling library": {func(i *image) {
			i.link("usr/lib/libx.so.1", "libx.so.1.2")
			tool(binaryFile{needed: []string{"libx.so.1"}})(i)
		}, lost + "is only a link that leads nowhere: /usr/lib/libx.so.1 -> libx.so.1.2\n" +
			"/usr/lib/libx.so.1 (package demo): is a link to libx.so.1.2, which is not in the image"},
		"runpath with $ORIGIN": {func(i *image) {
			library(i, "usr/lib/tool/libx.so.1", binaryFile{})
			tool(binaryFile{needed: []string{"libx.so.1"}, runpath: "$ORIGIN/../lib/tool"})(i)
		}, ""},
		"runpath is not for the libraries' libraries": {func(i *image) {
			library(i, "usr/lib/tool/liby.so.1", binaryFile{needed: []string{"libx.so.1"}})
			library(i, "usr/lib/tool/libx.so.1", binaryFile{})
			tool(binaryFile{needed: []string{"liby.so.1"}, runpath: "/usr/lib/tool"})(i)
		}, "/usr/lib/tool/liby.so.1 (package demo): is linked to libx.so.1, which is in the image as /usr/lib/tool/libx.so.1, where ld.so doesn't look (/lib/x86_64-linux-gnu, /usr/lib/x86_64-linux-gnu, /lib, /usr/lib)"},
		"rpath is": {func(i *image) {
			library(i, "usr/lib/tool/liby.so.1", binaryFile{needed: []string{"libx.so.1"}})
			library(i, "usr/lib/tool/libx.so.1", binaryFile{})
			tool(binaryFile{needed: []string{"liby.so.1"}, rpath: "/usr/lib/tool"})(i)
		}, ""},
		"what is loaded is not looked for again": {func(i *image) {
			library(i, "usr/lib/tool/libx.so.1", binaryFile{soname: "libx.so.1"})
			library(i, "usr/lib/liby.so.1", binaryFile{needed: []string{"libx.so.1"}})
			tool(binaryFile{needed: []string{"libx.so.1", "liby.so.1"}, runpath: "/usr/lib/tool"})(i)
		}, ""},
		"version of a library": {tool(binaryFile{needed: []string{"libc.so.6"}, wants: [][2]string{{"libc.so.6", "GLIBC_2.42"}}}),
			"/usr/bin/tool (package demo): is linked to libc.so.6 with GLIBC_2.42, which /usr/lib/x86_64-linux-gnu/libc.so.6 (package demo) has not"},
		"library that it loads by itself": {tool(binaryFile{dlopen: `[{"soname":["libx.so.1"],"priority":"required"},{"soname":["libz.so.1"],"priority":"recommended"}]`}), lost + "is not in the image"},
		"loader": {func(i *image) {
			i.program("usr/bin/tool", binaryFile{interpreter: "/lib/ld-musl-x86_64.so.1"}.String())
		},
			"/usr/bin/tool (package demo): is started by /lib/ld-musl-x86_64.so.1, which is not in the image"},
		"processor": {func(i *image) { i.program("usr/bin/tool", binaryFile{machine: elf.EM_AARCH64}.String()) },
			"/usr/bin/tool (package demo): is a program or library for EM_AARCH64, which the image's processors (amd64) don't run"},
		"processor of a kernel module": {func(i *image) {
			i.file("usr/lib/modules/6.12/kernel/x.ko", binaryFile{machine: elf.EM_AARCH64}.String())
		},
			"/usr/lib/modules/6.12/kernel/x.ko (package demo): is a program or library for EM_AARCH64, which the image's processors (amd64) don't run"},
		"firmware is for other processors": {func(i *image) { i.file("usr/lib/firmware/x.elf", binaryFile{machine: elf.EM_ARM}.String()) }, ""},
		"BPF":                              {func(i *image) { i.file("usr/lib/bpf/x.o", binaryFile{machine: elf.EM_BPF}.String()) }, ""},
		"container image": {func(i *image) {
			put(i.t, i.Containers[0].Files, rootfs.Entry{Path: "coredns", Type: rootfs.Regular, Mode: 0o755, Origin: "component coredns",
				Content: rootfs.Inline([]byte(binaryFile{interpreter: loader}.String()))})
		}, "container image coredns: /coredns (component coredns): is started by /lib64/ld-linux-x86-64.so.2, which is not in the image"},
		"initrd": {func(i *image) {
			put(i.t, i.Initrd, rootfs.Entry{Path: "init", Type: rootfs.Regular, Mode: 0o755, Origin: "component agent",
				Content: rootfs.Inline([]byte(binaryFile{needed: []string{"libc.so.6"}}.String()))})
		}, "initrd: /init (component agent): is linked to libc.so.6, which is not in the image"},
	})
}

func TestScripts(t *testing.T) {
	script := func(line string) func(*image) {
		return func(i *image) { i.program("usr/bin/tool", line+"\nexit\n") }
	}
	fault := func(to, why string) string {
		return "/usr/bin/tool (package demo): is a script for " + to + ", which " + why
	}
	try(t, map[string]spoiled{
		"interpreter":          {script("#!/bin/sh -e"), fault("/bin/sh", "is not in the image")},
		"interpreter is there": {script("#! /usr/lib/systemd/systemd"), ""},
		"a folder":             {script("#!/usr/bin"), fault("/usr/bin", "is a directory in the image")},
		"relative":             {script("#!sh"), fault("sh", "is no absolute path")},
		"env itself":           {script("#!/usr/bin/env tool"), fault("/usr/bin/env", "is not in the image")},
		"env": {func(i *image) { i.program("usr/bin/env", binaryFile{}.String()); script("#!/usr/bin/env python3")(i) },
			fault("python3", "is not in the image (looked in /usr/local/sbin, /usr/local/bin, /usr/sbin, /usr/bin)")},
		"env -S": {func(i *image) {
			i.program("usr/bin/env", binaryFile{}.String())
			script("#!/usr/bin/env -S A=b python3 -u")(i)
		},
			fault("python3", "is not in the image (looked in /usr/local/sbin, /usr/local/bin, /usr/sbin, /usr/bin)")},
		"env without -S takes all as one": {func(i *image) {
			i.program("usr/bin/env", binaryFile{}.String())
			i.program("usr/bin/python3", binaryFile{}.String())
			script("#!/usr/bin/env python3 -u")(i)
		}, fault("python3 -u", "is not in the image (looked in /usr/local/sbin, /usr/local/bin, /usr/sbin, /usr/bin)")},
		"without permission it is no script": {func(i *image) { i.file("usr/share/tool", "#!/bin/sh\n") }, ""},
		"interpreter without permission": {func(i *image) { i.file("usr/bin/sh", "x"); script("#!/bin/sh")(i) },
			fault("/bin/sh", "is in the image without permission to execute it")},
	})
}

func TestLinks(t *testing.T) {
	try(t, map[string]spoiled{
		"nowhere":     {func(i *image) { i.link("usr/bin/awk", "mawk") }, "/usr/bin/awk (package demo): is a link to mawk, which is not in the image"},
		"in a circle": {func(i *image) { i.link("a", "b"); i.link("b", "a") }, "/a (package demo): is a link to b, which leads back to itself\n/b (package demo): is a link to a, which leads back to itself"},
		"made at boot": {func(i *image) {
			i.link("etc/x", "../run/x")
			i.link("etc/y", "/dev/null")
			i.link("etc/z", "../var/run/z")
		}, ""},
		"root directory": {func(i *image) { i.link("usr/x", "..") }, ""},
		"declared": {func(i *image) {
			i.link("etc/resolv.conf", "agent/resolv.conf")
			i.AtBoot = []AtBoot{{"the agent", []string{"/etc/agent/"}}}
		}, ""},
		"initrd": {func(i *image) {
			put(i.t, i.Initrd, rootfs.Entry{Path: "bin", Type: rootfs.Symlink, Link: "usr/bin", Origin: "base"})
		},
			"initrd: /bin (base): is a link to usr/bin, which is not in the image"},
	})
}

func TestAbsences(t *testing.T) {
	i := newImage(t)
	i.link("usr/bin/awk", "mawk")
	i.Absent = []Absence{{From: "usr/bin/a*", To: []string{"mawk"}, Reason: "nobody calls it", By: "definition.yaml, absent[0]"}}
	p, err := Check(i.Image)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(p.Absent); got != "[/usr/bin/awk (package demo): is a link to mawk]" || p.Absent[0].Reason != "nobody calls it" {
		t.Errorf("absent: %s, because %q", got, p.Absent[0].Reason)
	}
	i.program("usr/bin/mawk", binaryFile{}.String()) // a role may add what the definition does without
	if got := i.faults(); got != nil {
		t.Errorf("not absent any more: %v", got)
	}
	i.Root.Remove("usr/bin/awk")
	if got := fmt.Sprint(i.faults()); got != "[/usr/bin/a*: is allowed (definition.yaml, absent[0]) to lack mawk, which it doesn't refer to]" {
		t.Errorf("nothing refers to it any more: %s", got)
	}
}

func TestFirmware(t *testing.T) {
	nic := kmod.Module{Path: "kernel/nic.ko", Name: "nic", Firmware: []string{"nic/a.fw", "nic/b.fw", "nic/c-*.fw"}}
	with := func(names ...string) func(*image) {
		return func(i *image) {
			i.Modules = []kmod.Module{nic}
			for _, n := range names {
				i.file("usr/lib/firmware/nic/"+n, "FIRMWARE")
			}
		}
	}
	allow := func(f func(*image)) func(*image) {
		return func(i *image) {
			f(i)
			i.Firmware = []Firmware{{Modules: []string{"nic", "other-driver"}, Reason: "works without", By: "definition.yaml, firmware[0]"}}
		}
	}
	at := "/usr/lib/modules/6.12/kernel/nic.ko (kernel module nic): "
	try(t, map[string]spoiled{
		"none":       {with(), at + "may ask for nic/a.fw, nic/b.fw, nic/c-*.fw, which is not in the image"},
		"one lacks":  {with("a.fw.zst", "c-12.fw"), at + "may ask for nic/b.fw, which is not in the image"},
		"all":        {with("a.fw", "b.fw.xz", "c-12.fw"), ""},
		"allowed":    {allow(with("a.fw")), ""},
		"needlessly": {allow(with("a.fw", "b.fw", "c-1.fw")), at + "is allowed (definition.yaml, firmware[0]) to lack firmware, which it has all of, or asks for none"},
	})
	i := newImage(t)
	allow(with("a.fw"))(i)
	if p, err := Check(i.Image); err != nil || len(p.Absent) != 1 || p.Absent[0].To != "nic/b.fw, nic/c-*.fw" || p.Absent[0].Reason != "works without" || p.Proven[FirmwareFile] != 1 {
		t.Errorf("what is allowed to lack is not told: %+v, %v", p, err)
	}
}

func TestDamagedFilesAreErrors(t *testing.T) {
	for path, content := range map[string]string{
		"usr/bin/tool":                       "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x3e\x00 and no more",
		"usr/lib/systemd/system/x.service":   "[Service\n",
		"etc/containerd/config.toml":         "a = [",
		"etc/cni/net.d/10-x.conflist":        "{",
		"usr/share/slipway/addons/x.yaml":    "a: [",
		"usr/lib/systemd/system/long.target": "[Unit]\nDescription=" + strings.Repeat("x", 9000),
	} {
		i := newImage(t)
		i.file(path, content)
		var faults Faults
		if _, err := Check(i.Image); err == nil || errors.As(err, &faults) || !strings.Contains(err.Error(), path+" of package demo") {
			t.Errorf("%s can't be read, and the error doesn't say so: %v", path, err)
		}
	}
}

func TestMessage(t *testing.T) {
	i := newImage(t)
	i.link("usr/bin/awk", "mawk")
	i.link("usr/bin/vi", "vim")
	_, err := Check(i.Image)
	want := "the image is not complete, 2 things are missing or wrong:\n" +
		"  /usr/bin/awk (package demo): is a link to mawk, which is not in the image\n" +
		"  /usr/bin/vi (package demo): is a link to vim, which is not in the image\n      " + advice
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}
