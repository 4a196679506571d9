package deb

import (
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

// ascending versions; neighbours on one line are equal.
const ascending = `
1.0~~ 1.0~~-0
1.0~~a
1.0~
1.0 1.00 01.0 0:1.0 1.0-0 1.0-00
1.0-0a
1.0-0+
1.0-0.1
1.0-1~bpo13+1
1.0-1
1.0-1+b1
1.0-1+deb13u1
1.0-1.1
1.0a
1.0+
1.0.1
1.2
1.10
9999999999999999999999
10000000000000000000000
1:0.1
1:1-1-1
1:1:1`

func TestVersionOrder(t *testing.T) {
	type ranked struct {
		text string
		rank int
	}
	var all []ranked
	for rank, line := range strings.Split(strings.TrimSpace(ascending), "\n") {
		for _, text := range strings.Fields(line) {
			all = append(all, ranked{text, rank})
		}
	}
	for _, a := range all {
		for _, b := range all {
			want := max(-1, min(1, a.rank-b.rank))
			if got := compare(t, a.text, b.text); got != want {
				t.Errorf("%s against %s: %d, want %d", a.text, b.text, got, want)
			}
		}
	}
}

func compare(t *testing.T, a, b string) int {
	t.Helper()
	v, err := ParseVersion(a)
	if err != nil {
		t.Fatal(err)
	}
	w, err := ParseVersion(b)
	if err != nil {
		t.Fatal(err)
	}
	return v.Compare(w)
}

// dpkg itself is the judge of random versions.
func TestVersionOrderAgainstDpkg(t *testing.T) {
	dpkg, err := exec.LookPath("dpkg")
	if err != nil {
		t.Skip("no dpkg on this machine")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	word := func() string {
		b := []byte{"0123456789"[rng.IntN(10)]}
		for range rng.IntN(6) {
			b = append(b, "001129aZ.+~-"[rng.IntN(12)])
		}
		return strings.TrimRight(string(b), "-")
	}
	for range 150 {
		a, b := word(), word()
		op := map[int]string{-1: "lt", 0: "eq", 1: "gt"}[compare(t, a, b)]
		if err := exec.Command(dpkg, "--compare-versions", a, op, b).Run(); err != nil {
			t.Errorf("dpkg does not agree that %s %s %s", a, op, b)
		}
	}
}

func TestBadVersions(t *testing.T) {
	for _, s := range []string{"", "-1", "1-", ":1", "a:1", "-1:1", "1 2", "1_2", "1:", "1/2", "4294967296:1", "1-é", strings.Repeat("1", 600)} {
		if v, err := ParseVersion(s); err == nil {
			t.Errorf("%q is read as %v", s, v)
		}
	}
}

func TestRelations(t *testing.T) {
	text := "libc6 (>= 2.38),a|b (<<1:2-3) , c:any (= 1.0) [amd64 arm64], d [!i386],, e(>1),\n f"
	got, err := ParseRelations(text)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, c := range got {
		lines = append(lines, c.String())
	}
	want := "libc6 (>= 2.38)\na | b (<< 1:2-3)\nc:any (= 1.0) [amd64 arm64]\nd [!i386]\ne (>= 1)\nf"
	if s := strings.Join(lines, "\n"); s != want {
		t.Errorf("got\n%s\nwant\n%s", s, want)
	}
	if c, d := got[2][0], got[3][0]; !c.AppliesTo("arm64") || c.AppliesTo("i386") || d.AppliesTo("i386") || !d.AppliesTo("amd64") {
		t.Error("architecture restrictions are read wrongly")
	}
}

func TestRelationAllows(t *testing.T) {
	for text, want := range map[string]string{
		"a":         "1 2 3",
		"a (<< 2)":  "1",
		"a (<= 2)":  "1 2",
		"a (= 2)":   "2",
		"a (>= 2)":  "2 3",
		"a (>> 2~)": "2 3",
	} {
		clauses, err := ParseRelations(text)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range []string{"1", "2", "3"} {
			if v, _ := ParseVersion(s); clauses[0][0].Allows(v) {
				got = append(got, s)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s allows %v, want %s", text, got, want)
		}
	}
}

func TestBadRelations(t *testing.T) {
	for _, s := range []string{"a |", "a (>= 1", "a (1)", "a (=> 1)", "a (>= )", "a [", "a []", "a [amd64 !i386]", "a b", "ä", "a (>= 1) b", "a <!nocheck>", ":any"} {
		if c, err := ParseRelations(s); err == nil {
			t.Errorf("%q is read as %v", s, c)
		}
	}
}
