package sysroot

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// base is what the packages of a small image would have brought.
func base(t *testing.T) *rootfs.Tree {
	t.Helper()
	tr := rootfs.New()
	for p, content := range map[string]string{
		"usr/share/base-passwd/passwd.master":             "root:*:0:0:root:/root:/bin/bash\ndaemon:*:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n",
		"usr/share/base-passwd/group.master":              "root:*:0:\ndaemon:*:1:\nshadow:*:42:\nnogroup:*:65534:\n",
		"usr/lib/sysusers.d/basic.conf":                   "u root 0 - /root /bin/sh\ng shadow 42 -\n",
		"usr/lib/sysusers.d/dbus.conf":                    "# comment\nu messagebus - \"System Message Bus\" /nonexistent\n",
		"usr/lib/sysusers.d/net.conf":                     "u! systemd-network - \"systemd Network Management\"\nm systemd-network systemd-journal\n",
		"usr/lib/sysusers.d/other.conf":                   "u _apt 100:65534 - /nonexistent\nu somebody-new\ng kvm -\n",
		"usr/lib/os-release":                              "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nDEBIAN_VERSION_FULL=13.8\nID=debian\n",
		"usr/lib/systemd/system/multi-user.target":        "[Unit]\n",
		"usr/lib/systemd/system/agent.service":            "[Service]\nExecStart=/x\n[Install]\nWantedBy=multi-user.target \\\n  other.target\nAlias=dbus-agent.service\nAlso=agent.socket\n",
		"usr/lib/systemd/system/agent.socket":             "[Install]\nRequiredBy=sockets.target\n",
		"usr/lib/systemd/system/image@.service":           "[Install]\nDefaultInstance=pause\nWantedBy=images-%i.target\n",
		"usr/lib/systemd/system/static.service":           "[Service]\nExecStart=/x\n",
		"usr/lib/systemd/system-preset/90-systemd.preset": "enable systemd-networkd.service\n",
		"usr/bin/mawk":                                    "ELF",
	} {
		if err := tr.Add(rootfs.Entry{Path: p, Type: rootfs.Regular, Mode: 0o644, Content: rootfs.Inline([]byte(content)), Origin: "package test"}); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func settings() Settings {
	return Settings{Role: "worker", Version: "0.1.0", Arch: "amd64", Enable: []string{"agent.service", "image@.service"}, Mask: []string{"getty.target"}}
}

func finished(t *testing.T, tr *rootfs.Tree, s Settings) *rootfs.Tree {
	t.Helper()
	if err := Finish(tr, s); err != nil {
		t.Fatal(err)
	}
	return tr
}

func read(t *testing.T, tr *rootfs.Tree, p string) string {
	t.Helper()
	b, err := tr.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestAccounts(t *testing.T) {
	tr := finished(t, base(t), settings())
	for p, want := range map[string]string{
		"etc/passwd": `root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
_apt:x:100:65534::/nonexistent:/usr/sbin/nologin
somebody-new:x:714:714::/:/usr/sbin/nologin
messagebus:x:996:996:System Message Bus:/nonexistent:/usr/sbin/nologin
systemd-network:x:998:998:systemd Network Management:/:/usr/sbin/nologin
`,
		"etc/group": `root:x:0:
daemon:x:1:
shadow:x:42:
somebody-new:x:714:
kvm:x:989:
messagebus:x:996:
systemd-network:x:998:
systemd-journal:x:999:systemd-network
nogroup:x:65534:
`,
	} {
		if got := read(t, tr, p); got != want {
			t.Errorf("%s:\n%swant:\n%s", p, got, want)
		}
	}
	if got := read(t, tr, "etc/shadow"); !strings.HasPrefix(got, "root:*:") || strings.Count(got, ":*:") != 6 {
		t.Errorf("an account without a locked password:\n%s", got)
	}
	if e, _ := tr.Lookup("etc/shadow"); e.Mode != 0o640 || e.GID != 42 {
		t.Errorf("shadow is %o of group %d", e.Mode, e.GID)
	}
}

func TestAccountFaults(t *testing.T) {
	for line, want := range map[string]string{
		"u x 1 -":         "daemon",
		"u x notanumber":  "notanumber",
		"z x":             "line type",
		"u":               "fields",
		"u x - \"open":    "quote",
		"u x 300:nobody7": "nobody7",
	} {
		tr := base(t)
		if err := tr.Add(rootfs.Entry{Path: "usr/lib/sysusers.d/bad.conf", Type: rootfs.Regular, Content: rootfs.Inline([]byte("\n" + line + "\n"))}); err != nil {
			t.Fatal(err)
		}
		err := Finish(tr, settings())
		if err == nil || !strings.Contains(err.Error(), "usr/lib/sysusers.d/bad.conf:2") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestUnits(t *testing.T) {
	tr := finished(t, base(t), settings())
	var got []string
	for _, e := range tr.All() {
		if strings.HasPrefix(e.Path, "etc/systemd/") && e.Type == rootfs.Symlink {
			got = append(got, strings.TrimPrefix(e.Path, "etc/systemd/system/")+" -> "+e.Link)
		}
	}
	want := `dbus-agent.service -> /usr/lib/systemd/system/agent.service
default.target -> /usr/lib/systemd/system/multi-user.target
getty.target -> /dev/null
images-pause.target.wants/image@pause.service -> /usr/lib/systemd/system/image@.service
multi-user.target.wants/agent.service -> /usr/lib/systemd/system/agent.service
other.target.wants/agent.service -> /usr/lib/systemd/system/agent.service
sockets.target.requires/agent.socket -> /usr/lib/systemd/system/agent.socket`
	if strings.Join(got, "\n") != want {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), want)
	}
	if got := read(t, tr, "usr/lib/systemd/system-preset/99-slipway.preset"); got != "enable agent.service\nenable image@.service\ndisable *\n" {
		t.Errorf("preset:\n%s", got)
	}
	if _, ok := tr.Lookup("usr/lib/systemd/system-preset/90-systemd.preset"); ok {
		t.Error("a package's preset is still there, and would enable its own units on a first boot")
	}
}

func TestUnitFaults(t *testing.T) {
	for name, change := range map[string]func(*Settings){
		"cannot enable unit missing.service": func(s *Settings) { s.Enable = []string{"missing.service"} },
		"no [Install] section":               func(s *Settings) { s.Enable = []string{"static.service"} },
		"both enabled and masked":            func(s *Settings) { s.Mask = []string{"agent.service"} },
	} {
		s := settings()
		change(&s)
		if err := Finish(base(t), s); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want %q, got %v", name, err)
		}
	}
}

func TestIdentity(t *testing.T) {
	tr := finished(t, base(t), settings())
	if got := read(t, tr, "etc/machine-id"); got != "uninitialized\n" {
		t.Errorf("machine-id %q", got)
	}
	for _, want := range []string{"ID=slipway\n", "IMAGE_ID=slipway-worker\n", "IMAGE_VERSION=0.1.0\n", "Debian 13.8"} {
		if got := read(t, tr, "etc/os-release"); !strings.Contains(got, want) {
			t.Errorf("os-release has no %q:\n%s", want, got)
		}
	}
	if got := read(t, tr, "usr/lib/slipway/image-release"); !strings.Contains(got, "SLIPWAY_ROLE=worker\n") {
		t.Errorf("image-release:\n%s", got)
	}
	if e, ok := tr.Lookup("usr/bin/awk"); !ok || e.Link != "mawk" {
		t.Error("no awk")
	}
	for p, mode := range map[string]uint32{"proc": 0o555, "tmp": 0o1777, "root": 0o700, "var/tmp": 0o1777} {
		if e, ok := tr.Lookup(p); !ok || e.Type != rootfs.Directory || e.Mode != mode {
			t.Errorf("%s: %+v", p, e)
		}
	}
}

func TestCertificateBundle(t *testing.T) {
	tr := base(t)
	var names []string
	for _, name := range []string{"b", "a"} {
		if err := tr.Add(rootfs.Entry{Path: "usr/share/ca-certificates/mozilla/" + name + ".crt", Type: rootfs.Regular, Mode: 0o644, Content: rootfs.Inline(certificate(t, name))}); err != nil {
			t.Fatal(err)
		}
	}
	finished(t, tr, settings())
	for rest := []byte(read(t, tr, "etc/ssl/certs/ca-certificates.crt")); len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			t.Fatalf("not PEM: %q", rest)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, c.Subject.CommonName)
	}
	if strings.Join(names, " ") != "a b" {
		t.Errorf("the bundle holds %v", names)
	}
	if _, ok := tr.Lookup("usr/share/ca-certificates"); ok {
		t.Error("the single certificates are still there")
	}
	if err := tr.Add(rootfs.Entry{Path: "usr/share/ca-certificates/x.crt", Type: rootfs.Regular, Content: rootfs.Inline([]byte("junk"))}); err != nil {
		t.Fatal(err)
	}
	f := finisher{tree: tr}
	if err := f.certificates(); err == nil || !strings.Contains(err.Error(), "x.crt") {
		t.Errorf("junk as certificate: %v", err)
	}
}

