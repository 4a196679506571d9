package plan

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/archive"
	"github.com/slipway-os/slipway/profiles/role"
)

var (
	worker = &role.Role{Name: "worker", Components: []string{"kubelet", "containerd"}, ContainerImages: []string{"pause"}, Modules: []string{"overlay"}}
	heavy  = &role.Role{Name: "heavy", Packages: []string{"extra"}}
)

// From nothing to fetched packages: lock, write, read, plan, fetch.
func TestLockPlanFetch(t *testing.T) {
	s := newSite(t)
	def, o := s.open(worker, heavy)
	lock, err := Resolve(context.Background(), def, o)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(o.Images, LockName)
	if err := WriteLock(file, lock); err != nil {
		t.Fatal(err)
	}
	if lock, err = ReadLock(file); err != nil {
		t.Fatal(err)
	}
	p, err := Make(def, lock, worker, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/plan.json", bytes.ReplaceAll(p.JSON(), []byte(p.RoleDigest), []byte("ROLE")))
	small := *def
	small.Compression.ReleaseLevel = 22
	release, err := Make(small.ForRelease(), lock, worker, "amd64")
	if err != nil || !bytes.Equal(release.JSON(), bytes.Replace(p.JSON(), []byte(`"level": 3`), []byte(`"level": 22`), 1)) {
		t.Errorf("a release's plan differs in more than its level, or not at all: %v\n%s", err, release.JSON())
	}
	if same, err := Make(def.ForRelease(), lock, worker, "amd64"); err != nil || !bytes.Equal(same.JSON(), p.JSON()) {
		t.Errorf("a definition without a level for releases: %v", err)
	}
	big, err := Make(def, lock, heavy, "amd64")
	if err != nil || names(big) != "base extra libbase" || names(p) != "base libbase" {
		t.Errorf("packages of the roles: %q, %q, %v", names(p), names(big), err)
	}
	if err := Fetch(context.Background(), o.Source, []*Plan{p, big}, nil); err != nil {
		t.Fatal(err)
	}
	for _, pkg := range slices.Concat(big.Packages, []Package{p.Kernel}, p.Tools[runtime.GOARCH]) {
		data, err := os.ReadFile(o.Source.Cache.Path(pkg.SHA256))
		if err != nil || string(data) != pkg.Name+" "+pkg.Version {
			t.Errorf("%s: %q, %v", pkg.Name, data, err)
		}
	}
}

var update = flag.Bool("update", false, "write what tests compare with")

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s differs (-update writes it): %v\n%s", file, err, got)
	}
}

func names(p *Plan) string {
	var list []string
	for _, pkg := range p.Packages {
		list = append(list, pkg.Name)
	}
	return strings.Join(list, " ")
}

