package netboot

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// burstRoom is what waits for a port's requests, in bytes as the kernel counts them: about 2 KiB each. A rack that gets its power back asks
// all at once, and what finds no room is asked again only seconds later.
const burstRoom = 8 << 20

// makeRoom gives a socket that room, or as much as this program may have.
func makeRoom(fd int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, burstRoom) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, burstRoom)
	}
}

// inTurn has a node's configuration made for a few at a time: each takes memory, and more of them at once wouldn't be ready sooner.
func inTurn(render func(node string) ([]byte, error)) func(node string) ([]byte, error) {
	turns := make(chan struct{}, runtime.GOMAXPROCS(0))
	return func(node string) ([]byte, error) {
		turns <- struct{}{}
		defer func() { <-turns }()
		return render(node)
	}
}
