package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

func TestParseSnapshot(t *testing.T) {
	s, err := ParseSnapshot("20261101T083000Z")
	if err != nil || !s.Time().Equal(time.Date(2026, 11, 1, 8, 30, 0, 0, time.UTC)) {
		t.Errorf("%v, %v", s.Time(), err)
	}
	for _, bad := range []string{"", "20261101", "2026-11-01T00:00:00Z", "20261301T000000Z", "20261101T000000", "20261101T000000Z/.."} {
		if _, err := ParseSnapshot(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestSnapshotURLs(t *testing.T) {
	const at = "20261101T000000Z"
	f := File{Path: "debian-security/pool/a.deb"}
	for text, want := range map[string]string{
		"http://m":                "http://m/archive/debian-security/" + at + "/pool/a.deb http://m/debian-security/" + at + "/pool/a.deb http://m/debian-security/pool/a.deb",
		"http://m/archive/debian": "http://m/archive/debian-security/" + at + "/pool/a.deb http://m/archive/debian-security/pool/a.deb",
		"debian=http://m,debian-security=http://s": "http://s/" + at + "/pool/a.deb http://s/pool/a.deb",
		"debian=http://m/archive/debian/20250101T000000Z,debian-security=http://m/archive/debian-security/20250101T000000Z": "http://m/archive/debian-security/" + at + "/pool/a.deb http://m/archive/debian-security/20250101T000000Z/pool/a.deb",
	} {
		m, err := FindMirrors(Choice{Flag: text})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join((&Source{Mirrors: m}).At(at).urls(f), " "); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", text, got, want)
		}
	}
}

// signAt makes an InRelease that was signed at a moment.
func signAt(t testing.TB, text string, at time.Time, by signer) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, by.entity.PrivateKey, &packet.Config{Time: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, text)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A service with two states of an archive: each index counts at its own moment, long after both have expired.
func TestSnapshotRelease(t *testing.T) {
	m, key := newMirror(t), newSigner(t, "archive")
	now := today.AddDate(1, 0, 0)
	list := xzOf(t, packagesText)
	put := func(at string, date time.Time) {
		text := release(list, "Sun, 03 May 2026 09:15:44 UTC", date.Format(time.RFC1123), "Sun, 10 May 2026 09:15:44 UTC", date.AddDate(0, 0, 7).Format(time.RFC1123), "Acquire-By-Hash: yes\n", "")
		dir := "/archive/debian/" + at + "/dists/trixie/"
		m.files[dir+"InRelease"], m.files[dir+"main/binary-amd64/Packages.xz"] = signAt(t, text, date, key), list
	}
	put("20260505T000000Z", today.Add(2*time.Hour))
	put("20260605T000000Z", today.AddDate(0, 1, 0))
	put("20260705T000000Z", today.AddDate(0, 1, 0)) // the newest state then had expired
	put("20260405T000000Z", today)                  // a mirror that takes no notice of the date
	s := m.source(t)
	for at, want := range map[Snapshot]string{
		"20260505T000000Z": "2026-05-04T14:00:00Z",
		"20260605T000000Z": "2026-06-04T12:00:00Z",
	} {
		r, err := s.At(at).Release(context.Background(), suite(key.keys()), now)
		if err != nil || stamp(r.Date) != want || r.Expired {
			t.Errorf("%s: %+v, %v", at, r, err)
			continue
		}
		if packages, err := s.At(at).Packages(context.Background(), r, nil); err != nil || len(packages) != 2 {
			t.Errorf("%s: %d packages, %v", at, len(packages), err)
		}
	}
	for at, want := range map[Snapshot]string{
		"20260705T000000Z": "expired on 2026-06-11T12:00:00Z (the snapshot is of 2026-07-05T00:00:00Z)",
		"20260405T000000Z": "its date 2026-05-04T12:00:00Z is after the snapshot's (20260405T000000Z): the mirror has no snapshots",
		"20260101T000000Z": "the mirror of flag --mirror has no snapshot 20260101T000000Z of it",
		"20290101T000000Z": "snapshot 20290101T000000Z is in the future",
	} {
		if r, err := s.At(at).Release(context.Background(), suite(key.keys()), now); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v\nwant %q", at, r, err, want)
		}
	}
	if _, err := s.Release(context.Background(), suite(key.keys()), now); !errors.Is(err, ErrGone) {
		t.Errorf("today's index comes from a snapshot: %v", err)
	}
	s.Mirrors.AllowExpired = true
	if r, err := s.At("20260705T000000Z").Release(context.Background(), suite(key.keys()), now); err != nil || !r.Expired {
		t.Errorf("expired, and allowed: %+v, %v", r, err)
	}
}
