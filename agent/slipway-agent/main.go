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
	"strconv"
	"syscall"

	"github.com/slipway-os/slipway/agent/console"
	"github.com/slipway-os/slipway/agent/endpoint"
	"github.com/slipway-os/slipway/agent/firstboot"
	"github.com/slipway-os/slipway/agent/initramfs"
	"github.com/slipway-os/slipway/agent/manage"
	"github.com/slipway-os/slipway/images/bootspec"
)

const usage = `usage: slipway-agent run        bring this node up and report until it is stopped (a service of Type=notify)
       slipway-agent await-api URL CA    wait until an API server is ready (ExecStartPost of kube-apiserver.service)
       slipway-agent await-room DIR MIB  wait until the file system of DIR has MIB mebibytes free (ExecStartPre of etcd.service)
       slipway-agent api        the node's way to the API: a balancer on 127.0.0.1:7443, and on control planes the virtual
                                address (a service of Type=notify)
       slipway-agent api-release         take the virtual address off this machine (ExecStopPost of slipway-api.service)
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
	case len(args) == 1 && args[0] == "api":
		return api()
	case len(args) == 1 && args[0] == "api-release":
		return outcome(endpoint.Release(bootspec.NodeDocument))
	case len(args) == 3 && args[0] == "await-api":
		return await(args[1], args[2])
	case len(args) == 3 && args[0] == "await-room":
		return awaitRoom(args[1], args[2])
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
	log := log()
	if api, err := manage.FromNode(log); err != nil {
		log.Warn(err.Error())
	} else {
		go api.Run(ctx) // also while the node doesn't come up: that is when it is asked
	}
	return outcome(firstboot.Run(ctx, log))
}

// api is the service slipway-api.
func api() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	c, err := endpoint.Load(bootspec.NodeDocument, bootspec.PKIDirectory+"/ca.crt")
	if err != nil {
		return outcome(err)
	}
	c.Log = log()
	return outcome(endpoint.Run(ctx, c))
}

// log writes to /dev/kmsg: the machine's console shows how far it is, and the journal has the lines too.
func log() *slog.Logger {
	out, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		out = os.Stderr
	}
	return slog.New(console.New(out))
}

// outcome is the exit code for an error, which it tells.
func outcome(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "slipway-agent:", err)
	return 1
}

// await waits until an API server is ready, has ended, or systemd has had enough. systemd tells the unit's process (systemd.exec(5),
// $MAINPID).
func await(url, ca string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	server, _ := strconv.Atoi(os.Getenv("MAINPID")) // without it the server is not watched
	return outcome(firstboot.AwaitAPI(ctx, url, ca, server))
}

// awaitRoom waits until a folder's file system has some mebibytes free, or systemd has had enough.
func awaitRoom(folder, mebibytes string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	n, err := strconv.ParseUint(mebibytes, 10, 32)
	if err != nil {
		return outcome(fmt.Errorf("cannot wait for room: %q is no number of mebibytes", mebibytes))
	}
	return outcome(firstboot.AwaitRoom(ctx, folder, int64(n)<<20, func(message string) { fmt.Fprintln(os.Stderr, "slipway-agent:", message) }))
}

// version is the product's.
const version = "0.1.0"
