package guard

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"

	"github.com/slipway-os/slipway/images/components/etcd/restore"
)

// site is three control planes on loopback addresses of their own, with one authority.
type site struct {
	t         *testing.T
	dir       string
	net       byte // 127.PROCESS.N.x
	authority *x509.Certificate
	key       *ecdsa.PrivateKey
	peers     []Peer
	nodes     map[string]*node
	loose     bool // etcd takes new members also while others are away, as it does when two ask at the same moment
}

// node is a control plane that is on.
type node struct {
	site  *site
	peer  Peer
	data  string
	env   string
	stop  context.CancelFunc
	ended chan error
	ready chan struct{}

	power sync.Mutex // etcd is not started and ended at the same time
	gone  bool       // the power is off
	etcd  *embed.Etcd

	starting sync.WaitGroup // etcd.service

	mu   sync.Mutex
	said []string
}

func newSite(t *testing.T, net byte) *site {
	s := &site{t: t, dir: t.TempDir(), net: net, nodes: map[string]*node{}}
	s.authority, s.key = s.certificate("authority", nil)
	s.write("ca", s.authority, s.key)
	for i := range 3 {
		s.plan(i)
	}
	t.Cleanup(func() {
		for _, n := range s.nodes {
			n.off()
		}
	})
	return s
}

// plan adds a control plane to the cluster document.
func (s *site) plan(i int) {
	host := netip.AddrFrom4([4]byte{127, byte(1 + os.Getpid()%250), s.net, byte(11 + i)}) // another run has others
	s.peers = append(s.peers, Peer{fmt.Sprintf("cp-%d", i+1), fmt.Sprintf("https://%s:2380", host), host})
	cert, key := s.certificate(s.peers[i].Name, &host)
	s.write(s.peers[i].Name, cert, key)
}

func (s *site) certificate(name string, host *netip.Addr) (*x509.Certificate, *ecdsa.PrivateKey) {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: host == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := c, key
	if host != nil {
		// Connections between addresses of the loopback come from its first, and etcd checks where a peer comes from.
		c.IPAddresses = []net.IP{host.AsSlice(), net.IPv4(127, 0, 0, 1)}
		parent, signer = s.authority, s.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		s.t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		s.t.Fatal(err)
	}
	return made, key
}

