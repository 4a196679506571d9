package media

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

// discovering is a cluster whose boot server discovers machines, and has nodes install themselves.
const discovering = `
# A rack that grows.
apiVersion: slipway.dev/v1alpha1
kind: Cluster
metadata: {name: lab}
provisioning: {subnet: 10.1.0.0/24, server: 10.1.0.1, pool: 10.1.0.100-10.1.0.199, unknownMachines: discover}
networks: {mgmt: {cidr: 10.1.0.0/24}, container: {cidr: 172.16.1.0/24}}
install: {disk: {minSize: 1GiB, smallest: true}}
nodes:
  - name: cp-1
    role: control-plane
    links: [{name: eth0, mac: "52:54:00:00:00:11", network: mgmt, address: 10.1.0.11},
            {name: eth1, mac: "52:54:00:00:01:11", network: container, address: 172.16.1.11}]
    install: {skip: true}
  - name: worker-1
    role: worker
    links: [{name: eth0, mac: "52:54:00:00:00:21", network: mgmt, address: 10.1.0.21},
            {name: eth1, mac: "52:54:00:00:01:21", network: container, address: 172.16.1.21}]
`

// TestMachineIsDiscoveredAndAdopted: an unknown machine with two disks and two network cards boots by UEFI PXE, tells its hardware, is
// adopted by one command while the server runs, and comes up as that node, on the disk that was chosen by what stays.
func TestMachineIsDiscoveredAndAdopted(t *testing.T) {
	p := pc()
	p.artifact(t, bootspec.ExtRoot)
	r := newRackOf(t, discovering)
	small, large := emptyDisk(t), filepath.Join(t.TempDir(), "large")
	must(t, os.WriteFile(large, nil, 0o600), os.Truncate(large, 8<<30))
	m := p.launchIn(t, r.name, append(p.firmware(t, r.file("vars"), ""),
		"-uuid", "4c4c4544-0042-3010-8051-b4c04f4e3132", "-smbios", "type=1,manufacturer=Maker,product=Model-9,serial=ABC1",
		"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=no",
		"-netdev", "tap,id=n,ifname=tap0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=n,mac=52:54:00:00:00:99,romfile=,bootindex=1",
		"-netdev", "user,id=c,restrict=on", "-device", "virtio-net-pci,netdev=c,mac=52:54:00:00:01:99,romfile=",
		"-drive", "if=none,id=l,format=raw,cache=unsafe,file="+large, "-device", "virtio-blk-pci,drive=l,serial=LARGE",
		"-drive", "if=none,id=s,format=raw,cache=unsafe,file="+small, "-device", "virtio-blk-pci,drive=s,serial=SMALL,bootindex=2")...)
	m.await("DISCOVERY: this machine is not in the cluster document")
	r.await("discovered a machine that isn't in the cluster document")
	told := r.output(r.program, "machines", "52:54:00:00:00:99", "--cluster", r.file("cluster.yaml"), "--state", r.file("state"))
	for _, want := range []string{"Maker Model-9", "ABC1", "4c4c4544-0042-3010-8051-b4c04f4e3132", "UEFI", "SMALL", "LARGE", "52:54:00:00:01:99", "virtio_net", "8.6 GB"} {
		if !strings.Contains(told, want) {
			t.Errorf("the machine doesn't tell %q:\n%s", want, told)
		}
	}
	r.run(r.program, "adopt", "52:54:00:00:00:99", "--role", "worker", "--write", "--cluster", r.file("cluster.yaml"), "--state", r.file("state"))
	document, err := os.ReadFile(r.file("cluster.yaml"))
	must(t, err)
	if added, ok := strings.CutPrefix(string(document), discovering); !ok || !strings.Contains(added, `install: {disk: {serial: "SMALL"}}`) || !strings.Contains(added, `serial: "ABC1"`) {
		t.Errorf("the document became\n%s", document)
	}
	r.await("the cluster document has changed and is served")
	m.await("adopted: this machine restarts as node worker-2")
	m.await("configuration claimed over TLS")
	m.await("slipway: installing (disk /dev/vd") // which letter the kernel gives it is chance
	m.await("(3.2 GB) SMALL")
	r.await("node=worker-2 event=installed")
	m.await(lineMounted) // from its disk: the firmware asks it first, or is told to
	m.never("BOOT FAILED")
	m.off()
	if partition(t, small, bootspec.LabelESP).Size == 0 {
		t.Error("it isn't on the small disk")
	}
	if info, err := os.Stat(large); err != nil || info.Sys().(*syscall.Stat_t).Blocks != 0 {
		t.Errorf("something was written to the other disk: %v", err)
	}
}
