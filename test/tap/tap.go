// Package tap makes network interfaces whose frames a test reads and writes: switches and cables that do what no real one is told to, without
// what not every kernel has (netem, VLANs). It is not for programs.
package tap

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Open makes a TAP interface in the network namespace of the calling thread, or takes one that is there and that nobody has. It goes with
// its file. Reads and writes are whole Ethernet frames (Documentation/networking/tuntap.rst).
func Open(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot make tap %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
