package power

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func matches(pattern, text string) bool { return regexp.MustCompile(pattern).MatchString(text) }

func contextWithTimeout(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

// simulator is OpenIPMI's: a whole controller, whose machine is a script that keeps its state in files.
func simulator(t *testing.T) (folder, address string) {
	t.Helper()
	for _, program := range []string{"ipmi_sim", "ipmitool"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is missing (`make deps`)", program)
		}
	}
	probe, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(probe.LocalAddr().String())
	probe.Close()
	folder = t.TempDir()
	chassis := filepath.Join(folder, "chassis")
	for name, text := range map[string]string{
		"chassis": `#!/bin/sh
cd "$(dirname "$0")"; shift; op=$1; shift
if [ $op = get ]; then
	for p; do case $p in power) v=$(cat power 2>/dev/null || echo 0);; boot) v=$(cat boot 2>/dev/null || echo none);; *) v=0;; esac; echo "$p:$v"; done
else
	while [ $# -gt 0 ]; do
		echo "$1 $2" >> calls
		case $1 in power) echo $2 > power;; boot) echo $2 > boot;; shutdown) echo 0 > power;; esac; shift 2
	done
fi
`,
		"commands": "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nmc_enable 0x20\n",
		"lan": fmt.Sprintf(`name "bmc"
set_working_mc 0x20
startlan 1
addr 127.0.0.1 %s
priv_limit admin
allowed_auths_admin none md2 md5 straight
guid a123456789abcdefa123456789abcdef
endlan
chassis_control "%s 0x20"
user 2 true "admin" "secret" admin 10 none md2 md5 straight
`, port, chassis),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command("ipmi_sim", "-c", filepath.Join(folder, "lan"), "-f", filepath.Join(folder, "commands"), "-s", folder, "-n")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return folder, "127.0.0.1:" + port
}

func TestIPMI(t *testing.T) {
	folder, address := simulator(t)
	// Asking which cipher suites there are is what the simulator does not answer.
	m := Machine{IPMI: address, CipherSuite: 3, Login: Login{"admin", "secret"}}
	c := open(t, m)
	ctx, cancel := contextWithTimeout(t, time.Minute)
	defer cancel()
	if err := Await(ctx, c, false); err != nil { // also until the simulator is up
		t.Fatal(err)
	}
	steps := []error{c.BootNext(ctx, Network), c.Power(ctx, On), Await(ctx, c, true), c.Power(ctx, On), c.Power(ctx, Cycle), Await(ctx, c, true), c.Power(ctx, ForceOff),
		Await(ctx, c, false), c.Power(ctx, Cycle), c.BootNext(ctx, Disk), c.BootNext(ctx, Default)}
	for i, err := range steps {
		if err != nil {
			t.Errorf("step %d: %v", i, err)
		}
	}
	calls, err := os.ReadFile(filepath.Join(folder, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(strings.Fields(string(calls)), " "), "boot pxe power 1 power 0 power 1 power 0 power 1 boot default boot none"; got != want {
		t.Errorf("the machine was told %q, want %q", got, want)
	}
	if err := c.Insert(ctx, "http://10.1.0.1/a.iso"); err == nil || !strings.Contains(err.Error(), "IPMI has no virtual media") {
		t.Errorf("got %v", err)
	}
	m.Password = "wrong"
	if _, err := open(t, m).State(ctx); err == nil || !strings.Contains(err.Error(), "cannot ask the controller: ipmitool chassis power status: ") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("got %v", err)
	}
}

// TestNextSource: boot flags as ipmitool 1.8.19 prints them.
func TestNextSource(t *testing.T) {
	text := `Boot parameter version: 1
Boot parameter 5 is valid/unlocked
Boot parameter data: a004000000
 Boot Flags :
   - Boot Flag Valid
   - Options apply to only next boot
   - BIOS EFI boot
   - Boot Device Selector : Force PXE
`
	for want, change := range map[Source][2]string{
		Network: {}, "": {"Flag Valid", "Flag Invalid"}, CD: {"Force PXE", "Force Boot from CD/DVD"}, Disk: {"Force PXE", "Force Boot from default Hard-Drive"},
	} {
		if got := nextSource(strings.Replace(text, change[0], change[1], 1)); got != want {
			t.Errorf("%q: got %q, want %q", change, got, want)
		}
	}
	if got := nextSource(strings.Replace(text, "only next boot", "all future boots", 1)); got != "" {
		t.Errorf("got %q", got)
	}
}
