package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

func TestResolvConfReplacesALink(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "stub")
	if err := os.WriteFile(outside, []byte("stub"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "resolv.conf")); err != nil {
		t.Fatal(err)
	}
	etc, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer etc.Close()
	n := bootspec.Network{DNS: []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("2001:db8::1")}, Domains: []string{"lab.example", "example"}}
	for range 2 {
		if err := WriteResolvConf(etc, n); err != nil {
			t.Fatal(err)
		}
	}
	want := "# Written by slipway-agent from the node document.\nnameserver 10.1.0.1\nnameserver 2001:db8::1\nsearch lab.example example\n"
	if got, err := os.ReadFile(filepath.Join(dir, "resolv.conf")); err != nil || string(got) != want {
		t.Errorf("resolv.conf is %q, %v", got, err)
	}
	if got, _ := os.ReadFile(outside); string(got) != "stub" {
		t.Errorf("the link was followed: %q", got)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left beside: %v", entries)
	}
}
