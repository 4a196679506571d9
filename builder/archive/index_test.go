package archive

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

func TestPackagesOfASignedSuite(t *testing.T) {
	m, key := newMirror(t), newSigner(t, "archive")
	list := xzOf(t, packagesText)
	in := sign(t, release(list), key)
	m.publish(in, list)
	s := m.source(t)
	r, err := s.Release(context.Background(), suite(key.keys()), today)
	if err != nil {
		t.Fatal(err)
	}
	if want := "2026-05-03T09:15:44Z"; stamp(r.Date) != want || r.SHA256 != digest(in) || len(r.Signer) != 40 {
		t.Errorf("release %+v", r)
	}
	var last Status
	packages, err := s.Packages(context.Background(), r, func(st Status) { last = st })
	if err != nil {
		t.Fatal(err)
	}
	if len(packages) != 2 || packages[0].Name != "demo" || packages[0].Depends != "libdemo (>= 1)" ||
		packages[1].Provides != "libdemo-api (= 1)" || packages[1].File.Path != "debian/pool/main/d/demo/libdemo_1.0-1_amd64.deb" || packages[1].File.Size != 4 {
		t.Errorf("packages %+v", packages)
	}
	if last.BytesDone != int64(len(list)) || last.Bytes != last.BytesDone || last.FilesDone != 1 {
		t.Errorf("progress ended with %+v", last)
	}
	for _, ask := range m.requests() {
		if strings.HasSuffix(ask, "Packages.xz") {
			t.Errorf("asked for %s, although there is a name by hash", ask)
		}
	}
}

// Old mirrors have no InRelease, and no names by hash.
func TestDetachedSignatureAndPlainNames(t *testing.T) {
	m, key := newMirror(t), newSigner(t, "archive")
	list := xzOf(t, packagesText)
	text := release(list, "Acquire-By-Hash: yes\n", "")
	var sig bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&sig, []*openpgp.Entity{key.entity}, strings.NewReader(text), nil); err != nil {
		t.Fatal(err)
	}
	m.files["/debian/dists/trixie/Release"] = []byte(text)
	m.files["/debian/dists/trixie/Release.gpg"] = sig.Bytes()
	m.files["/debian/dists/trixie/main/binary-amd64/Packages.xz"] = list
	s := m.source(t)
	now := time.Now() // the signature's time is the library's
	s.Mirrors.AllowExpired = true
	r, err := s.Release(context.Background(), suite(key.keys()), now)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Expired {
		t.Error("nothing says that the index is past its Valid-Until")
	}
	if packages, err := s.Packages(context.Background(), r, nil); err != nil || len(packages) != 2 {
		t.Errorf("%d packages, %v", len(packages), err)
	}
	m.files["/debian/dists/trixie/Release"] = []byte(text + "Extra: field\n")
	if _, err := s.Release(context.Background(), suite(key.keys()), now); !errors.Is(err, ErrSignature) {
		t.Errorf("changed Release: %v", err)
	}
}

