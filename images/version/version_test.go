package version

import (
	"math/rand"
	"slices"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, good := range []string{"0.1.0", "10.20.30", "1.0.0-rc.1", "1.0.0-0a", "1.0.0-x-y-z.--", "1.0.0+ci.057", "1.0.0-rc.1+20260101.g1a2b3c", strings.Repeat("1", MaxLength-4) + ".0.0"} {
		if err := Check(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "1", "1.2", "v1.2.3", "1.2.3.4", "01.2.3", "1.2.3-", "1.2.3+", "1.2.3-01", "1.2.3-a..b", "1.2.3+a..b", "1.2.3+a+b", "1.2.3+a_b",
		" 1.2.3", "1.2.3\n", "1.2.3-Rc.1", "1.2.3+CI", "latest", "-1.2.3", strings.Repeat("1", MaxLength) + ".0.0",
	} {
		if err := Check(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestWithBuild(t *testing.T) {
	for _, c := range [][3]string{{"0.1.0", "ci.57", "0.1.0+ci.57"}, {"0.1.0-rc.1", "7", "0.1.0-rc.1+7"}, {"0.1.0+eu", "7", "0.1.0+eu.7"}} {
		if got, err := WithBuild(c[0], c[1]); err != nil || got != c[2] {
			t.Errorf("%s with %s: %s, %v", c[0], c[1], got, err)
		}
	}
	for _, bad := range []string{"", "a b", "a+b", "A", "."} {
		if got, err := WithBuild("0.1.0", bad); err == nil {
			t.Errorf("%q was taken: %s", bad, got)
		}
	}
}

// TestOrder has the examples of the specification (section 11), and what Slipway adds about build metadata.
func TestOrder(t *testing.T) {
	ordered := []string{
		"0.9.9", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1",
		"1.0.0", "1.0.0+2", "1.0.0+07", "1.0.0+7", "1.0.0+11", "1.0.0+11.1", "1.0.0+ci.9", "1.0.0+ci.10", "1.0.1", "1.2.0", "1.10.0", "2.0.0",
	}
	shuffled := slices.Clone(ordered)
	rand.New(rand.NewSource(1)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	slices.SortFunc(shuffled, Compare)
	if !slices.Equal(shuffled, ordered) {
		t.Errorf("%v\nwant %v", shuffled, ordered)
	}
	if Precedence("1.0.0+a", "1.0.0+b") != 0 || Precedence("1.0.0", "1.0.0-rc.1") != 1 || Precedence("1.0.0-rc.1", "1.0.0") != -1 {
		t.Error("build metadata counts, or a pre-release comes after its release")
	}
}

func FuzzCompare(f *testing.F) {
	f.Add("1.0.0+a.1", "1.0.0+a.01")
	f.Fuzz(func(t *testing.T, a, b string) {
		if Check(a) != nil || Check(b) != nil {
			return
		}
		c, d := Compare(a, b), Compare(b, a)
		if (c < 0) != (d > 0) || (c == 0) != (a == b) {
			t.Fatalf("%s and %s: %d and %d", a, b, c, d)
		}
	})
}