func (s *site) write(name string, c *x509.Certificate, key *ecdsa.PrivateKey) {
	s.t.Helper()
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".crt": {Type: "CERTIFICATE", Bytes: c.Raw}, name + ".key": {Type: "EC PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(filepath.Join(s.dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *site) tls(name string) *tls.Config {
	s.t.Helper()
	own, err := tls.LoadX509KeyPair(filepath.Join(s.dir, name+".crt"), filepath.Join(s.dir, name+".key"))
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(s.authority)
	return &tls.Config{Certificates: []tls.Certificate{own}, RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
}

// on powers a control plane on: its guard, and etcd when that says how.
func (s *site) on(i int) *node {
	n, ctx := s.power(i)
	n.starting.Go(func() { n.start(ctx) })
	return n
}

// guarded powers a control plane on whose etcd doesn't come before its power goes.
func (s *site) guarded(i int) *node {
	n, _ := s.power(i)
	return n
}

func (s *site) power(i int) (*node, context.Context) {
	ctx, cancel := context.WithCancel(context.Background())
	p := s.peers[i]
	n := &node{site: s, peer: p, data: filepath.Join(s.dir, "data-"+p.Name), env: filepath.Join(s.dir, p.Name+".env"), stop: cancel, ended: make(chan error, 1), ready: make(chan struct{}, 8)}
	os.Remove(n.env)
	s.nodes[p.Name] = n
	go func() {
		n.ended <- Run(ctx, Config{
			Name: p.Name, Peers: s.peers, Data: n.data, Environment: n.env, TLS: s.tls(p.Name), Pause: 200 * time.Millisecond, Watch: time.Second, Stop: n.end,
			Say:   func(words string) { n.mu.Lock(); n.said = append(n.said, words); n.mu.Unlock() },
			Ready: func() { n.ready <- struct{}{} },
		})
	}()
	return n, ctx
}

// start is etcd.service: whenever the guard says so.
func (n *node) start(ctx context.Context) {
	for {
		select {
		case <-n.ready:
			n.run()
		case <-ctx.Done():
			return
		}
	}
}

// run starts etcd.
func (n *node) run() {
	n.power.Lock()
	defer n.power.Unlock()
	if n.gone || n.etcd != nil {
		return
	}
	text, err := os.ReadFile(n.env)
	if err != nil {
		n.site.t.Error(err)
		return
	}
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[key] = value
	}
	file := func(name string) string { return filepath.Join(n.site.dir, name) }
	c := embed.NewConfig()
	c.StrictReconfigCheck = !n.site.loose
	c.Name, c.Dir, c.LogLevel, c.Logger = n.peer.Name, n.data, "fatal", "zap"
	c.InitialCluster, c.ClusterState, c.InitialClusterToken = values["SLIPWAY_ETCD_CLUSTER"], values["SLIPWAY_ETCD_STATE"], "test"
	at := func(port uint16) []url.URL { return []url.URL{{Scheme: "https", Host: n.peer.at(port)}} }
	c.ListenClientUrls, c.AdvertiseClientUrls, c.ListenPeerUrls, c.AdvertisePeerUrls = at(2379), at(2379), at(2380), at(2380)
	for _, t := range []*struct{ cert, key, ca *string }{
		{&c.ClientTLSInfo.CertFile, &c.ClientTLSInfo.KeyFile, &c.ClientTLSInfo.TrustedCAFile},
		{&c.PeerTLSInfo.CertFile, &c.PeerTLSInfo.KeyFile, &c.PeerTLSInfo.TrustedCAFile},
	} {
		*t.cert, *t.key, *t.ca = file(n.peer.Name+".crt"), file(n.peer.Name+".key"), file("ca.crt")
	}
	c.ClientTLSInfo.ClientCertAuth, c.PeerTLSInfo.ClientCertAuth = true, true
	e, err := embed.StartEtcd(c)
	if err != nil {
		n.site.t.Errorf("etcd of %s: %v", n.peer.Name, err)
		return
	}
	n.etcd = e
}

// end ends etcd; its unit would start it again when there is an environment.
func (n *node) end(context.Context) error {
	n.power.Lock()
	defer n.power.Unlock()
	n.kill()
	return nil
}

// off cuts the power.
func (n *node) off() {
	n.stop()
	n.starting.Wait() // an etcd that is just coming is there then
	n.power.Lock()
	n.gone = true
	n.kill()
	n.power.Unlock()
	<-n.ended
	n.ended <- nil
}

func (n *node) kill() {
	if n.etcd != nil {
		n.etcd.Server.HardStop() // Close alone waits for ever for an etcd that never had a leader
		n.etcd.Close()
		n.etcd = nil
	}
}

func (n *node) wipe() {
	if err := os.RemoveAll(n.data); err != nil {
		n.site.t.Fatal(err)
	}
}

func (n *node) words() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.said, "\n")
}

// eventually waits until something holds.
func (s *site) eventually(what string, holds func() bool) {
	s.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if holds() {
			return
		}
	}
	for name, n := range s.nodes {
		s.t.Logf("%s says:\n%s", name, n.words())
	}
	s.t.Fatalf("it did not come: %s", what)
}

func (s *site) do(n *node, do func(context.Context, *clientv3.Client) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://" + n.peer.at(2379)}, TLS: s.tls(n.peer.Name), DialTimeout: 3 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer c.Close()
	return do(ctx, c)
}

