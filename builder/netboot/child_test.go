package netboot

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/handed"
	"github.com/slipway-os/slipway/builder/kv/etcdkv"
	"github.com/slipway-os/slipway/builder/kv/etcdkv/etcdtest"
	"github.com/slipway-os/slipway/images/bootspec/securetest"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// childServer holds the configuration (JSON) of a boot server that this program, run anew in a machine, is.
const childServer = "SLIPWAY_TEST_BOOT_SERVER"

// childConfig is what the boot server in another process must know.
type childConfig struct {
	Address, Interface, Artifacts, State string
	Authority, Certificate, Key          string // PEM
	Store, StoreCA, StoreCert, StoreKey  string
	handed                               []*os.File // sockets that systemd would hand to it
}

// serveChild serves until it is killed.
func serveChild(text string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	var c childConfig
	fail(json.Unmarshal([]byte(text), &c))
	document, err := cluster.Parse("lab.yaml", cluster.Lab())
	fail(err)
	own, err := tls.X509KeyPair([]byte(c.Certificate), []byte(c.Key))
	fail(err)
	config := Config{
		Site: FromCluster(document), Artifacts: c.Artifacts, StateDir: c.State, Interfaces: []string{c.Interface},
		Secure:     &Secure{Authority: []byte(c.Authority), Certificate: func() (*tls.Certificate, error) { return &own, nil }},
		NodeConfig: func(node string) ([]byte, error) { return []byte(secret + " of " + node), nil },
		Log:        slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	config.Handed, err = handed.FromSystemd()
	fail(err)
	config.Site.ServeUnknown, config.Site.ListUnknown = true, true
	config.Site.Server = netip.MustParseAddr(c.Address)
	if c.Store != "" {
		place, err := etcdkv.ParsePlace(c.Store)
		fail(err)
		place.TLS, err = etcdkv.LoadTLS(c.StoreCA, c.StoreCert, c.StoreKey)
		fail(err)
		config.Store, err = etcdkv.Open(context.Background(), place)
		fail(err)
		config.StoreName = place.String()
	}
	s, err := New(config)
	fail(err)
	fail(s.Run(context.Background()))
	os.Exit(0)
}

// child is a boot server in a machine and a process of its own, that is killed and started again.
type child struct {
	*host
	config childConfig
	stop   func()
	starts int
}

// fleet are the boot servers of a test; a machine boots from one of them.
type fleet struct {
	t       *testing.T
	servers []*child
	at      int    // which of them
	dead    *child // nil: all are there
	ca      string // file
}

// newFleet starts so many servers, at 10.1.0.2 and on; with an etcd they share it.
func newFleet(t *testing.T, count int, etcd *etcdtest.Server) *fleet {
	t.Helper()
	f := newFleetAtRest(t, count, etcd)
	for _, c := range f.servers {
		c.launch()
	}
	return f
}

// newFleetAtRest is newFleet without the start.
func newFleetAtRest(t *testing.T, count int, etcd *etcdtest.Server) *fleet {
	t.Helper()
	images := t.TempDir()
	bake(t, images, "worker", "0.1.0", "amd64")
	bake(t, images, "control-plane", "0.1.0", "amd64")
	authority, own := securetest.Certificate(t)
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	must(t, err)
	f := &fleet{t: t, ca: filepath.Join(t.TempDir(), "ca")}
	must(t, os.WriteFile(f.ca, authority, 0o600))
	for i := range count {
		c := &child{host: plug(t, fmt.Sprintf("02:00:00:00:01:%02x", i+2)), config: childConfig{
			Address: fmt.Sprintf("10.1.0.%d", i+2), Interface: "eth0", Artifacts: images, State: filepath.Join(t.TempDir(), "state"), Authority: string(authority),
			Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]})),
			Key:         string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
		}}
		if etcd != nil {
			c.config.Store, c.config.StoreCA, c.config.StoreCert, c.config.StoreKey = etcd.URL, etcd.CA, etcd.Cert, etcd.Key
		}
		c.has(c.config.Address + "/24")
		f.servers = append(f.servers, c)
	}
	return f
}

