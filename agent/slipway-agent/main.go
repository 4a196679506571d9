// Command slipway-agent is the program of a node: as process 1 of the initramfs it boots the machine into its root image,
// as a service (`slipway-agent run`) it brings the node up and reports.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/slipway-os/slipway/agent/console"
	"github.com/slipway-os/slipway/agent/firstboot"
	"github.com/slipway-os/slipway/agent/initramfs"
)

const usage = `usage: slipway-agent run        bring this node up and report until it is stopped (a service of Type=notify)
       slipway-agent await-api URL CA    wait until an API server is ready (ExecStartPost of kube-apiserver.service)
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
	case len(args) == 1 && args[0] == "run":
		return serve()
	case len(args) == 3 && args[0] == "await-api":
		return await(args[1], args[2])
	case len(args) == 1 && args[0] == "version":
		fmt.Println("slipway-agent", version)
		return 0
	}
	fmt.Fprint(os.Stderr, usage)
	return 2
}

// serve is the service.
func serve() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	// /dev/kmsg: the machine's console shows how far it is, and the journal has the lines too.
	out, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		out = os.Stderr
	}
	if err := firstboot.Run(ctx, slog.New(console.New(out))); err != nil {
		fmt.Fprintln(os.Stderr, "slipway-agent:", err)
		return 1
	}
	return 0
}

// await waits until an API server is ready or systemd has had enough.
func await(url, ca string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := firstboot.AwaitAPI(ctx, url, ca); err != nil {
		fmt.Fprintln(os.Stderr, "slipway-agent:", err)
		return 1
	}
	return 0
}

// version is the product's.
const version = "0.1.0"
