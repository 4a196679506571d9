// Command slipway-agent is the program of a node: as process 1 of the initramfs it boots the machine into its root image,
// as a service (`slipway-agent run`) it brings the node up and reports.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/slipway-os/slipway/agent/initramfs"
)

const usage = `usage: slipway-agent run        bring this node up and report until it is stopped (a service of Type=notify)
       slipway-agent version    print the version
As /init (process 1 of the initramfs) it boots the machine.
`

func main() {
	if os.Getpid() == 1 || filepath.Base(os.Args[0]) == "init" {
		initramfs.Main()
	}
	os.Exit(run(os.Args[1:]))
}

// run is one command; it returns the exit code.
func run(args []string) int {
	switch {
	case len(args) == 1 && args[0] == "version":
		fmt.Println("slipway-agent", version)
		return 0
	}
	fmt.Fprint(os.Stderr, usage)
	return 2
}

// version is the product's.
const version = "0.1.0"
