// Command cni is the CNI plugins that a node needs in one program: the name it is called by decides which one runs.
//
// Upstream has each as a program of its own; one-program.patch makes packages of them.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	hostlocal "github.com/containernetworking/plugins/plugins/ipam/host-local"
	"github.com/containernetworking/plugins/plugins/main/bridge"
	"github.com/containernetworking/plugins/plugins/main/loopback"
	"github.com/containernetworking/plugins/plugins/meta/portmap"
)

func main() {
	plugins := map[string]func(){
		"bridge": bridge.Main, "host-local": hostlocal.Main, "loopback": loopback.Main, "portmap": portmap.Main,
	}
	name := filepath.Base(os.Args[0])
	run, ok := plugins[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "cni: no plugin %q here (bridge, host-local, loopback, portmap)\n", name)
		os.Exit(2)
	}
	run()
}
