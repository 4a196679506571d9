package faults

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

// dial connects from a machine.
func (m *machine) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	file := fmt.Sprintf("/proc/%d/ns/net", m.process.Process.Pid)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with this, and takes the namespace along
		space, openErr := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err = openErr; err != nil {
			return
		}
		defer unix.Close(space)
		if err = unix.Setns(space, unix.CLONE_NEWNET); err == nil {
			conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, address)
		}
	}()
	<-done
	return conn, err
}

// insider asks the API through a machine's own balancer all the time, on a connection that it keeps, as a kubelet does. A request
// whose connection breaks is asked once more at once.
type insider struct {
	machine            *machine
	asked, cut, failed int
	last               error // of one that failed twice
}

func (i *insider) run(stop <-chan struct{}) {
	transport := &http.Transport{DialContext: i.machine.dial, TLSClientConfig: i.machine.rack.operator.TLS(), ForceAttemptHTTP2: true}
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	defer transport.CloseIdleConnections()
	for {
		select {
		case <-stop:
			return
		case <-time.After(pace):
		}
		i.asked++
		if i.ask(client) == nil {
			continue
		}
		i.cut++
		if err := i.ask(client); err != nil {
			i.failed, i.last = i.failed+1, err
		}
	}
}

func (i *insider) ask(client *http.Client) error {
	answer, err := client.Get("https://" + bootspec.APIBalancer + "/api/v1/namespaces/default")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("it is answered %s", answer.Status)
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

// TestClusterBalancers ends one API server after the other while every node asks through its own balancer.
func TestClusterBalancers(t *testing.T) {
	r := started(t)
	stop := make(chan struct{})
	var all sync.WaitGroup
	var insiders []*insider
	for _, m := range r.machines {
		i := &insider{machine: m}
		insiders = append(insiders, i)
		all.Go(func() { i.run(stop) })
	}
	for _, m := range r.machines {
		ended("kube-apiserver.service")(t, m)
		time.Sleep(time.Second) // systemd needs a moment to see it
		await(t, "the cluster", r.whole)
	}
	close(stop)
	all.Wait()
	for _, i := range insiders {
		t.Logf("FIGURE three API servers killed one after the other: requests through %s's balancer %d, broken and good when asked again %d", i.machine.node.Name, i.asked, i.cut-i.failed)
		if i.failed > 0 || i.asked < 20 {
			t.Errorf("%s: of %d requests %d failed twice: %v", i.machine.node.Name, i.asked, i.failed, i.last)
		}
	}
}
