package netboot

import (
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// TestKernelLogOfAFailedNode: it is told of one machine that is asked for, not of all at once, and goes with the next boot.
func TestKernelLogOfAFailedNode(t *testing.T) {
	s := serveLoopback(t)
	failed := `{"mac":"52:54:00:00:00:11","boot":"b","event":"failed","uptime":2000,"detail":"why","log":"words","kernel":"` + strings.Repeat("k", 70<<10) + `\u001b[2Jend"}`
	if status, _, text := s.ask(cpAddress, "POST /v1/report\n"+failed); status != 204 {
		t.Fatal(status, text)
	}
	if _, _, all := s.ask(strangerAddress, "GET /v1/nodes"); strings.Contains(all, "kkk") || !strings.Contains(all, "words") {
		t.Errorf("all machines: %.300s", all)
	}
	for _, name := range []string{"cp-1", "52:54:00:00:00:11", "CP-1"} {
		status, _, one := s.ask(strangerAddress, "GET /v1/nodes/"+name)
		if status != 200 || !strings.Contains(one, "k [2Jend") || strings.Count(one, "k") > 64<<10+100 {
			t.Errorf("%s: %d, %d bytes", name, status, len(one))
		}
	}
	if status, _, _ := s.ask(strangerAddress, "GET /v1/nodes/cp-9"); status != 404 {
		t.Error(status)
	}
	s.states.offered(cpMAC, "again")
	if _, _, one := s.ask(strangerAddress, "GET /v1/nodes/cp-1"); strings.Contains(one, "kkk") || !strings.Contains(one, "words") {
		t.Errorf("after its next boot has begun: %.300s", one)
	}
}

// TestWords: a state in the words that people are told.
func TestWords(t *testing.T) {
	at := time.Now()
	for want, n := range map[string]NodeStatus{
		"unseen": {State: unseen}, "seen": {State: seen}, "offered": {State: "offer"}, "booting local": {State: "offer", BootFrom: FromDisk}, "loading": {State: "kernel sent"},
		"agent up": {State: "agent up"}, "claimed": {State: "config claimed"}, "installing": {State: "installing"}, "Ready": {State: "ready"}, "failed": {State: "failed"}, "discovered": {State: "discovered"},
	} {
		if got := n.Word(); got != want {
			t.Errorf("%s is called %s", n.State, got)
		}
	}
	installed := NodeStatus{State: string(bootspec.EventInstalled), Boots: []Boot{{Events: []EventRecord{{Event: bootspec.EventInstalled, Time: at}}}}}
	if installed.Word() != "booting local" || installed.Stuck(at.Add(time.Hour)).IsZero() {
		t.Errorf("installed: %s", installed.Word())
	}
}
