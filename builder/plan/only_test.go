package plan

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/archive"
	"github.com/slipway-os/slipway/profiles/role"
)

// locked resolves and writes a lock, and reads it again: what a second run sees.
func (s *site) locked(def *Definition, o Options) *Lock {
	s.t.Helper()
	lock, err := Resolve(context.Background(), def, o)
	if err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.dir, LockName)
	if err := WriteLock(file, lock); err != nil {
		s.t.Fatal(err)
	}
	if lock, err = ReadLock(file); err != nil {
		s.t.Fatal(err)
	}
	return lock
}

// changed is what moves when only the patterns' packages may, one line each.
func changed(def *Definition, o Options, old *Lock, patterns ...string) (string, *Lock, error) {
	o.Old, o.Only = old, patterns
	lock, err := Resolve(context.Background(), def, o)
	if err != nil {
		return "", nil, err
	}
	var lines []string
	for _, c := range Changes(old, lock) {
		line := strings.TrimSpace(c.String())
		if c.Why != "" {
			line += " (" + c.Why + ")"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "; "), lock, nil
}

func TestLockOnly(t *testing.T) {
	for name, c := range map[string]struct {
		before, after string // packages besides the kernel and the tools
		only          string
		want          string
	}{
		"one of two":  {"base 1\nextra 1", "base 2\nextra 2", "base", "base 1 -> 2"},
		"a glob":      {"base 1 depends lib-a, lib-b\nlib-a 1\nlib-b 1\nextra 1", "base 2 depends lib-a, lib-b\nlib-a 2\nlib-b 2\nextra 2", "lib-*", "lib-a 1 -> 2; lib-b 1 -> 2"},
		"nothing new": {"base 1\nextra 1", "base 1\nextra 2", "base", ""},
		"a dependency must move too": {"base 1 depends lib (= 1)\nlib 1\nextra 1", "base 2 depends lib (= 2)\nlib 2\nextra 2", "base",
			"base 1 -> 2; lib 1 -> 2 (base 2 needs lib (= 2))"},
		"who depends must move too": {"base 1 depends lib (= 1)\nlib 1\nextra 1", "base 2 depends lib (= 2)\nlib 2\nextra 2", "lib",
			"base 1 -> 2 (its 1 needs lib (= 1)); lib 1 -> 2"},
		"a dependency that is good enough stays": {"base 1 depends lib\nlib 1\nextra 1", "base 2 depends lib\nlib 2\nextra 2", "base", "base 1 -> 2"},
		"a new dependency":                       {"base 1\nextra 1", "base 2 depends new\nnew 7\nextra 2", "base", "base 1 -> 2; + new 7"},
		"a dependency that is no longer needed":  {"base 1 depends lib\nlib 1\nextra 1", "base 2\nlib 1\nextra 2", "base", "base 1 -> 2; - lib 1"},
		"what it breaks moves":                   {"base 1\nextra 1", "base 2 breaks extra (<< 2)\nextra 2", "base", "base 1 -> 2; extra 1 -> 2 (base 2 Breaks extra (<< 2))"},
		"the alternative that was taken stays":   {"base 1 depends a | b\nb 1\nextra 1", "base 2 depends a | b\na 1\nb 2\nextra 2", "base", "base 1 -> 2"},
		"a provider that was taken stays":        {"base 1 depends awk\nmawk 1 provides awk\nextra 1", "base 2 depends awk\ngawk 1 provides awk\nmawk 2 provides awk\nextra 2", "base", "base 1 -> 2"},
		"a provider must move":                   {"base 1 depends lib\nlib 1\nextra 1", "base 2 depends api-2\nlib 2 provides api-2\nextra 2", "base", "base 1 -> 2; lib 1 -> 2 (base 2 needs api-2)"},
		"others are gone from the archive":       {"base 1\nextra 1 depends lib (= 1)\nlib 1", "base 2\nextra 2 depends lib (= 2)\nlib 2", "base", "base 1 -> 2"},
		"kernel":                                 {"base 1\nextra 1", "base 2\nextra 2\nlinux-image-6.3-amd64 6.3", "linux-image*", "linux-image-6.2-amd64 -> linux-image-6.3-amd64 6.2 -> 6.3"},
		"kernel by the definition's name":        {"base 1\nextra 1", "base 2\nextra 2\nlinux-image-6.3-amd64 6.3", "linux-image-amd64", "linux-image-6.2-amd64 -> linux-image-6.3-amd64 6.2 -> 6.3"},
		"not the kernel":                         {"base 1\nextra 1", "base 2\nextra 2\nlinux-image-6.3-amd64 6.3", "base", "base 1 -> 2"},
		"a tool":                                 {"base 1\nextra 1", "base 2\nextra 2\npacker 5", "packer", "packer 4.6 -> 5"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.publish(rest + c.before)
			def, o := s.open(worker, heavy)
			old := s.locked(def, o)
			after := rest + c.after
			if strings.Contains(after, "6.3") {
				after = strings.Replace(after, "linux-image-amd64 6.2 depends linux-image-6.2-amd64 (= 6.2)", "linux-image-amd64 6.3 depends linux-image-6.3-amd64 (= 6.3)", 1)
				after = strings.Replace(after, "linux-image-6.2-amd64 6.2\n", "", 1)
			}
			s.publish(after)
			got, lock, err := changed(def, o, old, c.only)
			if err != nil || got != c.want {
				t.Fatalf("%q, %v; want %q", got, err, c.want)
			}
			if _, err := parseLock(canonical(lock)); err != nil {
				t.Errorf("the lock is none: %v", err)
			}
		})
	}
}

