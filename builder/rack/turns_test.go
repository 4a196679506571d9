package rack

import (
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestTurns plays machines that need different shares of processors: clocks stay together, and the processors are neither
// idle while somebody waits nor asked for much more than they have.
func TestTurns(t *testing.T) {
	for _, test := range []struct {
		name       string
		uses       []float64
		processors int
		least      float64 // pace of the clocks
	}{
		{"all busy", []float64{1, 1, 1, 1, 1}, 2, 0.38},
		{"three busy, two idle", []float64{1, 1, 1, 0.15, 0.15}, 2, 0.55},
		{"all need little", []float64{0.5, 0.5, 0.5, 0.2, 0.2}, 2, 0.99},
		{"one processor", []float64{1, 0.2, 0.2}, 1, 0.6},
	} {
		t.Run(test.name, func(t *testing.T) {
			var players []*player
			for _, u := range test.uses {
				players = append(players, &player{uses: u})
			}
			var asked float64
			changes := 0
			const turns = 3000
			for range turns {
				for i, goes := range choose(players, test.processors) {
					if goes != players[i].goes {
						changes++
					}
					if players[i].goes = goes; goes {
						players[i].ran += turnTime
						asked += players[i].uses
					}
				}
				for _, p := range players {
					if d := p.ran - players[0].ran; d.Abs() > 3*lead {
						t.Fatalf("a clock is %v apart", d)
					}
				}
			}
			if pace := float64(players[0].ran) / float64(turns*turnTime); pace < test.least {
				t.Errorf("clocks go at %.2f, want at least %.2f", pace, test.least)
			}
			if changes > turns { // stops and starts
				t.Errorf("%d changes in %d turns", changes, turns)
			}
			if load := asked / turns; load > 0.5+float64(test.processors) {
				t.Errorf("%.2f processors are asked for", load)
			}
		})
	}
}

// TestTurnsOfALateMachine: one that is powered on later has the others' time.
func TestTurnsOfALateMachine(t *testing.T) {
	rack := &turns{}
	early, late := &player{ran: time.Minute}, &player{}
	rack.advance([]*player{early})
	rack.advance([]*player{early, late})
	if late.ran != time.Minute || rack.clock() != time.Minute {
		t.Errorf("the late machine is at %v, the rack at %v", late.ran, rack.clock())
	}
}

func TestPlayerMeasuresWhatItNeeds(t *testing.T) {
	p := &player{}
	for i := range 20 {
		p.ran += time.Second
		p.measure(time.Duration(i+1) * 700 * time.Millisecond)
	}
	if p.uses < 0.69 || p.uses > 0.71 {
		t.Errorf("a machine that takes 0.7 s in each second needs %.2f processors", p.uses)
	}
	if wanted(1<<30) != 0 {
		t.Error("a process that isn't there takes time")
	}
}

func TestMonitorStopsAndContinuesAMachine(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "qmp")
	cmd := exec.Command(qemu, "-machine", "none", "-display", "none", "-nodefaults", "-S", "-qmp", "unix:"+socket+",server=on,wait=off")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	m, err := openMonitor(context.Background(), socket)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, step := range [][2]string{{"cont", "running"}, {"stop", "paused"}} {
			command, want := step[0], step[1]
			if err := m.execute(command); err != nil {
				t.Fatal(err)
			}
			var status struct{ Status string }
			answer, err := m.ask("query-status")
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(answer, &status); err != nil || status.Status != want {
				t.Errorf("after %s it is %q (%v), want %q", command, status.Status, err, want)
			}
		}
	}
	if err := m.execute("no-such-command"); err == nil {
		t.Error("QEMU refuses a command and execute does not say so")
	}
	if err := m.execute("quit"); err != nil {
		t.Fatal(err)
	}
	if err := m.execute("stop"); err == nil {
		t.Error("a machine that is gone was stopped")
	}
}
