package rack

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/netboot"
	"github.com/slipway-os/slipway/images/bootspec"
)

func writePID(t *testing.T, file string, pid int) {
	t.Helper()
	if err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestArgumentsBootFromTheNetworkOnly(t *testing.T) {
	c := lab(t)
	args := strings.Join(arguments(spec{
		Name: "cp-1", Boot: string(c.BootMAC(&c.Nodes[0])), Taps: taps(c)[:2], Memory: 2048, CPUs: 2,
		Vars: "/r/cp-1.vars", Serial: "/r/cp-1.log", QMP: "/r/cp-1.qmp",
	}), " ")
	for _, want := range []string{
		"-m 2048", "-smp 2", "ifname=tap0.0,script=no", "mac=52:54:00:00:00:11,romfile=,bootindex=1",
		"mac=52:54:00:00:01:11,romfile= -serial", "-device virtio-rng-pci", "-accel tcg,",
	} {
		if !strings.Contains(args, want) {
			t.Errorf("%q is missing in: %s", want, args)
		}
	}
	for _, not := range []string{"-kernel", "-cdrom", "virtio-blk", "if=virtio"} {
		if strings.Contains(args, not) {
			t.Errorf("%q is there, but the machine shall know nothing but the network: %s", not, args)
		}
	}
}

func status(events ...netboot.EventRecord) netboot.NodeStatus {
	return netboot.NodeStatus{Name: "cp-1", Boots: []netboot.Boot{{Events: events}}}
}

func TestTimelineTellsSecondsSincePowerOn(t *testing.T) {
	on := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	tl := timeline("cp-1", "control-plane", on, status(
		netboot.EventRecord{Event: bootspec.EventOffer, Time: on.Add(5 * time.Second)},
		netboot.EventRecord{Event: bootspec.EventKernelSent, Time: on.Add(15500 * time.Millisecond)},
		netboot.EventRecord{Event: bootspec.EventReady, Time: on.Add(90 * time.Second)},
	))
	var out bytes.Buffer
	writeTimelines(&out, []Timeline{tl})
	fields := strings.Fields(strings.Split(out.String(), "\n")[1])
	want := []string{"cp-1", "0.0", "5.0", "15.5", "-", "-", "-", "-", "-", "-", "90.0"}
	if strings.Join(fields, " ") != strings.Join(want, " ") {
		t.Errorf("table has %v, want %v", fields, want)
	}
	if w := longest([]Timeline{tl}, 1); len(w) != 1 || w[0].To != bootspec.EventReady || w[0].Seconds != 74.5 {
		t.Errorf("longest wait is %+v, want 74.5 s to ready", w)
	}
}

// sleeper is a machine that runs.
func sleeper(t *testing.T) *process {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return &process{name: "cp-1", cmd: cmd, done: make(chan struct{})}
}

func TestJudge(t *testing.T) {
	serial := filepath.Join(t.TempDir(), "cp-1.log")
	on := time.Now()
	failed := netboot.EventRecord{Event: bootspec.EventFailed, Time: on, Detail: "the root image is damaged", Log: "last words"}
	agentUp := netboot.EventRecord{Event: bootspec.EventAgentUp, Time: on}
	many := netboot.NodeStatus{Name: "cp-1", Boots: []netboot.Boot{{}, {}, {Events: []netboot.EventRecord{failed}}}}
	for _, test := range []struct {
		name   string
		status netboot.NodeStatus
		serial string
		later  time.Duration // how long nothing new happened
		want   string        // empty: nothing is wrong
	}{
		{"on its way", status(agentUp), "", time.Minute, ""},
		{"failed just now, and may heal", status(agentUp, failed), "", time.Second, ""},
		{"failed for good", status(agentUp, failed), "", 2 * healing, "cp-1: the node reports: the root image is damaged"},
		{"silent", status(agentUp), "", time.Hour, `cp-1: nothing happened for 3600 s after "agent up"`},
		{"silent, but not on its console", status(agentUp), "[ 9.0] slipway: waiting for units: etcd.service\r\n[ 9.1] audit\r\n", time.Hour,
			`cp-1: nothing happened for 3600 s after "agent up"; it said: waiting for units: etcd.service`},
		{"panicked, and starts again", status(agentUp), "[ 1.0] Kernel panic - not syncing: no init", 0, ""},
		{"boots in a loop", many, "[ 1.0] Kernel panic - not syncing: no init\r\n", 0, "cp-1: it started 3 times; the last boot came to \"failed\" the root image is damaged; its kernel panicked: no init"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := os.WriteFile(serial, []byte(test.serial), 0o600); err != nil {
				t.Fatal(err)
			}
			r := &rack{Options: Options{Cluster: lab(t)}, machines: []*machine{{node: &lab(t).Nodes[0], serial: serial, process: sleeper(t)}}}
			tl := []Timeline{timeline("cp-1", "control-plane", on, test.status)}
			seen := map[string]progress{}
			err := r.judge(tl, seen, on)
			if err == nil {
				err = r.judge(tl, seen, on.Add(test.later))
			}
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.HasPrefix(err.Error(), test.want)) {
				t.Errorf("judged %v, want %q", err, test.want)
			}
		})
	}
}