// rest is what the small definition needs besides the packages of a test.
const rest = `linux-image-amd64 6.2 depends linux-image-6.2-amd64 (= 6.2)
linux-image-6.2-amd64 6.2
packer 4.6
`

func TestLockOnlyFails(t *testing.T) {
	for name, c := range map[string]struct{ before, after, only, want string }{
		"a pattern of nothing": {"base 1\nextra 1", "base 2\nextra 2", "nano*", `no package of the lock or the definition is called "nano*"`},
		"a bad pattern":        {"base 1\nextra 1", "base 2\nextra 2", "[", `pattern "[": syntax error`},
		"a dependency is not new enough": {"base 1 depends lib\nlib 1\nextra 1", "base 2 depends lib (>= 3)\nlib 2\nextra 2", "base",
			"base cannot move to 2: lib 1 keeps it back: base 2 needs lib (>= 3), and the archives have lib 2, which doesn't fit either"},
		"who depends has no newer": {"base 1 depends lib (= 1)\nlib 1\nextra 1", "base 1 depends lib (= 1)\nlib 2\nextra 2", "lib",
			"lib cannot move to 2: base 1 keeps it back: base 1 needs lib (= 1), and the archives have no other version of it"},
		"breaks what has no newer": {"base 1\nextra 1", "base 2 breaks extra (<< 2)\nextra 1", "base",
			"base cannot move to 2: extra 1 keeps it back: base 2 Breaks extra (<< 2), and the archives have no other version of it"},
		"broken by what has no newer": {"base 1 breaks extra (>= 2)\nextra 1", "base 1 breaks extra (>= 2)\nextra 2", "extra",
			"extra cannot move to 2: base 1 keeps it back"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.publish(rest + c.before)
			def, o := s.open(worker, heavy)
			old := s.locked(def, o)
			s.publish(rest + c.after)
			got, _, err := changed(def, o, old, c.only)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q, %v\nwant %q", got, err, c.want)
			}
		})
	}
}

// Where nothing moves, neither do the dates that images' files have; where something does, they are those of the archive.
func TestLockOnlyKeepsDates(t *testing.T) {
	s := newSite(t)
	s.publish(rest + "base 1\nextra 1")
	def, o := s.open(worker, heavy)
	old := s.locked(def, o)
	date := published.AddDate(0, 0, 1)
	s.publishAt("debian", date, rest+"base 1\nextra 2")
	_, same, err := changed(def, o, old, "base")
	if err != nil || string(canonical(same.Architectures["amd64"])) != string(canonical(old.Architectures["amd64"])) {
		t.Errorf("%v: the lock changed", err)
	}
	_, moved, err := changed(def, o, old, "extra")
	if err != nil || moved.Architectures["amd64"].epoch() != date.Unix() {
		t.Errorf("%v", err)
	}
}

