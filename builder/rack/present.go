package rack

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Memory is what a node needs, in bytes.
type Memory struct {
	Node    string `json:"node"`
	Given   int64  `json:"given"`   // of the machine
	Working int64  `json:"working"` // in use and not reclaimable, as the kubelet reckons it
	Host    int64  `json:"host"`    // resident on this machine: guest memory touched so far, and QEMU's own
}

// memory asks the kubelets (their summary API) and the host. What can't be had is left out: it decides nothing.
func (r *rack) memory(ctx context.Context) []Memory {
	var list []Memory
	for _, m := range r.machines {
		text, err := r.kubectl(ctx, nil, "get", "--raw", "/api/v1/nodes/"+m.node.Name+"/proxy/stats/summary")
		if err != nil {
			r.Log.Warn("cannot ask for memory", "node", m.node.Name, "error", err)
			continue
		}
		var summary struct {
			Node struct {
				Memory struct{ WorkingSetBytes int64 }
			}
		}
		if json.Unmarshal([]byte(text), &summary) != nil {
			continue
		}
		list = append(list, Memory{
			Node: m.node.Name, Given: int64(r.Memory[m.node.Role]) << 20,
			Working: summary.Node.Memory.WorkingSetBytes, Host: resident(m.cmd.Process.Pid),
		})
	}
	return list
}

// resident is a process's resident memory in bytes (VmRSS of proc_pid_status(5)); 0 if it can't be told.
func resident(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10
		}
	}
	return 0
}

// present prints what was found out, what runs, and what to try next.
func (r *rack) present(ctx context.Context, result Result) error {
	fmt.Fprintf(r.Out, "\nCluster %s is up: every node is Ready.\n\n", result.Cluster)
	writeTimelines(r.Out, result.Nodes)
	fmt.Fprintln(r.Out, "\nThe longest waits:")
	for _, w := range longest(result.Nodes, 3) {
		fmt.Fprintf(r.Out, "  %5.1f s  %s: %s -> %s\n", w.Seconds, w.Node, w.From, w.To)
	}
	if len(result.Memory) > 0 {
		fmt.Fprintln(r.Out, "\nMemory (MiB):")
	}
	for _, m := range result.Memory {
		fmt.Fprintf(r.Out, "  %s: %d of %d in use, %d resident on this machine\n", m.Node, m.Working>>20, m.Given>>20, m.Host>>20)
	}
	writeChecks(r.Out, result.Checks)
	listing, err := r.kubectl(ctx, nil, "get", "nodes,pods", "-A", "-o", "wide")
	if err != nil {
		return err
	}
	fmt.Fprintf(r.Out, "\n$ kubectl get nodes,pods -A -o wide\n%s", listing)
	if r.Once || r.Faults { // faults write there
		return nil
	}
	if _, err := r.kubectl(ctx, nil, "delete", "namespace", checkSpace, "--wait=false"); err != nil {
		return err
	}
	r.hint()
	return nil
}

func writeChecks(w io.Writer, results []CheckResult) {
	fmt.Fprintln(w, "\nChecks:")
	for _, c := range results {
		if c.Pass {
			fmt.Fprintf(w, "  passed (%.0f s)  %s\n", c.Seconds, c.Name)
		} else {
			fmt.Fprintf(w, "  FAILED  %s: %s\n", c.Name, c.Cause)
		}
	}
}

// hint says what to try next. The network namespace is the rack's own, so every command goes through it.
func (r *rack) hint() {
	inside := "ip netns exec " + r.space.name + " "
	fmt.Fprintf(r.Out, `
What to try next, from another terminal:
  %s%s status --server %s
  export KUBECONFIG=%s
  %s%s get pods -A
Serial consoles: %s
`, inside, r.Slipway, r.base(), r.kubeconfig(), inside, r.kubectlPath(), filepath.Dir(r.logFile("x"))+"/NODE.log")
}
