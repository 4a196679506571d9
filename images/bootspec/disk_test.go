package bootspec

import (
	"strings"
	"testing"
)

func TestBootEntriesComeBackAsTheLoaderRenamesThem(t *testing.T) {
	const image = "slipway-control-plane-0.1.0-amd64"
	if got := BootEntry(image, BootTries); got != image+"+3.efi" {
		t.Errorf("a new entry is called %s", got)
	}
	for name, want := range map[string]BootCount{
		image + "+3.efi":   {Counted: true, Left: 3},
		image + "+2-1.efi": {Counted: true, Left: 2, Failed: 1},
		image + "+0-3.efi": {Counted: true, Left: 0, Failed: 3},
		image + ".efi":     {},
	} {
		if got, count, ok := ParseBootEntry(name); !ok || got != image || count != want {
			t.Errorf("%s: image %q, %+v, %v", name, got, count, ok)
		}
	}
	if got, count, ok := ParseBootEntry("slipway-worker-1.0.0+5-arm64.efi"); !ok || got != "slipway-worker-1.0.0+5-arm64" || count.Counted {
		t.Errorf("a version with a plus sign: image %q, %+v, %v", got, count, ok)
	}
	for _, name := range []string{"", "slipway-.efi", "other+3.efi", image, image + "+x.efi", image + "+99999.efi", "../" + image + ".efi", image + "+3.efi.old"} {
		if got, _, ok := ParseBootEntry(name); ok {
			t.Errorf("%q is taken for an entry of %s", name, got)
		}
	}
}

func TestSlotGUIDIsTheFirstHalfOfTheRootHash(t *testing.T) {
	got, err := SlotGUID("00112233445566778899aabbccddeeff" + strings.Repeat("0", 32))
	if err != nil || got != "00112233-4455-6677-8899-aabbccddeeff" {
		t.Errorf("%s, %v", got, err)
	}
	for _, wrong := range []string{"", "00", strings.Repeat("xy", 32)} {
		if _, err := SlotGUID(wrong); err == nil {
			t.Errorf("%q passes", wrong)
		}
	}
}