// Nothing of the machine, the mirror or the moment is in lock and plan.
func TestLockHoldsNoPlace(t *testing.T) {
	var before []byte
	for range 2 {
		s := newSite(t)
		def, o := s.open(worker)
		lock, err := Resolve(context.Background(), def, o)
		if err != nil {
			t.Fatal(err)
		}
		l := lock.Architectures["amd64"]
		l.Archives[0].SHA256, l.Archives[0].Signer = "", "" // a new key each time
		p, err := Make(def, lock, worker, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		now := append(canonical(lock), p.JSON()...)
		if bytes.Contains(now, []byte(s.dir)) || bytes.Contains(now, []byte("file:")) {
			t.Errorf("a place is in\n%s", now)
		}
		if before != nil && !bytes.Equal(before, now) {
			t.Errorf("locked twice:\n%s\nand\n%s", before, now)
		}
		before = now
	}
}

func TestStaleLock(t *testing.T) {
	s := newSite(t)
	def, o := s.open(worker, heavy)
	lock, err := Resolve(context.Background(), def, o)
	if err != nil {
		t.Fatal(err)
	}
	for change, want := range map[[2]string]string{
		{"packages: [base]", "packages: [base, extra]"}: "packages: +extra",
		{"packages: [base]", "packages: [libbase]"}:     "packages: +libbase -base",
		{"omit: [debconf]", "omit: []"}:                 "omit: -debconf",
		{"tools: [packer]", "tools: [base]"}:            "tools: +base -packer",
		{"linux-image-{arch}", "linux-image-cloud"}:     "kernel: linux-image-{arch} -> linux-image-cloud",
		{"suite: trixie", "suite: forky"}:               "archives differ",
		{"version: 1.2.3", "version: 1.2.4"}:            "",
		{"quiet", "debug"}:                              "",
	} {
		changed, err := loadText("d", []byte(strings.Replace(smallDefinition, change[0], change[1], 1)))
		if err != nil {
			t.Fatal(err)
		}
		_, err = Make(changed, lock, worker, "amd64")
		if want == "" {
			if err != nil {
				t.Errorf("%s needs no new lock, but: %v", change[1], err)
			}
			continue
		}
		if !errors.Is(err, ErrStale) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), LockCommand) {
			t.Errorf("%s: %v; want %q", change[1], err, want)
		}
	}
	for want, r := range map[string]*role.Role{
		"packages of role worker: +extra": {Name: "worker", Packages: []string{"extra"}},
		"packages of role heavy: -extra":  {Name: "heavy"},
		"role edge is new":                {Name: "edge"},
	} {
		if _, err := Make(def, lock, r, "amd64"); !errors.Is(err, ErrStale) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	if _, err := Make(def, lock, worker, "arm64"); !errors.Is(err, ErrStale) || !strings.Contains(err.Error(), "arm64") {
		t.Errorf("other architecture: %v", err)
	}
	if _, err := Make(def, lock, &role.Role{Name: "worker", ContainerImages: []string{"nginx"}}, "amd64"); err == nil || !strings.Contains(err.Error(), `"nginx"`) {
		t.Errorf("unknown container image: %v", err)
	}
}

