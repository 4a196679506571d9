package main

import (
	"crypto/sha256"
	"fmt"
	"math/rand"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// Sizes of the files, in bytes.
const (
	kernelSize = 1 << 20
	rootSize   = 2 << 20
)

// Where everything is.
const (
	serverAddress  = "10.64.0.1"
	subnet         = "10.64.0.0/16"
	machineNetwork = "10.64.16.0/20" // of it, the machines'
	imageVersion   = "0.1.0"
	architecture   = "amd64"
)

// machine is one of the rack.
type machine struct {
	name, role string
	mac        net.HardwareAddr
	address    netip.Addr
}

// machines are the rack: three control planes, the others workers.
func machines(count int) []machine {
	all := make([]machine, count)
	address := netip.MustParsePrefix(machineNetwork).Addr()
	for i := range all {
		if address = address.Next(); address.As4()[3] == 255 {
			address = address.Next().Next()
		}
		all[i] = machine{
			name: fmt.Sprintf("node-%d", i+1), role: "worker", address: address,
			mac: net.HardwareAddr{0x52, 0x54, 0, 0x64, byte(i >> 8), byte(i)},
		}
		if i < 3 {
			all[i].role = "control-plane"
		}
	}
	return all
}

// document is the cluster document of the rack.
func document(all []machine) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: slipway.dev/v1alpha1
kind: Cluster
metadata: {name: thousand}
kubernetes: {podCIDR: 10.128.0.0/13, serviceCIDR: 10.96.0.0/16}
provisioning: {subnet: %s, server: %s, pool: 10.64.1.0-10.64.1.255}
networks:
  mgmt: {cidr: %s, gateway: %s}
  container: {cidr: 172.16.0.0/16}
nodes:
`, subnet, serverAddress, subnet, serverAddress)
	for i, m := range all {
		second := append(net.HardwareAddr{}, m.mac...)
		second[3]++
		fmt.Fprintf(&b, `  - name: %s
    role: %s
    match: {mac: %q}
    links:
      - {name: eth0, mac: %q, network: mgmt, address: %s}
      - {name: eth1, mac: %q, network: container, address: 172.16.%d.%d}
`, m.name, m.role, m.mac, m.mac, m.address, second, 1+i/250, 1+i%250)
	}
	return b.String()
}

// images writes an image for each role, and returns the digests of its files by their names.
func images(dir string) (map[string]string, error) {
	digests := map[string]string{}
	for seed, role := range []string{"control-plane", "worker"} {
		base := bootspec.ArtifactBase(role, imageVersion, architecture)
		m := &manifest.Manifest{
			APIVersion: manifest.Version, Kind: manifest.Kind, Role: role, Version: imageVersion, Arch: architecture,
			Plan: strings.Repeat("a", 64), Root: manifest.Root{Hash: strings.Repeat("b", 64), Data: 4096},
		}
		random := rand.New(rand.NewSource(int64(seed)))
		for _, a := range []struct {
			kind, extension string
			size            int
		}{{manifest.KindUKI, bootspec.ExtUKI, kernelSize + 77}, {manifest.KindRoot, bootspec.ExtRoot, rootSize}} {
			content := make([]byte, a.size)
			random.Read(content)
			name, digest := base+a.extension, fmt.Sprintf("%x", sha256.Sum256(content))
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				return nil, err
			}
			m.Artifacts = append(m.Artifacts, manifest.Artifact{Name: name, Kind: a.kind, Size: int64(a.size), SHA256: digest})
			digests[name] = digest
		}
		if err := os.WriteFile(filepath.Join(dir, base+bootspec.ExtManifest), m.Encode(), 0o600); err != nil {
			return nil, err
		}
	}
	return digests, nil
}
