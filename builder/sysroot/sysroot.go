// Package sysroot finishes a root tree that was unpacked without running maintainer scripts: it does at bake what those
// scripts, and systemd on a first boot, would have done. User accounts, enabled and masked units, the certificate
// bundle, name service, the image's identity, alternatives.
//
// It works on a tree in memory (builder/rootfs), and everything follows from the tree and the settings. It is not for
// what a role brings (profiles/role) and knows no cluster.
package sysroot

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/builder/rootfs"
	"github.com/slipway-os/slipway/images/bootspec"
)

// Settings are what an image is told besides its files.
type Settings struct {
	Role    string
	Version string
	Arch    string   // Go's name
	Enable  []string // systemd units, as `systemctl enable` would be told
	Mask    []string // systemd units
}

// Finish turns unpacked files into a root tree that boots.
func Finish(t *rootfs.Tree, s Settings) error {
	f := finisher{tree: t, settings: s}
	for _, step := range []func() error{
		f.mountPoints,
		f.accounts,
		f.nameService,
		f.certificates,
		f.alternatives,
		f.identity,
		f.enableUnits,
		f.staticNodes,
		f.generators,
		f.maskUnits,
		f.preset,
		f.upToDate,
		f.dropRights,
	} {
		if err := step(); err != nil {
			return fmt.Errorf("cannot finish root tree: %w", err)
		}
	}
	return nil
}

type finisher struct {
	tree     *rootfs.Tree
	settings Settings
}

const origin = "the image's own base"

func (f *finisher) file(p string, mode uint32, content string) error {
	return f.tree.Replace(rootfs.Entry{Path: p, Type: rootfs.Regular, Mode: mode, Content: rootfs.Inline([]byte(content)), Origin: origin})
}

func (f *finisher) link(p, target string) error {
	return f.tree.Replace(rootfs.Entry{Path: p, Type: rootfs.Symlink, Link: target, Origin: origin})
}

// unless writes a file only when nothing else brought it.
func (f *finisher) unless(p, content string) error {
	if _, ok := f.tree.Lookup(p); ok {
		return nil
	}
	return f.file(p, 0o644, content)
}

// mountPoints makes what the agent and systemd mount on, and the links that base-files and systemd make by script.
func (f *finisher) mountPoints() error {
	for p, mode := range map[string]uint32{
		"dev": 0o755, "etc": 0o755, "home": 0o755, "mnt": 0o755, "opt": 0o755, "proc": 0o555, "root": 0o700, "run": 0o755,
		"srv": 0o755, "sys": 0o555, "tmp": 0o1777, "var": 0o755, "var/tmp": 0o1777, "var/log": 0o755, "var/lib": 0o755, "var/cache": 0o755,
	} {
		if err := f.tree.Replace(rootfs.Entry{Path: p, Type: rootfs.Directory, Mode: mode, Origin: origin}); err != nil {
			return err
		}
	}
	for _, l := range [][2]string{{"var/run", "/run"}, {"var/lock", "/run/lock"}, {"etc/mtab", "../proc/self/mounts"}} {
		if err := f.link(l[0], l[1]); err != nil {
			return err
		}
	}
	return nil
}