// cluster is the cluster's id as a node tells it and the names of its members that have started; an error when it has no leader.
func (s *site) cluster(n *node) (id uint64, names string, err error) {
	err = s.do(n, func(ctx context.Context, c *clientv3.Client) error {
		list, err := c.MemberList(ctx)
		if err != nil {
			return err
		}
		id = list.Header.ClusterId
		var started []string
		for _, m := range list.Members {
			if m.Name != "" {
				started = append(started, m.Name)
			}
		}
		names = fmt.Sprint(len(started))
		return nil
	})
	return id, names, err
}

// whole waits until all nodes are members of one cluster, and returns its id.
func (s *site) whole(nodes ...*node) (id uint64) {
	s.t.Helper()
	s.eventually("three members of one cluster", func() bool {
		id = 0
		for _, n := range nodes {
			got, names, err := s.cluster(n)
			if err != nil || names != "3" || (id != 0 && got != id) {
				return false
			}
			id = got
		}
		return true
	})
	return id
}

func (s *site) put(n *node, key, value string) {
	s.t.Helper()
	s.eventually("a write", func() bool {
		return s.do(n, func(ctx context.Context, c *clientv3.Client) error { _, err := c.Put(ctx, key, value); return err }) == nil
	})
}

func (s *site) has(n *node, key, value string) bool {
	found := false
	_ = s.do(n, func(ctx context.Context, c *clientv3.Client) error {
		got, err := c.Get(ctx, key)
		found = err == nil && len(got.Kvs) == 1 && string(got.Kvs[0].Value) == value
		return err
	})
	return found
}

// TestAClusterBeginsOnceAndTakesBackWhoLostItsData is the life of a cluster: begun in whatever order machines come, gone on
// after a power cut, one machine replaced; and never a second one.
func TestAClusterBeginsOnceAndTakesBackWhoLostItsData(t *testing.T) {
	t.Parallel()
	s := newSite(t, 61)
	c := s.on(2)
	a := s.on(0)
	s.eventually("cp-1 says whom it waits for", func() bool { return strings.Contains(a.words(), "cp-2 does not answer") })
	b := s.on(1)
	id := s.whole(a, b, c)
	s.put(a, "word", "kept")

	b.off()
	b.wipe()
	b = s.on(1)
	if got := s.whole(a, b, c); got != id {
		t.Errorf("the replaced node is in cluster %x, not %x", got, id)
	}
	s.eventually("the replaced node has the data", func() bool { return s.has(b, "word", "kept") })

	for _, n := range []*node{a, b, c} {
		n.off()
		if got := begins(n.data, true, restore.Generation{}); got != Member {
			t.Errorf("%s has the cluster's data and would say %q", n.peer.Name, got)
		}
	}
	b, c, a = s.on(1), s.on(2), s.on(0)
	if got := s.whole(a, b, c); got != id || !s.has(c, "word", "kept") {
		t.Errorf("after a power cut the cluster is %x, not %x, or has lost its data", got, id)
	}

	// Two of three replaced: what is left can't decide alone, and the new ones must not either.
	for _, n := range []*node{a, b, c} {
		n.off()
	}
	a.wipe()
	b.wipe()
	a, b, _ = s.on(0), s.on(1), s.on(2)
	for _, n := range []*node{a, b} {
		s.eventually("it waits, and says what to do", func() bool {
			return strings.Contains(n.words(), "cp-3 has the cluster's data") && strings.Contains(n.words(), "restore a snapshot")
		})
		if _, err := os.Stat(n.env); err == nil {
			t.Errorf("%s starts an etcd without data while cp-3 has the cluster's", n.peer.Name)
		}
	}
}

