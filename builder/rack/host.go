package rack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/slipway-os/slipway/images/bootspec"
)

// ErrHost is what errors about the machine that runs the rehearsal wrap: it lacks rights or programs.
var ErrHost = errors.New("this machine cannot run a rack")

// checkHost says what the machine lacks before anything is made.
func checkHost(o Options) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: network namespaces and taps need root (run it as root, or with sudo)", ErrHost)
	}
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("%w: machines are rehearsed on amd64 only, this is %s", ErrHost, runtime.GOARCH)
	}
	if _, err := exec.LookPath(qemu); err != nil {
		return fmt.Errorf("%w: %s is missing (Debian package qemu-system-x86; `make deps` installs it)", ErrHost, qemu)
	}
	for _, f := range []string{firmwareCode, firmwareVars} {
		if _, err := os.Stat(f); err != nil {
			return fmt.Errorf("%w: the firmware %s is missing (Debian package ovmf; `make deps` installs it)", ErrHost, f)
		}
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return fmt.Errorf("%w: there is no /dev/net/tun (modprobe tun)", ErrHost)
	}
	if serverInterface(o.Cluster) == "" {
		return fmt.Errorf("the boot server's address %s is on none of the cluster's networks, so the rack has no place for it", o.Cluster.Provisioning.Server)
	}
	return nil
}

// checkArtifacts says which role's image is missing, rather than letting machines wait for it.
func checkArtifacts(o Options) error {
	for _, node := range o.Cluster.Nodes {
		version := o.Cluster.Image.Version
		if version == "" {
			version = "*"
		}
		pattern := bootspec.ArtifactBase(node.Role, version, runtime.GOARCH) + bootspec.ExtManifest
		found, err := filepath.Glob(filepath.Join(o.Artifacts, pattern))
		if err != nil {
			return fmt.Errorf("cannot look for images: %w", err)
		}
		if len(found) == 0 {
			return fmt.Errorf("there is no image for %s: %s has no %s (slipway bake --role %s --out %s)", node.Name, o.Artifacts, pattern, node.Role, o.Artifacts)
		}
	}
	return nil
}
