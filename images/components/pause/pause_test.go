package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// The test binary is pause itself when it is told so.
func TestMain(m *testing.M) {
	if os.Getenv("PAUSE_TEST_MAIN") != "" {
		os.Stdout.WriteString("up\n")
		main()
		return
	}
	os.Exit(m.Run())
}

func TestEndsOnSignal(t *testing.T) {
	for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		command := exec.CommandContext(t.Context(), os.Args[0])
		command.Env = append(os.Environ(), "PAUSE_TEST_MAIN=1")
		out, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // from "up" to the handler; if it's too short the signal ends it all the same
		if err := command.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if err := command.Wait(); err != nil && command.ProcessState.Sys().(syscall.WaitStatus).Signal() != signal {
			t.Errorf("%v: pause ends with %v", signal, err)
		}
	}
}

func TestReapsEveryChild(t *testing.T) {
	var children []int
	for range 3 {
		child, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{})
		if err != nil {
			t.Fatal(err)
		}
		children = append(children, child.Pid)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		reap()
		left := 0
		for _, pid := range children {
			if syscall.Kill(pid, 0) == nil { // a zombie can still be signalled
				left++
			}
		}
		if left == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d children are left", left)
		}
	}
	if _, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
		t.Errorf("a child is left: %v", err)
	}
}