// Two suites may have the same file; a kept package stays where it was locked.
func TestLockOnlyKeepsTheSuite(t *testing.T) {
	s := newSite(t)
	s.publish(rest + "base 1\nextra 1")
	def, o := s.open(worker, heavy)
	old := s.locked(def, o)
	s.publishAt("other", published, rest+"base 1\nextra 1")
	s.write("images/definition.yaml", strings.Replace(smallDefinition, "packages:", "  - {name: other, suite: trixie, components: [main], keys: [test.asc]}\npackages:", 1))
	def, o = s.open(worker, heavy)
	got, lock, err := changed(def, o, old, "extra")
	if err != nil || got != "" || len(lock.Architectures["amd64"].Archives) != 1 {
		t.Fatalf("%q, %v", got, err)
	}
	for _, p := range lock.Architectures["amd64"].Packages {
		if !strings.HasPrefix(p.Path, "debian/") {
			t.Errorf("%s is now in %s", p.Name, p.Path)
		}
	}
}

// A package that the definition asks for since the lock was made comes in whatever the patterns are; the rest stays.
func TestLockOnlyWithANewDefinition(t *testing.T) {
	s := newSite(t)
	s.publish(rest + "base 1\nextra 1\nnew 1")
	def, o := s.open(worker, heavy)
	old := s.locked(def, o)
	s.publish(rest + "base 2\nextra 2\nnew 2")
	s.write("images/definition.yaml", strings.Replace(smallDefinition, "packages: [base]", "packages: [base, new]", 1))
	def, o = s.open(worker, heavy)
	got, lock, err := changed(def, o, old, "new")
	if err != nil || got != "+ new 2" {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := Make(def, lock, worker, "amd64"); err != nil {
		t.Errorf("the lock is stale: %v", err)
	}
}

// Locks of before relations were recorded: what packages need is read from the cache, and without it nothing is guessed.
func TestLockOnlyWithAnOldLock(t *testing.T) {
	s := newSite(t)
	s.publish(rest + "base 1\nextra 1")
	def, o := s.open(worker, heavy)
	old := s.locked(def, o)
	old.Architectures["amd64"].Relations = nil
	if _, err := parseLock(canonical(old)); err != nil {
		t.Fatalf("an old lock is not taken: %v", err)
	}
	if got, _, err := changed(def, o, old, "extra"); err != nil || got != "" {
		t.Errorf("the archive still has all: %q, %v", got, err)
	}
	s.publish(rest + "base 2\nextra 2")
	if _, _, err := changed(def, o, old, "extra"); !errors.Is(err, ErrStale) || !strings.Contains(err.Error(), "package base 1 is neither in the archives nor in the cache") {
		t.Errorf("%v", err)
	}
	o.Old, o.Only = nil, []string{"base"}
	if _, err := Resolve(context.Background(), def, o); !errors.Is(err, ErrNoLock) {
		t.Errorf("without a lock: %v", err)
	}
}

func TestChangesAndSummary(t *testing.T) {
	lock := func(kernel string, packages ...Package) *Lock {
		return &Lock{Architectures: map[string]*ArchLock{"amd64": {Kernel: kernel, Packages: packages}}}
	}
	was := lock("linux-image-1", Package{Name: "a", Version: "1", Size: 10, SHA256: "x"}, Package{Name: "b", Version: "1", Size: 5, SHA256: "y"}, Package{Name: "linux-image-1", Version: "1", Size: 100}, Package{Name: "s", Version: "1", Size: 1, SHA256: "p"})
	now := lock("linux-image-2", Package{Name: "a", Version: "2", Size: 12, SHA256: "z"}, Package{Name: "c", Version: "1", Size: 7}, Package{Name: "linux-image-2", Version: "2", Size: 110}, Package{Name: "s", Version: "1", Size: 1, SHA256: "q"})
	var lines []string
	for _, c := range Changes(was, now) {
		lines = append(lines, c.String())
	}
	if got, want := strings.Join(lines, "\n"), "  a 1 -> 2\n- b 1\n+ c 1\n  linux-image-1 -> linux-image-2 1 -> 2\n  s 1 (another file of the same version)"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got, want := Summarize(Changes(was, now), now), (Summary{Moved: 3, Added: 1, Removed: 1, Kept: 0, Bytes: 14, Fetched: 130}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// The definition's snapshot, or one of the command line: recorded, judged at its moment, fetched from there.
func TestSnapshot(t *testing.T) {
	const first, second = "20260401T000000Z", "20260415T120000Z"
	s := newSite(t)
	s.publish(rest + "base 3\nextra 3")
	s.publishAt("archive/debian/"+first, archive.Snapshot(first).Time().Add(-1e12), rest+"base 1\nextra 1")
	s.publishAt("archive/debian/"+second, archive.Snapshot(second).Time().Add(-1e12), rest+"base 2\nextra 2")
	s.write("images/definition.yaml", smallDefinition+"snapshot: "+first+"\n")
	def, o := s.open(worker, heavy)
	lock := s.locked(def, o)
	l := lock.Architectures["amd64"]
	if p, _ := l.find("base"); p.Version != "1" || len(l.Snapshots) != 1 || l.Snapshots[0] != first || l.Asked.Snapshot != first {
		t.Fatalf("%+v", l)
	}
	p, err := Make(def, lock, worker, "amd64")
	if err != nil || !strings.Contains(string(p.JSON()), `"snapshots": [`) || strings.Contains(string(p.JSON()), s.dir) {
		t.Fatalf("%v: the plan\n%s", err, p.JSON())
	}
	if err := Fetch(context.Background(), o.Source, []*Plan{p}, nil); err != nil {
		t.Errorf("not fetched from the snapshot: %v", err)
	}
	// The command line's, for one package: the others stay, and are found where they are.
	o.Snapshot = second
	got, later, err := changed(def, o, lock, "extra")
	if err != nil || got != "extra 1 -> 2" || len(later.Architectures["amd64"].Snapshots) != 2 {
		t.Fatalf("%q, %v", got, err)
	}
	o.Source.Cache = archive.NewCache(t.TempDir())
	if p, err = Make(def, later, heavy, "amd64"); err == nil {
		err = Fetch(context.Background(), o.Source, []*Plan{p}, nil)
	}
	if err != nil {
		t.Error(err)
	}
	changedDef, err := loadText("d", []byte(smallDefinition))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Make(changedDef, lock, worker, "amd64"); !errors.Is(err, ErrStale) || !strings.Contains(err.Error(), `snapshot: "`+first+`" -> ""`) {
		t.Errorf("another snapshot in the definition: %v", err)
	}
	o.Snapshot = "20260101T000000Z"
	if _, err := Resolve(context.Background(), def, o); err == nil || !strings.Contains(err.Error(), "has no snapshot 20260101T000000Z") {
		t.Errorf("a snapshot that is not there: %v", err)
	}
}

// What people do to a lock with an editor. Each is told with its place, and what to do.
func TestLockEditedByHand(t *testing.T) {
	s := newSite(t)
	s.publish(strings.Replace(smallArchive, "libbase 1.1", "libbase 1.1 depends extra", 1))
	def, o := s.open(worker)
	lock, err := Resolve(context.Background(), def, o)
	if err != nil {
		t.Fatal(err)
	}
	good := string(canonical(lock))
	entry := good[strings.Index(good, `        {
          "name": "extra"`):strings.Index(good, `        {
          "name": "libbase"`)]
	for name, c := range map[string]struct{ was, is, want string }{
		"unknown field":          {`"kernel": "linux-image-6.2-amd64"`, `"kernal": "linux-image-6.2-amd64"`, ":42:7: architectures.amd64.kernal: unknown field"},
		"field in other letters": {`"size": 8`, `"Size": 8`, "architectures.amd64.packages[0].Size: unknown field"},
		"field twice":            {`"size": 8`, `"size": 8, "size": 9`, "architectures.amd64.packages[0].size: it is there twice"},
		"package twice":          {entry, entry + entry, `architectures.amd64.packages[2]: package "extra" is there twice`},
		"package away":           {entry, "", `architectures.amd64.roles.worker[1]: "extra" is not among the packages`},
		"package of nobody":      {"\"extra\",\n          ", "", `architectures.amd64.packages[1]: package "extra" is of no role, no tool and no library`},
		"missing dependency":     {"\"extra\",\n          \"libbase\"\n        ]\n      },\n      \"tools\": [\n", "\"libbase\"\n        ]\n      },\n      \"tools\": [\n        \"extra\",\n", "architectures.amd64.roles.worker: package libbase 1.1 needs extra, which is not there"},
		"dependency too old": {`"name": "libbase",
          "version": "1.1"`, `"name": "libbase",
          "version": "0.9"`, "architectures.amd64.roles.worker: package base 1.0 needs libbase (>= 1), which is not there"},
		"version":     {`"version": "1.1"`, `"version": "1.1 beta"`, `architectures.amd64.packages[2]: package "libbase": bad version`},
		"digest":      {`"sha256": "f3ec`, `"sha256": "F3EC`, `architectures.amd64.packages[0]: package "base": bad sha256`},
		"size":        {`"size": 8`, `"size": "8"`, ":65:22: architectures.packages.size: it is a string, not int64"},
		"no number":   {`"size": 8`, `"size": 08`, "not valid JSON"},
		"other arch":  {`"arch": "amd64"`, `"arch": "arm64"`, `package "base": it is for architecture "arm64"`},
		"merge marks": {`"size": 8`, "<<<<<<< HEAD\n\"size\": 8", "not valid JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := strings.Replace(good, c.was, c.is, 1)
			if bad == good {
				t.Fatalf("%q is not in\n%s", c.was, good)
			}
			s.write("bad.json", bad)
			_, err := ReadLock(filepath.Join(s.dir, "bad.json"))
			if !errors.Is(err, ErrBadLock) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "bad.json:") || !strings.Contains(err.Error(), LockCommand) {
				t.Errorf("%v\nwant %q", err, c.want)
			}
		})
	}
}

// What can only be seen when files are fetched: the package, what was expected and what there is.
func TestLockEditedByHandIsNoticedAtFetch(t *testing.T) {
	s := newSite(t)
	def, o := s.open(worker)
	digest := sha([]byte("libbase 1.1"))
	for name, c := range map[string]struct {
		edit func(p *Package)
		want []string
	}{
		"digest": {func(p *Package) { p.SHA256 = strings.Repeat("ab", 32) }, []string{"package libbase 1.1", "expected 11 bytes with SHA-256 abab", "got 11 with " + digest, "slipway lock --only libbase"}},
		"size":   {func(p *Package) { p.Size = 12 }, []string{"package libbase 1.1", "the file has 11 bytes, not the 12 expected"}},
		"path":   {func(p *Package) { p.Path = "debian/pool/libbase_1.2_amd64.deb" }, []string{"the mirror has moved on", "libbase 1.1", "slipway lock"}},
	} {
		lock, err := Resolve(context.Background(), def, o)
		if err != nil {
			t.Fatal(err)
		}
		l := lock.Architectures["amd64"]
		for i := range l.Packages {
			if l.Packages[i].Name == "libbase" {
				c.edit(&l.Packages[i])
			}
		}
		o.Source.Cache = archive.NewCache(t.TempDir())
		p, err := Make(def, lock, &role.Role{Name: "worker"}, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		err = Fetch(context.Background(), o.Source, []*Plan{p}, nil)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: no %q in: %v", name, want, err)
			}
		}
		if errors.Is(err, ErrMoved) != (name == "path") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