// nameService is what libc and Go's resolver read. The agent writes /etc/hosts and /etc/resolv.conf on a node.
func (f *finisher) nameService() error {
	if err := f.unless("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\ngshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n"); err != nil {
		return err
	}
	return f.unless("etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
}

const (
	certificateFolder = "usr/share/ca-certificates"
	certificateBundle = "etc/ssl/certs/ca-certificates.crt"
)

// certificates makes the bundle that update-ca-certificates would make of all packaged certificates, which then need not
// be there one by one.
func (f *finisher) certificates() error {
	var bundle bytes.Buffer
	for _, e := range f.tree.All() {
		if e.Type != rootfs.Regular || !strings.HasPrefix(e.Path, certificateFolder+"/") || path.Ext(e.Path) != ".crt" {
			continue
		}
		text, err := f.tree.ReadFile(e.Path)
		if err != nil {
			return err
		}
		block, _ := pem.Decode(text)
		if block == nil || block.Type != "CERTIFICATE" {
			return fmt.Errorf("%s of %s is not a certificate", e.Path, e.Origin)
		}
		bundle.Write(pem.EncodeToMemory(block))
	}
	f.tree.Remove(certificateFolder)
	if bundle.Len() == 0 {
		return nil
	}
	return f.file(certificateBundle, 0o644, bundle.String())
}

// alternatives are the plain links for what update-alternatives would manage. A link is made when the first of its
// targets that is there is found.
func (f *finisher) alternatives() error {
	choices := map[string][]string{
		"usr/bin/awk":                {"gawk", "mawk"},
		"usr/bin/sh":                 {"dash", "bash"},
		"usr/sbin/iptables":          {"iptables-nft"},
		"usr/sbin/iptables-save":     {"iptables-nft-save"},
		"usr/sbin/iptables-restore":  {"iptables-nft-restore"},
		"usr/sbin/ip6tables":         {"ip6tables-nft"},
		"usr/sbin/ip6tables-save":    {"ip6tables-nft-save"},
		"usr/sbin/ip6tables-restore": {"ip6tables-nft-restore"},
	}
	for _, p := range slices.Sorted(maps.Keys(choices)) {
		if _, ok := f.tree.Lookup(p); ok {
			continue
		}
		for _, target := range choices[p] {
			if _, ok := f.tree.Resolve(path.Join(path.Dir(p), target)); ok {
				if err := f.link(p, target); err != nil {
					return err
				}
				break
			}
		}
	}
	return nil
}

// identity says what image this is. A machine-id of "uninitialized" makes each first boot of a node a first boot to
// systemd too (machine-id(5)). The time of clock-epoch, which is the plan's like that of all files, is the earliest that
// systemd lets the clock say: a machine whose clock is years behind can check certificates until it has the time.
func (f *finisher) identity() error {
	s := f.settings
	id := "slipway-" + s.Role
	base, err := f.tree.ReadFile("usr/lib/os-release")
	if err != nil {
		return err
	}
	debian := assignments(string(base))
	release := fmt.Sprintf("NAME=Slipway\nPRETTY_NAME=\"Slipway %s (%s, Debian %s)\"\nID=slipway\nID_LIKE=debian\nVERSION_ID=%s\nVARIANT_ID=%s\nIMAGE_ID=%s\nIMAGE_VERSION=%s\n",
		s.Version, s.Role, debian["DEBIAN_VERSION_FULL"], s.Version, s.Role, id, s.Version)
	image := fmt.Sprintf("IMAGE_ID=%s\nIMAGE_VERSION=%s\nSLIPWAY_ROLE=%s\nSLIPWAY_IMAGE=%s\n", id, s.Version, s.Role, bootspec.ArtifactBase(s.Role, s.Version, s.Arch))
	for _, file := range [][2]string{
		{"usr/lib/os-release", release},
		{strings.TrimPrefix(bootspec.ImageRelease, "/"), image},
		{"etc/machine-id", "uninitialized\n"},
		{"usr/lib/clock-epoch", ""},
	} {
		if err := f.file(file[0], 0o644, file[1]); err != nil {
			return err
		}
	}
	if err := f.link("etc/os-release", "../usr/lib/os-release"); err != nil {
		return err
	}
	return nil
}

// assignments reads KEY=value lines, with or without double quotes.
func assignments(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			out[key] = strings.Trim(value, `"`)
		}
	}
	return out
}

// upToDate tells systemd's ConditionNeedsUpdate= that /etc and /var are as new as /usr (systemd-update-done(8)), so that
// a boot doesn't make accounts, caches and catalogs again.
func (f *finisher) upToDate() error {
	const text = "# This image was finished when it was baked.\nTIMESTAMP_NSEC=9223372036000000000\n"
	for _, p := range []string{"etc/.updated", "var/.updated"} {
		if err := f.file(p, 0o644, text); err != nil {
			return err
		}
	}
	return nil
}

// dropRights takes the set-user-ID and set-group-ID bits and file capabilities of all programs away: nobody logs in, so
// nobody needs to gain rights.
func (f *finisher) dropRights() error {
	for _, e := range f.tree.All() {
		if e.Type == rootfs.Regular {
			e.Mode &^= 0o6000
			delete(e.Xattrs, "security.capability")
		}
	}
	return nil
}
