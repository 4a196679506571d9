package rack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-os/slipway/builder/netboot"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// serverName names the boot server among the rack's processes.
const serverName = "server"

// serverStarts is how long the boot server has until it answers.
const serverStarts = 20 * time.Second

// identityKey are the arguments of a command that needs the identity's keys.
func (o *Options) identityKey() []string {
	if o.IdentityKey == "" {
		return nil
	}
	return []string{"--identity-key", o.IdentityKey}
}

// startServer starts `slipway serve` in the namespace and waits until it answers.
func (r *rack) startServer(ctx context.Context) error {
	document := r.document()
	if r.File == "" {
		if err := os.WriteFile(document, patient(r.Cluster, r.Document), 0o600); err != nil {
			return fmt.Errorf("cannot start the boot server: %w", err)
		}
	}
	cmd := exec.Command(r.Slipway, "serve", "--cluster", document, "--artifacts", r.Artifacts,
		"--identity", r.Identity, "--interface", serverInterface(r.Cluster), "--state", filepath.Join(r.dir, "states"),
		"--live",     // machines of a rehearsal have no disks
		"--unsigned") // and what was just baked here is rehearsed before it is signed
	cmd.Args = append(cmd.Args, r.identityKey()...)
	if crowded(r.Cluster) {
		cmd.Args = append(cmd.Args, "--clock", r.clockFile())
	}
	var err error
	if r.server, err = spawn(r.space, r.dir, serverName, r.logFile(serverName), cmd); err != nil {
		return err
	}
	r.client = newClient(r.space, r.base())
	ctx, cancel := context.WithTimeout(ctx, serverStarts)
	defer cancel()
	for r.client.get(ctx, bootspec.RouteHealth, nil) != nil {
		select {
		case <-r.server.done:
			return fmt.Errorf("the boot server ended at once:\n%s", tail(r.logFile(serverName), 20))
		case <-ctx.Done():
			return fmt.Errorf("the boot server does not answer after %s:\n%s", serverStarts, tail(r.logFile(serverName), 20))
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// document is the file that the boot server reads: the user's, or this run's copy of a shipped example.
func (r *rack) document() string {
	if r.File != "" {
		return r.File
	}
	return filepath.Join(r.dir, "cluster.yaml")
}

// patient is a shipped example for a host where machines take turns: an answer to etcd's messages waits for a turn, and to
// an etcd with its usual heartbeat others seem far apart. Documents of users' own are served as they are.
func patient(c *cluster.Cluster, document []byte) []byte {
	if !crowded(c) || len(c.ControlPlanes()) == 1 || c.Etcd.Heartbeat != 0 || c.Etcd.Backup != nil {
		return document
	}
	return append(bytes.TrimRight(bytes.Clone(document), "\n"), "\netcd: {heartbeat: 500ms}\n"...)
}

// base is the boot server's base URL.
func (r *rack) base() string {
	port := r.Cluster.Provisioning.HTTPPort
	if port == 0 {
		port = bootspec.DefaultHTTPPort
	}
	return "http://" + net.JoinHostPort(r.Cluster.Provisioning.Server.String(), strconv.Itoa(port))
}

// client talks HTTP from within the namespace.
type client struct {
	base string
	http *http.Client
}

func newClient(space *namespace, base string) *client {
	dial := func(_ context.Context, network, address string) (net.Conn, error) {
		return space.dial(&net.Dialer{Timeout: 3 * time.Second}, network, address)
	}
	return &client{base: base, http: &http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: 10 * time.Second}}
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 16 << 20

// get asks for a route of the boot server; the answer goes into out unless that is nil.
func (c *client) get(ctx context.Context, route string, out any) error {
	body, err := c.fetch(ctx, c.base+route)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("cannot read the answer of %s: %w", route, err)
	}
	return nil
}

func (c *client) fetch(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s: %s", url, answer.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}

// nodes asks the boot server what it knows of the cluster's nodes.
func (r *rack) nodes(ctx context.Context) ([]netboot.NodeStatus, error) {
	var list []netboot.NodeStatus
	if err := r.client.get(ctx, bootspec.RouteNodes, &list); err != nil {
		if !r.server.running() {
			return nil, fmt.Errorf("the boot server ended (%v):\n%s", r.server.err, tail(r.logFile(serverName), 20))
		}
		return nil, fmt.Errorf("cannot ask the boot server: %w", err)
	}
	return list, nil
}

// anyExit tells when the server or a machine ends although nobody ended it.
func (r *rack) anyExit(ctx context.Context) <-chan error {
	ended := make(chan error, 1+len(r.machines))
	watch := func(p *process, what error) {
		select {
		case <-p.done:
			ended <- what
		case <-ctx.Done():
		}
	}
	go watch(r.server, errors.New("the boot server ended by itself"))
	for _, m := range r.machines {
		go watch(m.process, fmt.Errorf("%s: the machine went off by itself", m.node.Name))
	}
	return ended
}
