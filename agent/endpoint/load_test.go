package endpoint

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

func TestLoadFaults(t *testing.T) {
	folder := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	node := func(name string, api *bootspec.API) string {
		data, err := json.Marshal(bootspec.Node{APIVersion: bootspec.Version, Name: "a", Role: "worker", Target: "x", API: api})
		if err != nil {
			t.Fatal(err)
		}
		return write(name, data)
	}
	good := node("good.json", &bootspec.API{Servers: []string{"10.1.0.11:6443"}})
	for _, tt := range []struct{ document, authority, want string }{
		{filepath.Join(folder, "none"), "", "cannot read the node document: open "},
		{write("bad.json", []byte("{")), "", "bad.json: cannot read node document: "},
		{node("old.json", nil), "", "names no API servers: provision this node again"},
		{node("empty.json", &bootspec.API{}), "", "names no API servers: provision this node again"},
		{good, filepath.Join(folder, "none"), "cannot read the cluster's authority: open "},
		{good, write("ca.crt", []byte("nothing")), "no certificate in "},
	} {
		if _, err := Load(tt.document, tt.authority); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.document, err, tt.want)
		}
	}
	if err := Release(good); err != nil {
		t.Errorf("a worker has no virtual address to release: %v", err)
	}
}

func TestVirtualAddressFaults(t *testing.T) {
	good := bootspec.VirtualAddress{Address: netip.MustParseAddr(virtual), Link: "eth0", Server: "10.1.0.11:6443", Router: 5, Priority: 250}
	if _, err := router(good); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*bootspec.VirtualAddress){
		"own API server":               func(v *bootspec.VirtualAddress) { v.Server = "cp-1:6443" },
		"must be IPv4":                 func(v *bootspec.VirtualAddress) { v.Address = netip.MustParseAddr("fd00::5") },
		"number 0 or priority 250":     func(v *bootspec.VirtualAddress) { v.Router = 0 },
		"number 256 or priority 250":   func(v *bootspec.VirtualAddress) { v.Router = 256 },
		"number 5 or priority 255 is":  func(v *bootspec.VirtualAddress) { v.Priority = 255 },
		"number 5 or priority 0 is ou": func(v *bootspec.VirtualAddress) { v.Priority = 0 },
	} {
		v := good
		change(&v)
		if _, err := router(v); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestPeers(t *testing.T) {
	api := bootspec.API{Servers: []string{"10.1.0.11:6443", "10.1.0.12:6443", "10.1.0.13:6443"}, VirtualAddress: &bootspec.VirtualAddress{Server: "10.1.0.12:6443"}}
	got, err := peers(api)
	if want := []netip.Addr{netip.MustParseAddr("10.1.0.11"), netip.MustParseAddr("10.1.0.13")}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"cp-1:6443", "[fd00::1]:6443", "10.1.0.11"} {
		api.Servers[0] = bad
		if _, err := peers(api); err == nil || !strings.Contains(err.Error(), "API server "+bad+": it must be") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestPortTaken: the error says what is wrong, and nothing is left running.
func TestPortTaken(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	err = Run(t.Context(), Config{
		API: bootspec.API{Servers: []string{"127.0.0.1:1"}}, Listen: listener.Addr().String(),
		Notify: func(string) {}, Log: slog.New(slog.DiscardHandler),
	})
	if err == nil || !strings.HasPrefix(err.Error(), "cannot listen for the node's own clients: ") {
		t.Error(err)
	}
}