func TestTailIsFitForATerminal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "serial.log")
	text := strings.Repeat("old\r\n", 50) + "\x1b[2J\x1b[0;32mgreen\x1b[0m\x07\r\n\x1b[8;1Hlast\xff line\r\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := tail(file, 2); got != "green\nlast? line" {
		t.Errorf("tail is %q", got)
	}
	if got := tail(filepath.Join(t.TempDir(), "none"), 2); !strings.Contains(got, "no log") {
		t.Errorf("tail of a missing log is %q", got)
	}
}

func TestPodsSpeakPlainly(t *testing.T) {
	var p pod
	err := json.Unmarshal([]byte(`{"metadata": {"name": "web"}, "status": {"phase": "Pending", "containerStatuses": [
		{"name": "writer", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ErrImageNeverPull", "message": "image is not present"}}},
		{"name": "server", "ready": true, "restartCount": 2, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}}`), &p)
	if err != nil {
		t.Fatal(err)
	}
	want := "pod web is pending; container writer waits: ErrImageNeverPull image is not present"
	if err := running("web")(context.Background(), pods{"web": p}); err == nil || err.Error() != want {
		t.Errorf("running says %v, want %s", err, want)
	}
	if err := restarted("web")(context.Background(), pods{"web": p}); err != nil {
		t.Errorf("restarted says %v, but a container was restarted twice", err)
	}
	if err := succeeded("gone")(context.Background(), pods{}); err == nil {
		t.Error("a pod that isn't there has succeeded")
	}
}

func TestKVMNeedsTheProcessor(t *testing.T) {
	for info, want := range map[string]bool{
		"flags\t\t: fpu svm lahf_lm\n": true, "flags : vmx\n": true, "flags : fpu\nbugs : svm\n": false, "": false,
	} {
		if got := hasVirtualisation(info); got != want {
			t.Errorf("hasVirtualisation(%q) = %v", info, got)
		}
	}
}

func TestALivingRackIsLeftAlone(t *testing.T) {
	r := &rack{Options: Options{Cluster: lab(t), State: t.TempDir()}}
	r.dir = filepath.Join(r.State, "lab")
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	owner := exec.Command("sh", "-c", "while :; do sleep 1; done; : slipway rack up")
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { owner.Process.Kill(); owner.Wait() }()
	writePID(t, filepath.Join(r.dir, ownerFile), owner.Process.Pid)
	if err := r.claim(); err == nil || !strings.Contains(err.Error(), ErrBusy.Error()) {
		t.Errorf("claim says %v, want %v", err, ErrBusy)
	}
	if _, err := os.Stat(r.dir); err != nil {
		t.Error("the folder of a living rack was removed")
	}
}

func TestChecksGoOnUntilAllHavePassed(t *testing.T) {
	dir := t.TempDir()
	// A kubectl that knows one pod, which is pending at first.
	script := "#!/bin/sh\ncat " + filepath.Join(dir, "pods.json") + "\n"
	if err := os.WriteFile(filepath.Join(dir, "kubectl"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	answer := func(phase string) {
		text := `{"items": [{"metadata": {"name": "names"}, "status": {"phase": "` + phase + `"}}]}`
		if err := os.WriteFile(filepath.Join(dir, "pods.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := &rack{Options: Options{Cluster: lab(t)}, dir: dir, space: testSpace(t)}
	checks := []check{{name: "names", pod: "names", try: succeeded("names")}}
	results := []CheckResult{{Name: "names", Cause: untried}}
	answer("Pending")
	if left := r.round(t.Context(), checks, results, time.Now()); left != 1 || results[0].Cause != "pod names is pending" {
		t.Errorf("%d left, cause %q", left, results[0].Cause)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if left := r.round(over, checks, results, time.Now()); left != 1 || results[0].Cause != "pod names is pending" {
		t.Errorf("when the time was over: %d left, cause %q", left, results[0].Cause)
	}
	answer("Succeeded")
	if left := r.round(t.Context(), checks, results, time.Now()); left != 0 || !results[0].Pass || results[0].Cause != "" {
		t.Errorf("%d left, result %+v", left, results[0])
	}
}