// TestWhoJoinsLearnsWhoJoinsBesides: between a node's joining and the start of its etcd another node joins. An etcd without data that doesn't
// know all members doesn't start.
func TestWhoJoinsLearnsWhoJoinsBesides(t *testing.T) {
	t.Parallel()
	s := newSite(t, 64)
	s.loose = true
	a, b, c := s.on(0), s.on(1), s.on(2)
	s.whole(a, b, c)
	s.put(a, "word", "kept")
	b.off()
	b.wipe()
	s.plan(3)
	b = s.guarded(1)
	environment := func() string { text, _ := os.ReadFile(b.env); return string(text) }
	s.eventually("cp-2 has joined", func() bool { return strings.Contains(environment(), "SLIPWAY_ETCD_STATE=existing\n") })
	if err := s.do(a, func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.MemberAddAsLearner(ctx, []string{s.peers[3].URL})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s.eventually("cp-2 hears of cp-4", func() bool { return strings.Contains(environment(), "cp-4="+s.peers[3].URL) })
	b.run()
	s.eventually("cp-2 has the data", func() bool { return s.has(b, "word", "kept") })
}

// TestABeginningThatWasCutGoesOn: the power fails when one control plane has begun to write its log and no other has, so that
// there never was a leader. That log holds nothing, and nobody may wait for it.
func TestABeginningThatWasCutGoesOn(t *testing.T) {
	t.Parallel()
	s := newSite(t, 63)
	a, b, c := s.on(0), s.guarded(1), s.guarded(2)
	s.eventually("cp-1 has begun its log", func() bool {
		n := 0
		_ = readLog(a.data, func(*walpb.Record) bool { n++; return true })
		return n > 3 // metadata, and the members that the document has
	})
	for _, n := range []*node{a, b, c} {
		n.off()
	}
	a = s.on(0)
	s.eventually("cp-1 begins again", func() bool { _, err := os.Stat(a.env); return err == nil })
	b, c = s.on(1), s.on(2)
	s.put(a, "word", "kept")
	s.whole(a, b, c)
}

// TestALogThatCannotBeReadIsData: in doubt, others wait.
func TestALogThatCannotBeReadIsData(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"no log":            {},
		"an empty log":      {firstLog: ""},
		"no log at all":     {firstLog: strings.Repeat("words", 1000)},
		"only a later file": {"0000000000000003-0000000000010000.wal": ""},
	} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "member", "wal"), 0o700); err != nil {
			t.Fatal(err)
		}
		for file, text := range files {
			if err := os.WriteFile(filepath.Join(dir, "member", "wal", file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := begins(dir, true, restore.Generation{}); got != Member {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestNobodyWithoutACertificateAsks: the guard tells nothing to strangers.
func TestNobodyWithoutACertificateAsks(t *testing.T) {
	s := newSite(t, 62)
	n := s.on(0)
	address := "https://" + n.peer.at(guardPort) + statusPath
	own := s.tls("cp-2")
	s.eventually("an answer to a member", func() bool {
		got, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: own}}).Get(address)
		if err == nil {
			got.Body.Close()
		}
		return err == nil && got.StatusCode == http.StatusOK
	})
	stranger := &tls.Config{RootCAs: own.RootCAs}
	if got, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: stranger}}).Get(address); err == nil {
		got.Body.Close()
		t.Errorf("a stranger gets %s", got.Status)
	}
}

