package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// thousand boots a thousand simulated machines at once against the boot server.
func thousand() ([]row, error) {
	const command = "go run ./test/thousand"
	if os.Geteuid() != 0 {
		return []row{{"1,000 machines at once", "not measured: needs root", command}}, nil
	}
	cmd := exec.Command("go", "run", "./test/thousand")
	cmd.Stderr = os.Stderr
	out, failed := cmd.Output()
	var r struct {
		Machines, Failed int
		Repeated         int64
		Seconds          float64
		PeakMemory       int64
		ProcessorSeconds float64
		DHCP             struct{ MedianMilliseconds, P99Milliseconds float64 }
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return nil, errors.Join(failed, err)
	}
	return []row{
		{fmt.Sprintf("%d machines at once, from DHCP to Ready, files of 1 and 2 MB: until the last / of them failed / asked again", r.Machines),
			fmt.Sprintf("%.1f s / %d / %d", r.Seconds, r.Failed, r.Repeated), command},
		{"the same: a DHCP answer, median / 99th percentile", fmt.Sprintf("%.0f / %.0f ms", r.DHCP.MedianMilliseconds, r.DHCP.P99Milliseconds), command},
		{"the same: the boot server's memory at most / processor time", fmt.Sprintf("%d MB / %.1f s", r.PeakMemory/1e6, r.ProcessorSeconds), command},
	}, failed
}
