package media

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// virt is an arm64 machine as QEMU invents one: UEFI, ACPI, PCI, a PL011. Its processor is one that QEMU emulates without much
// ado (pointer authentication alone doubles the time).
func virt() platform {
	return platform{
		arch: "arm64", qemu: "qemu-system-aarch64", code: "/usr/share/AAVMF/AAVMF_CODE.fd", vars: "/usr/share/AAVMF/AAVMF_VARS.fd",
		args:     []string{"-machine", "virt,gic-version=3", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "cortex-a72"},
		kernel:   "systemd.default_timeout_start_sec=900", // units' own 90 s are little where other work has the processors
		patience: 25 * time.Minute, life: 55 * time.Minute,
	}
}

const lineProof = "a container on arm64"

// proof is the configuration of a node whose target is started when containerd runs, has the image's container images, and a
// container of one of them has run.
func proof(t *testing.T) []byte {
	t.Helper()
	node, err := json.Marshal(bootspec.Node{
		APIVersion: bootspec.Version, Cluster: "lab", Name: "worker-1", Role: "worker", Target: "proof.target", APIServer: "https://10.1.0.11:6443",
	})
	must(t, err)
	file := func(path, content string) map[string]any {
		return map[string]any{"path": path, "mode": 0o644, "contents": map[string]string{"source": "data:," + url.PathEscape(content)}}
	}
	const units = "/etc/systemd/system/"
	config, err := json.Marshal(map[string]any{
		"ignition": map[string]string{"version": "3.4.0"},
		"storage": map[string]any{"files": []any{
			file(bootspec.NodeDocument, string(node)),
			file(units+"proof.target", "[Unit]\nRequires=proof.service\nAfter=proof.service\n"),
			file(units+"proof.service", "[Unit]\nRequires=slipway-images.service\nAfter=slipway-images.service\n"+
				"[Service]\nType=oneshot\nRemainAfterExit=yes\nTimeoutStartSec=infinity\nStandardOutput=tty\nTTYPath=/dev/console\n"+
				"ExecStart=/usr/bin/ctr -n k8s.io run --rm --seccomp --mount type=bind,src=/etc/proof,dst=/proof,options=rbind:ro slipway.local/check:0.1.0 proof /check cat /proof\n"),
			file("/etc/proof", lineProof+"\n"),
		}},
	})
	must(t, err)
	return config
}

// TestArm64MachineBootsFromADisk: firmware, boot loader, kernel, root image, Ignition, systemd and the role's programs, all of
// arm64 and all baked on another architecture; the second boot keeps what the first one made.
func TestArm64MachineBootsFromADisk(t *testing.T) {
	p := virt()
	path := medium(t, p.artifact(t, bootspec.ExtDisk))
	configure(t, path, proof(t))
	m := p.boot(t, virtioDisk(path, 512)...)
	if m.await(lineBlessed, lineFailed) != lineBlessed {
		t.FailNow()
	}
	for _, line := range []string{"slipway: configuration read from the medium (cluster lab, node worker-1", lineStateMade, lineMounted, lineProof} {
		if !strings.Contains(m.console(), line) {
			t.Errorf("the console doesn't say %q", line)
		}
	}
	m.off()
	if got := entries(t, path); strings.Contains(got, "+") || !strings.HasSuffix(got, "-arm64.efi") {
		t.Errorf("boot entries: %s", got)
	}
	m = p.boot(t, virtioDisk(path, 512)...)
	m.await(lineUncounted, lineFailed)
	m.never(lineStateMade, lineFailed, lineBlessed)
}

// TestArm64MachineWithTheNetworkFirstInstallsOnce: the same by PXE from the boot server, which gives each machine the image of
// its architecture.
func TestArm64MachineWithTheNetworkFirstInstallsOnce(t *testing.T) { installsOnce(t, virt()) }