// has gives a machine's link an address.
func (c *host) has(prefix string) {
	c.t.Helper()
	if said, err := c.run("ip", "address", "replace", prefix, "dev", "eth0"); err != nil {
		c.t.Fatalf("%v: %s", err, said)
	}
}

// launch starts a server and waits until it serves.
func (c *child) launch() {
	c.t.Helper()
	text, err := json.Marshal(c.config)
	must(c.t, err)
	c.starts++
	command := []string{"env", childServer + "=" + string(text), "sh", "-c", "exec /proc/" + fmt.Sprint(os.Getpid()) + "/exe 2>>" + c.logFile()}
	if n := len(c.config.handed); n > 0 { // as systemd does it (sd_listen_fds(3)), and with no right to ports below 1024
		command[4] = fmt.Sprintf("LISTEN_PID=$$ LISTEN_FDS=%d exec setpriv --bounding-set -net_bind_service /proc/%d/exe 2>>%s", n, os.Getpid(), c.logFile())
	}
	c.stop = c.host.startWith(c.config.handed, command...)
	for deadline := time.Now().Add(time.Minute); strings.Count(c.said(), "msg=serving") != c.starts; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("the server at %s doesn't start (%d):\n%s", c.config.Address, c.starts, c.said())
		}
	}
}

func (c *child) logFile() string { return filepath.Join(c.dir, "log") }

func (c *child) said() string {
	text, _ := os.ReadFile(c.logFile())
	return string(text)
}

func (c *child) base() string { return "http://" + c.config.Address + ":8080" }

// now is the server that the machine is with.
func (f *fleet) now() *child { return f.servers[f.at] }

// fault kills the server that the machine is with. A server that is alone is started again; else the machine goes on with another, and the
// dead one comes back when it is needed.
func (f *fleet) fault() {
	f.t.Helper()
	f.now().stop()
	if len(f.servers) == 1 {
		f.now().launch()
		return
	}
	if f.dead != nil {
		f.dead.launch()
	}
	f.dead, f.at = f.now(), (f.at+1)%len(f.servers)
}

// heal starts a dead server.
func (f *fleet) heal() {
	f.t.Helper()
	if f.dead != nil {
		f.dead.launch()
		f.dead = nil
	}
}

// lease gets an address as udhcpc does, with more patience: the store is a program too.
func (c *host) lease(words ...string) error { return c.udhcpc(append(words, "-t", "15")...) }

// curl runs curl in a machine and returns the answer with its status at the end.
func (c *host) curl(words ...string) string {
	c.t.Helper()
	said, err := c.run(append([]string{"curl", "-sS", "--max-time", "25", "-w", "%{http_code}"}, words...)...)
	if err != nil {
		return fmt.Sprintf("%v: %s", err, said)
	}
	return said
}

// report reports as a node.
func (f *fleet) report(node *host, mac, event string, uptime int) string {
	body := fmt.Sprintf(`{"mac":%q,"boot":"b","event":%q,"uptime":%d}`, mac, event, uptime)
	return node.curl("-d", body, f.now().base()+"/v1/report")
}

// claim claims a configuration of a server as a machine with a serial number.
func (f *fleet) claim(s *child, node *host, mac, own, serial string) string {
	return node.curl("--cacert", f.ca, "--connect-to", "boot.slipway.internal:7446:"+s.config.Address+":7446", "--cert", own, "--key", own,
		"-d", claimOf(mac, "u", serial), "https://boot.slipway.internal:7446/v1/claim")
}

// nodes is what the server that the machine is with says of all.
func (f *fleet) nodes(node *host) (out []NodeStatus) {
	f.t.Helper()
	text := node.curl(f.now().base() + "/v1/nodes")
	must(f.t, json.NewDecoder(bytes.NewReader([]byte(text))).Decode(&out))
	return out
}

// quiet says whether a server's log has none of some words.
func (c *child) quiet(words ...string) {
	c.t.Helper()
	for _, w := range words {
		if text := c.said(); strings.Contains(text, w) {
			c.t.Errorf("the server at %s says %q:\n%s", c.config.Address, w, text)
		}
	}
}

// someoneWaits waits with a longer breath than waitFor, for what takes a store's time-outs.
func someoneWaits(t testing.TB, what func() bool) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !what(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never comes")
		}
	}
}