func TestJudge(t *testing.T) {
	a, b := Peer{Name: "cp-2"}, Peer{Name: "cp-3"}
	first := restore.Generation{At: time.Unix(1_000_000, 0), On: "cp-2"}
	later := restore.Generation{At: time.Unix(2_000_000, 0), On: "cp-3"}
	for name, c := range map[string]struct {
		a, b sight
		own  restore.Generation
		want verdict
		why  string
	}{
		"both are fresh":                {a: sight{state: Fresh}, b: sight{state: Fresh}, want: begin},
		"both begin":                    {a: sight{state: Bootstrapping}, b: sight{state: Bootstrapping}, want: begin},
		"one runs":                      {a: sight{runs: true, state: Member}, b: sight{trouble: "refused"}, want: join},
		"one runs, one is fresh":        {a: sight{state: Fresh}, b: sight{runs: true, state: Member}, want: join},
		"one runs, its guard is silent": {a: sight{state: Fresh}, b: sight{runs: true, trouble: "refused"}, why: "cp-3's etcd runs, but its guard"},
		"one is off":                    {a: sight{state: Fresh}, b: sight{trouble: "refused"}, why: "cp-3 does not answer (refused)"},
		"one has data":                  {a: sight{state: Member}, b: sight{state: Fresh}, why: "cp-2 has the cluster's data"},
		"one runs without a leader":     {a: sight{waits: true, trouble: "refused"}, b: sight{state: Fresh}, why: "cp-2 has the cluster's data"},
		"one says a word of later days": {a: sight{state: "leaving"}, b: sight{state: Fresh}, why: `cp-2 says "leaving"`},
		"one has data, the other off":   {a: sight{state: Member}, b: sight{trouble: "no route"}, why: "cp-3 does not answer (no route)"},

		"restored, and it runs":               {a: sight{runs: true, state: Member, generation: first}, b: sight{trouble: "off"}, own: first, want: join},
		"a new node hears of a restore":       {a: sight{runs: true, state: Member, generation: first}, b: sight{trouble: "off"}, want: join},
		"restored, and it does not run":       {a: sight{state: Member, generation: first}, b: sight{state: Joining, generation: first}, own: first, why: "cp-2's etcd has no leader yet, cp-3 waits as this node does"},
		"restored, and it is off":             {a: sight{trouble: "off"}, b: sight{state: Joining, generation: first}, own: first, why: "Power on cp-2, or one that has joined since"},
		"all others are fresh":                {a: sight{state: Fresh}, b: sight{state: Fresh}, own: first, why: "cp-3 does not know of that yet"},
		"a new node, and all others wait":     {a: sight{state: Joining, generation: first}, b: sight{state: Joining, generation: first}, why: "cp-3 waits as this node does"},
		"the cluster of before the restore":   {a: sight{runs: true, state: Member}, b: sight{runs: true, state: Member}, own: first, why: "cp-2 does not know of that yet"},
		"one of before, one of after":         {a: sight{runs: true, state: Member}, b: sight{runs: true, state: Member, generation: later}, own: first, want: join},
		"of before runs, of after does not":   {a: sight{runs: true, state: Member}, b: sight{state: Member, generation: later}, why: "cp-2 does not know of that yet, cp-3's etcd has no leader"},
		"of the first runs, of later is here": {a: sight{runs: true, state: Member, generation: first}, b: sight{trouble: "off"}, own: later, why: "restored from a snapshot on cp-3"},
	} {
		c.a.peer, c.b.peer = a, b
		v := view{sights: []sight{c.a, c.b}}
		v.choose()
		if got, why := judge(v, c.own); got != c.want || !strings.Contains(why, c.why) || (why == "") != (c.why == "") {
			t.Errorf("%s: %v, %q", name, got, why)
		}
		if c.want == join && v.generation != map[bool]restore.Generation{true: later, false: v.generation}[strings.HasSuffix(name, "of after")] {
			t.Errorf("%s: it would join %s", name, v.running.Name)
		}
	}
}

func TestParsePeers(t *testing.T) {
	peers, err := ParsePeers("cp-1=https://10.1.0.11:2380,cp-2=https://10.1.0.12:2380")
	if err != nil || len(peers) != 2 || peers[1].Name != "cp-2" || peers[1].at(guardPort) != "10.1.0.12:2382" {
		t.Errorf("%+v, %v", peers, err)
	}
	for _, bad := range []string{"", "cp-1", "cp-1=http://10.1.0.11:2380", "=https://10.1.0.11:2380", "cp-1=https://name:2380"} {
		if _, err := ParsePeers(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestNamed: etcd wants every member of --initial-cluster by name, and one that was just added has none.
func TestNamed(t *testing.T) {
	document := []Peer{{Name: "cp-1", URL: "https://a"}, {Name: "cp-2", URL: "https://b"}}
	got := named([]Peer{{"cp-1", "https://a", netip.Addr{}}, {"", "https://b", netip.Addr{}}}, document, document[1])
	if got[0].Name != "cp-1" || got[1].Name != "cp-2" {
		t.Errorf("%+v", got)
	}
}