func TestIndexRefused(t *testing.T) {
	key, old, stranger := newSigner(t, "archive"), newSigner(t, "old archive"), newSigner(t, "stranger")
	list := xzOf(t, packagesText)
	good := sign(t, release(list), key)
	trusted := Keys{append(key.keys().list, old.keys().list...)}
	for name, c := range map[string]struct {
		data  []byte
		keys  Keys
		clock time.Time
		is    error
		says  string
	}{
		"good":                      {good, trusted, today, nil, ""},
		"good, signed by both":      {sign(t, release(list), stranger, old), trusted, today, nil, ""},
		"stable has no Valid-Until": {sign(t, release(list, "Valid-Until: Sun, 10 May 2026 09:15:44 UTC\n", ""), key), trusted, today.AddDate(3, 0, 0), nil, ""},
		"stranger's signature":      {sign(t, release(list), stranger), trusted, today, ErrSignature, ""},
		"one byte changed":          {bytes.Replace(good, []byte("Origin: Demo"), []byte("Origin: Dema"), 1), trusted, today, ErrSignature, ""},
		"no signature":              {[]byte(release(list)), trusted, today, ErrSignature, ""},
		"text after the signature":  {append(bytes.Clone(good), "Suite: other\n"...), trusted, today, ErrSignature, ""},
		"no keys":                   {good, Keys{}, today, ErrSignature, ""},
		"cut":                       {good[:len(good)/2], trusted, today, ErrSignature, ""},
		"expired":                   {good, trusted, today.AddDate(0, 0, 7), ErrExpired, "2026-05-10T09:15:44Z"},
		"from the future":           {good, trusted, today.AddDate(0, 0, -5), nil, ""},
		"another suite":             {sign(t, release(list, "trixie", "bookworm"), key), trusted, today, nil, `not trixie`},
		"another architecture":      {sign(t, release(list, "all amd64", "all arm64"), key), trusted, today, nil, "no architecture amd64"},
		"no list of files":          {sign(t, release(list, "SHA256:", "SHA1:"), key), trusted, today, nil, "no files with SHA256"},
		"bad digest":                {sign(t, release(list, digest(list), "1234"), key), trusted, today, nil, "bad line in SHA256"},
		"no date":                   {sign(t, release(list, "Date: Sun", "Dato: Sun"), key), trusted, today, nil, "its Date"},
	} {
		m := newMirror(t)
		m.publish(c.data, list)
		_, err := m.source(t).Release(context.Background(), suite(c.keys), c.clock)
		fine := c.is == nil && c.says == "" && name != "from the future"
		if fine != (err == nil) || c.is != nil && !errors.Is(err, c.is) || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Unsigned text before the signed message must not be read as part of it.
func TestOnlySignedTextIsRead(t *testing.T) {
	key := newSigner(t, "archive")
	data := append([]byte("Suite: evil\n\n"), sign(t, "Suite: good\n", key)...)
	text, _, err := VerifyInline(data, key.keys(), today)
	if err == nil && strings.Contains(string(text), "evil") {
		t.Errorf("read %q", text)
	}
}

func TestListMustMatchTheIndex(t *testing.T) {
	key := newSigner(t, "archive")
	list := xzOf(t, packagesText)
	for name, other := range map[string][]byte{
		"other content, same size": append(bytes.Clone(list[:len(list)-1]), list[len(list)-1]^1),
		"longer":                   append(bytes.Clone(list), 'x'),
		"shorter":                  list[:len(list)-1],
	} {
		m := newMirror(t)
		m.publish(sign(t, release(list), key), list)
		m.files["/debian/dists/trixie/main/binary-amd64/by-hash/SHA256/"+digest(list)] = other
		s := m.source(t)
		r, err := s.Release(context.Background(), suite(key.keys()), today)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Packages(context.Background(), r, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := s.Cache.Open(digest(list)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: left in the cache: %v", name, err)
		}
	}
}

func TestBadPackageLists(t *testing.T) {
	key := newSigner(t, "archive")
	for old, bad := range map[string]string{
		"Size: 4":               "Size: -4",
		"SHA256: 9f86":          "SHA256: 9F86",
		"Package: demo":         "Package: ../demo",
		"Filename: pool":        "Filename: ../pool",
		"Version: 1.0-1":        "Dersion: 1.0-1",
		"Architecture: all":     "Architecture: a l l",
		"Depends: libdemo":      "Depends libdemo",
		"_1.0-1_amd64.deb\nSiz": "_1.0-1_amd64.deb?x\nSiz",
	} {
		list := xzOf(t, strings.Replace(packagesText, old, bad, 1))
		m := newMirror(t)
		m.publish(sign(t, release(list), key), list)
		s := m.source(t)
		r, err := s.Release(context.Background(), suite(key.keys()), today)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := s.Packages(context.Background(), r, nil); err == nil {
			t.Errorf("%q: no error, %+v", bad, p)
		}
	}
}

func TestLoadKeys(t *testing.T) {
	key := newSigner(t, "archive")
	dir := fstest.MapFS{"good.asc": {Data: key.armored(t)}, "bad.asc": {Data: []byte("not a key")}}
	if keys, err := LoadKeys(dir, []string{"good.asc"}); err != nil || len(keys.list) != 1 {
		t.Errorf("%v, %v", keys, err)
	}
	for _, name := range []string{"bad.asc", "missing.asc", "../good.asc"} {
		if _, err := LoadKeys(dir, []string{name}); err == nil || !strings.Contains(err.Error(), "archive key") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The keys that are shipped can all be read and are not expired today.
func TestShippedKeys(t *testing.T) {
	dir := os.DirFS("../../images/keys")
	entries, err := os.ReadDir("../../images/keys")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".asc") {
			continue
		}
		count++
		keys, err := LoadKeys(dir, []string{e.Name()})
		if err != nil || len(keys.list) != 1 {
			t.Errorf("%s: %v, %v", e.Name(), keys, err)
			continue
		}
		if _, ok := keys.list[0].SigningKey(time.Now(), nil); !ok {
			t.Errorf("%s can no longer sign", e.Name())
		}
	}
	if count == 0 {
		t.Error("no keys are shipped")
	}
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(release([]byte("x"))), []byte(packagesText))
	f.Fuzz(func(t *testing.T, index, list []byte) {
		_, _, _ = VerifyInline(index, Keys{}, today)
		if r, err := readRelease(index, suite(Keys{}), clock{now: today, allowExpired: true}); err == nil {
			for name, file := range r.files {
				if file.Size < 0 || !isDigest(file.SHA256) {
					t.Fatalf("%q: %+v", name, file)
				}
			}
		}
		_ = readPackages(bytes.NewReader(list), "debian", func(p Package) error {
			if !safePath(p.File.Path) || p.File.Size <= 0 {
				t.Fatalf("%+v", p)
			}
			return nil
		})
	})
}