func certificate(t *testing.T, name string) []byte {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	template.Subject.CommonName = name
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestNoProgramGainsRights(t *testing.T) {
	tr := base(t)
	for _, e := range []rootfs.Entry{
		{Path: "usr/bin/mount", Type: rootfs.Regular, Mode: 0o4755, Content: rootfs.Inline(nil)},
		{Path: "usr/bin/ping", Type: rootfs.Regular, Mode: 0o755, Content: rootfs.Inline(nil), Xattrs: map[string]string{"security.capability": "x"}},
	} {
		if err := tr.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	finished(t, tr, settings())
	if got := tr.Dump(); strings.Contains(got, ": 4755") || strings.Contains(got, "security.capability") {
		t.Error(got)
	}
}

func TestNothingIsFoundOutAtBoot(t *testing.T) {
	tr := base(t)
	for p, content := range map[string]string{
		"usr/lib/systemd/system-generators/systemd-sysv-generator":  "ELF",
		"usr/lib/systemd/system-generators/systemd-fstab-generator": "ELF",
		"usr/lib/modules/6.12/modules.devname":                      "# Device nodes to trigger on-demand module loading.\nfuse fuse c10:229\ntun net/tun c10:200\nloop loop0 b7:0\n",
	} {
		if err := tr.Add(rootfs.Entry{Path: p, Type: rootfs.Regular, Mode: 0o755, Content: rootfs.Inline([]byte(content))}); err != nil {
			t.Fatal(err)
		}
	}
	finished(t, tr, settings())
	want := "c! /dev/fuse 0600 - - - 10:229\nd /dev/net 0755 - - -\nc! /dev/net/tun 0600 - - - 10:200\nb! /dev/loop0 0600 - - - 7:0\n"
	if got := read(t, tr, "usr/lib/tmpfiles.d/slipway-static-nodes.conf"); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
	if e, ok := tr.Lookup("etc/systemd/system/kmod-static-nodes.service"); !ok || e.Link != "/dev/null" {
		t.Error("kmod-static-nodes.service still runs")
	}
	if got := tr.Dump(); strings.Contains(got, "sysv-generator") || !strings.Contains(got, "fstab-generator") {
		t.Error("generators:\n" + got)
	}
}