// A mirror that moved on: a bake stops and says what to do; a test locks again and goes on.
func TestMirrorMovedOn(t *testing.T) {
	s := newSite(t)
	def, o := s.open(worker)
	old, err := Resolve(context.Background(), def, o)
	if err != nil {
		t.Fatal(err)
	}
	s.publish(strings.Replace(smallArchive, "libbase 1.1", "libbase 1.2", 1))
	p, err := Make(def, old, worker, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	err = Fetch(context.Background(), o.Source, []*Plan{p}, nil)
	if !errors.Is(err, ErrMoved) {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{"libbase 1.1", "slipway lock"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
	var said string
	fresh, err := FetchOrResolve(context.Background(), def, old, o, func(reason string) { said = reason })
	if err != nil || !strings.Contains(said, "libbase 1.1") {
		t.Fatalf("said %q, %v", said, err)
	}
	if got := Changes(old, fresh); len(got) != 1 || got[0].String() != "  libbase 1.1 -> 1.2" {
		t.Errorf("changes %q", got)
	}
	again, err := FetchOrResolve(context.Background(), def, fresh, o, func(string) { t.Error("locked again for nothing") })
	if err != nil || again != fresh {
		t.Errorf("%v", err)
	}
}

func TestWrongContentIsNotMovedOn(t *testing.T) {
	s := newSite(t)
	def, o := s.open(worker)
	lock, err := Resolve(context.Background(), def, o)
	if err != nil {
		t.Fatal(err)
	}
	s.write("debian/pool/libbase_1.1_amd64.deb", "libbase 6.6")
	p, err := Make(def, lock, worker, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	err = Fetch(context.Background(), o.Source, []*Plan{p}, nil)
	if err == nil || errors.Is(err, ErrMoved) || !strings.Contains(err.Error(), "libbase 1.1") {
		t.Errorf("%v", err)
	}
}

func TestResolveRefusesAWronglySignedSuite(t *testing.T) {
	s, stranger := newSite(t), newSite(t)
	def, o := s.open(worker)
	stranger.dir = s.dir
	stranger.publish(smallArchive)
	if _, err := Resolve(context.Background(), def, o); err == nil || !strings.Contains(err.Error(), "cannot read index of debian trixie") {
		t.Errorf("%v", err)
	}
}

// A mirror that lags is refused, or, where its settings allow it, used with a warning.
func TestExpiredIndex(t *testing.T) {
	s := newSite(t)
	def, o := s.open(worker)
	in, err := os.ReadFile(filepath.Join(s.dir, "debian/dists/trixie/InRelease"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(in), "\n\n")
	text, _, _ = strings.Cut(text, "-----BEGIN")
	s.sign("Valid-Until: Sun, 03 May 2026 10:00:00 UTC\n" + text)
	if _, err := Resolve(context.Background(), def, o); !errors.Is(err, archive.ErrExpired) {
		t.Errorf("%v", err)
	}
	var warned string
	o.Source.Mirrors.AllowExpired, o.Warn = true, func(s string) { warned = s }
	if _, err := Resolve(context.Background(), def, o); err != nil || !strings.Contains(warned, "debian trixie expired on 2026-05-03") {
		t.Errorf("warned %q, %v", warned, err)
	}
}

func TestBadLocks(t *testing.T) {
	s := newSite(t)
	def, o := s.open(worker)
	if _, err := ReadLock(filepath.Join(o.Images, LockName)); !errors.Is(err, ErrNoLock) || !strings.Contains(err.Error(), LockCommand) {
		t.Errorf("no lock: %v", err)
	}
	lock, err := Resolve(context.Background(), def, o)
	if err != nil {
		t.Fatal(err)
	}
	good := string(canonical(lock))
	for name, bad := range map[string]string{
		"empty":               "",
		"cut":                 good[:len(good)/2],
		"something after it":  good + "{}",
		"unknown field":       strings.Replace(good, `"asked"`, `"azked"`, 1),
		"other kind":          strings.Replace(good, `"Lock"`, `"Plan"`, 1),
		"digest of a package": strings.Replace(good, `"sha256": "`, `"sha256": "x`, 2),
		"path that climbs":    strings.Replace(good, `"debian/pool/base`, `"../pool/base`, 1),
		"negative size":       strings.Replace(good, `"size": `, `"size": -`, 1),
		"no kernel":           strings.Replace(good, `"kernel": "linux-image-6.2-amd64"`, `"kernel": "x"`, 1),
		"missing package":     strings.Replace(good, `"name": "libbase"`, `"name": "libcase"`, 1),
		"bad date":            strings.Replace(good, `"date": "2026`, `"date": "x`, 1),
		"null architecture":   `{"apiVersion":"slipway.dev/v1alpha1","kind":"Lock","architectures":{"amd64":null}}`,
	} {
		file := filepath.Join(s.dir, "bad.json")
		s.write("bad.json", bad)
		if _, err := ReadLock(file); err == nil || bad == good || !strings.Contains(err.Error(), "bad.json") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWriteLockLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, LockName)
	for range 2 {
		if err := WriteLock(file, &Lock{APIVersion: APIVersion, Kind: "Lock"}); err != nil {
			t.Fatal(err)
		}
	}
	entries, _ := os.ReadDir(dir)
	info, err := os.Stat(file)
	if err != nil || len(entries) != 1 || info.Mode() != 0o644 {
		t.Errorf("%v, %v", entries, err)
	}
	if err := WriteLock(filepath.Join(dir, "missing", LockName), &Lock{}); err == nil {
		t.Error("no error for a folder that is not there")
	}
}

func FuzzLock(f *testing.F) {
	data, err := os.ReadFile("../../images/lock.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"apiVersion":"slipway.dev/v1alpha1","kind":"Lock","architectures":{"amd64":{"archives":[{"date":"2026-05-03T09:15:44Z"}],"kernel":"k","roles":{"r":["a"]},"packages":[` +
		`{"name":"a","version":"1","arch":"all","path":"d/a.deb","size":1,"sha256":"` + sha(nil) + `"},{"name":"k","version":"1","arch":"all","path":"d/k.deb","size":1,"sha256":"` + sha(nil) + `"}],` +
		`"relations":{"a":{"depends":"b | a"},"k":{}}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		lock, err := parseLock(data)
		if err != nil {
			return
		}
		for _, l := range lock.Architectures {
			p := &Plan{Role: "worker"}
			if err := p.addPackages(l); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := json.Marshal(lock); err != nil || len(out) == 0 {
			t.Fatal(err)
		}
	})
}
