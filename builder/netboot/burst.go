package netboot

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// inTurn has a node's configuration made for a few at a time: each takes memory, and more of them at once wouldn't be ready sooner.
func inTurn(few int, render func(node string) ([]byte, error)) func(node string) ([]byte, error) {
	turns := make(chan struct{}, few)
	return func(node string) ([]byte, error) {
		turns <- struct{}{}
		defer func() { <-turns }()
		return render(node)
	}
}

// neighboursFile has how many neighbours the kernel keeps at most, over all interfaces and namespaces.
const neighboursFile = "/proc/sys/net/ipv4/neigh/default/gc_thresh3"

// tooFewNeighbours says what to do when the kernel keeps too few neighbours for a rack that boots at once: each machine is one, and
// without room for it its answers are broadcast and its files break off. Empty: there's enough room.
func tooFewNeighbours(machines int, file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return "" // in a container or another namespace: nothing is known
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || machines < most-most/8 {
		return ""
	}
	return fmt.Sprintf("the kernel keeps %d neighbours, and the document has %d machines: sysctl net.ipv4.neigh.default.gc_thresh3=%d (and gc_thresh2=%d)",
		most, machines, 4*machines, 2*machines)
}
