package bootspec

import (
	"strings"
	"testing"
)

func example() Root {
	return Root{
		Image: "slipway-worker-0.1.0-amd64", Hash: strings.Repeat("ab", 32), Digest: strings.Repeat("01", 32),
		Data: 8192, Size: 16384,
	}
}

func TestRootComesBackFromTheCommandLine(t *testing.T) {
	line := "BOOT_IMAGE=x console=ttyS0,115200 " + strings.Join(example().Args(), " ") + " quiet\n"
	if got, err := ParseRoot(line); err != nil || got != example() {
		t.Errorf("root is %+v, error %v", got, err)
	}
}

func TestParseRootNamesTheArgument(t *testing.T) {
	for arg, wrong := range map[string]string{
		ArgImage: "../etc/passwd", ArgRootHash: "abc", ArgRootDigest: strings.Repeat("xy", 32), ArgRootData: "4097", ArgRootSize: "8192",
	} {
		line := strings.Join(example().Args(), " ") + " " + arg + "=" + wrong // the last one wins
		if _, err := ParseRoot(line); err == nil || !strings.Contains(err.Error(), arg+":") {
			t.Errorf("%s=%s: error is %v", arg, wrong, err)
		}
	}
}

func TestParseArgs(t *testing.T) {
	args := ParseArgs("quiet a=1 b=\"two words\" \"c=3 4\" a=2\tempty=\n")
	for name, want := range map[string]string{"quiet": "", "a": "2", "b": "two words", "c": "3 4", "empty": ""} {
		if got, ok := args[name]; !ok || got != want {
			t.Errorf("%s is %q, %v", name, got, ok)
		}
	}
}

func FuzzParseRoot(f *testing.F) {
	f.Add(strings.Join(example().Args(), " "))
	f.Add(`slipway.image="a b" slipway.root.data=99999999999999999999`)
	f.Fuzz(func(t *testing.T, line string) {
		root, err := ParseRoot(line)
		if err != nil {
			return
		}
		if again, err := ParseRoot(strings.Join(root.Args(), " ")); err != nil || again != root {
			t.Errorf("%+v comes back as %+v, %v", root, again, err)
		}
		if root.Size <= root.Data || root.Data%VerityBlockSize != 0 || strings.ContainsAny(root.Image, "/ ") {
			t.Errorf("root is %+v", root)
		}
	})
}
