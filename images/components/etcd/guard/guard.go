// Package guard decides how a control plane's etcd starts, so that nobody runs a bootstrap command and no cluster is ever
// started a second time.
//
// A member with data starts as it is. One without asks all other control planes first: where their etcd runs, it joins that
// cluster as a new member, in place of the one of its name; only when every one of them answers that it has no data either do
// they start a cluster together. In all other cases it waits and says for whom. So a replaced or re-imaged machine cannot
// start a second cluster, not even with another one: it would need all of them to be empty.
//
// A cluster can be restored from a snapshot (package restore). Guards tell each other the newest restore they know of; data that
// is of an earlier one belongs to a cluster that is no more: it is set aside, at the start or whenever that is heard of, and
// the node joins the restored cluster as one without data. Such a node only ever joins, whatever others say.
//
// It is not for running etcd (etcd.service) and not for backups.
package guard

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipway-os/slipway/images/components/etcd/restore"
)

// Ports of control planes: etcd's own for clients, and the guard's.
const (
	clientPort = 2379
	guardPort  = 2382
)

// State is what a guard says of its node.
type State string

const (
	Fresh         State = "fresh"         // no data, and nothing decided
	Bootstrapping State = "bootstrapping" // every other has no data either, and the cluster begins; or that was cut before there was a leader
	Member        State = "member"        // data, or a place in a cluster that runs
	Joining       State = "joining"       // no data since its cluster was restored elsewhere; it joins that one, and never begins one
)

// Words of etcd's --initial-cluster-state.
const (
	stateNew      = "new"
	stateExisting = "existing"
)

// Peer is a control plane's etcd as the cluster document has it.
type Peer struct {
	Name string
	URL  string // https://10.1.0.11:2380
	host netip.Addr
}

// ParsePeers reads cp-1=https://10.1.0.11:2380,cp-2=... (etcd's --initial-cluster).
func ParsePeers(text string) ([]Peer, error) {
	var peers []Peer
	for part := range strings.SplitSeq(text, ",") {
		name, address, ok := strings.Cut(part, "=")
		u, err := url.Parse(address)
		if !ok || name == "" || err != nil || u.Scheme != "https" {
			return nil, fmt.Errorf("cannot read etcd's members: %q is not NAME=https://ADDRESS:PORT", part)
		}
		host, err := netip.ParseAddr(u.Hostname())
		if err != nil {
			return nil, fmt.Errorf("cannot read etcd's members: %q: %w", part, err)
		}
		peers = append(peers, Peer{name, address, host})
	}
	return peers, nil
}

func (p Peer) at(port uint16) string { return netip.AddrPortFrom(p.host, port).String() }

// lookLimit bounds how long the start of etcd waits for others that are off.
const lookLimit = 2 * time.Second

// Config is a guard's.
type Config struct {
	Name        string // of this node
	Peers       []Peer // all members, this node too
	Data        string // etcd's data folder
	Environment string // file that etcd.service reads: SLIPWAY_ETCD_STATE and SLIPWAY_ETCD_CLUSTER
	TLS         *tls.Config
	Pause       time.Duration                   // between two rounds of asking
	Watch       time.Duration                   // between two looks for a restore on another node
	Stop        func(ctx context.Context) error // ends etcd if it runs; it may start again by itself, and finds no environment
	Say         func(words string)              // what it waits for, when that changes
	Ready       func()                          // the environment is written, etcd may start
	own         Peer
	others      []Peer
}

// errReplaced says that the cluster was restored without this node, which has to begin anew.
var errReplaced = errors.New("the cluster was restored without this node")

// Run decides, and goes on telling others about this node until ctx ends.
func Run(ctx context.Context, c Config) error {
	for _, p := range c.Peers {
		if p.Name == c.Name {
			c.own = p
		} else {
			c.others = append(c.others, p)
		}
	}
	if c.own.Name == "" {
		return fmt.Errorf("cannot guard etcd: node %s is not among its members", c.Name)
	}
	if err := c.settle(ctx); err != nil {
		return err
	}
	if len(c.others) == 0 { // etcd goes on with what it has, and there is nobody to ask
		if err := c.start(stateNew, c.Peers); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}
	listener, err := listen(ctx, c.own.at(guardPort))
	if err != nil {
		return err
	}
	ask, err := newRemote(c.TLS)
	if err != nil {
		return err
	}
	defer ask.close()
	s := newServer(c.Name)
	if err := c.tell(s); err != nil {
		return err
	}
	go s.serve(listener, c.TLS)
	defer s.close()
	for {
		err := c.live(ctx, s, ask)
		if !errors.Is(err, errReplaced) {
			return err
		}
	}
}

// settle ends a restore that this node is to carry out.
func (c Config) settle(ctx context.Context) error {
	if !restore.Pending(c.Data) {
		return nil
	}
	if err := c.stop(ctx); err != nil {
		return err
	}
	return restore.Settle(c.Data)
}

// stop makes sure that etcd doesn't run, and doesn't start before it is decided how.
func (c Config) stop(ctx context.Context) error {
	if err := os.Remove(c.Environment); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot keep etcd from starting: %w", err)
	}
	return c.Stop(ctx)
}

// tell lets the server say what this node is from its data.
func (c Config) tell(s *server) error {
	generation, err := restore.Read(c.Data)
	if err != nil {
		return err
	}
	data, err := hasData(c.Data)
	if err != nil {
		return err
	}
	s.tell(begins(c.Data, data, generation), generation)
	return nil
}

// live is a node's life until ctx ends or its cluster is replaced by a restored one. Then its data has been set aside.
func (c Config) live(ctx context.Context, s *server, ask asker) error {
	data, err := hasData(c.Data)
	if err != nil {
		return err
	}
	if data {
		if err := c.replaced(ctx, s, ask); err != nil {
			return quiet(ctx, err)
		}
		err = c.start(stateExisting, c.Peers)
	} else {
		err = c.decide(ctx, s, ask)
	}
	if err != nil {
		return quiet(ctx, err)
	}
	return quiet(ctx, c.watch(ctx, s, ask))
}

// quiet is no error for what only ended with ctx.
func quiet(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// watch waits until this node's etcd is one of a cluster that can decide things, and then looks for restores elsewhere.
func (c Config) watch(ctx context.Context, s *server, ask asker) error {
	formed, looked := false, time.Now()
	for {
		pause := c.Watch
		if !formed {
			pause = c.Pause
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		if !formed {
			if formed = ask.see(ctx, c.own).runs; formed {
				s.set(Member)
			} else {
				if err := c.follow(ctx, ask); err != nil {
					return err
				}
				ask.promote(ctx, c.others, c.own)
			}
		}
		if time.Since(looked) >= c.Watch {
			if err := c.replaced(ctx, s, ask); err != nil {
				return err
			}
			looked = time.Now()
		}
	}
}

// follow tells etcd who has joined besides since this node has: as long as it has no data it starts only when it knows all members.
func (c Config) follow(ctx context.Context, ask asker) error {
	written, err := os.ReadFile(c.Environment)
	if err != nil || !strings.HasPrefix(string(written), stateVariable+stateExisting+"\n") {
		return nil // it begins a cluster, or isn't to start
	}
	if data, err := hasData(c.Data); err != nil || data {
		return err
	}
	members, err := ask.members(ctx, c.others)
	if err != nil || !slices.ContainsFunc(members, func(m Peer) bool { return m.URL == c.own.URL }) {
		return nil // nobody answers now, or this node was removed again
	}
	if members = named(members, c.Peers, c.own); environment(stateExisting, members) == string(written) {
		return nil
	}
	return c.start(stateExisting, members)
}

// replaced asks all others for the newest restore they know of. If this node's data is of an earlier one, it sets that aside
// and returns errReplaced.
func (c Config) replaced(ctx context.Context, s *server, ask asker) error {
	own := s.generation()
	newest := own
	asked, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	for _, g := range ask.generations(asked, c.others) {
		if g.Newer(newest) {
			newest = g
		}
	}
	if !newest.Newer(own) {
		return nil
	}
	c.Say("the cluster was " + newest.String() + ", without this node: its data is of before that. It is set aside, and the node joins")
	if err := c.stop(ctx); err != nil {
		return err
	}
	if err := restore.Stage(c.Data, newest, nil); err != nil {
		return err
	}
	if err := restore.Decide(c.Data, newest); err != nil {
		return err
	}
	if err := restore.Settle(c.Data); err != nil {
		return err
	}
	if err := c.tell(s); err != nil {
		return err
	}
	return errReplaced
}

// begins is what a node says from its very first answer. A log that was cut before there was a leader is nothing that others
// have to wait for: they begin as if this node were fresh.
func begins(dir string, data bool, generation restore.Generation) State {
	switch {
	case !data && !generation.IsZero():
		return Joining
	case !data:
		return Fresh
	case !generation.IsZero(): // a restored log knows no later term either
		return Member
	case hadLeader(dir):
		return Member
	}
	return Bootstrapping
}

// hasData says whether etcd was a member before: its write-ahead log is there.
func hasData(dir string) (bool, error) {
	list, err := os.ReadDir(filepath.Join(dir, "member", "wal"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("cannot look for etcd's data: %w", err)
	}
	return len(list) > 0, nil
}

// decide asks the others until it is clear how to start.
func (c Config) decide(ctx context.Context, s *server, ask asker) error {
	said := ""
	for {
		v := look(ctx, ask, c.others)
		switch do, why := judge(v, s.generation()); do {
		case begin:
			s.set(Bootstrapping)
			return c.start(stateNew, c.Peers)
		case join:
			members, err := c.join(ctx, s, ask, v)
			if err == nil {
				s.set(Member)
				return c.start(stateExisting, named(members, c.Peers, c.own))
			}
			why = "cannot join the cluster yet: " + err.Error()
			fallthrough
		default:
			if why != said {
				c.Say(why)
				said = why
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(c.Pause):
		}
	}
}

// join makes this node a member of the running cluster, and its restore this node's before that: in case of a cut it only joins.
func (c Config) join(ctx context.Context, s *server, ask asker, v view) ([]Peer, error) {
	if v.generation.Newer(s.generation()) {
		if err := restore.Adopt(c.Data, v.generation); err != nil {
			return nil, err
		}
		s.tell(Joining, v.generation)
	}
	return ask.join(ctx, v.running, c.own)
}

// named are a running cluster's members by the names that etcd wants to hear: one that has not started yet has none of its own.
func named(members, document []Peer, own Peer) []Peer {
	list := make([]Peer, 0, len(members))
	for _, m := range members {
		for _, d := range append([]Peer{own}, document...) {
			if m.Name == "" && m.URL == d.URL {
				m.Name = d.Name
			}
		}
		list = append(list, m)
	}
	return list
}

const stateVariable = "SLIPWAY_ETCD_STATE="

// environment is what etcd.service reads.
func environment(state string, members []Peer) string {
	var list []string
	for _, m := range members {
		list = append(list, m.Name+"="+m.URL)
	}
	return stateVariable + state + "\nSLIPWAY_ETCD_CLUSTER=" + strings.Join(list, ",") + "\n"
}

// start writes what etcd starts with: beside, then renamed.
func (c Config) start(state string, members []Peer) error {
	text := environment(state, members)
	beside := c.Environment + ".new"
	if err := errors.Join(os.MkdirAll(filepath.Dir(c.Environment), 0o755), os.WriteFile(beside, []byte(text), 0o644)); err != nil {
		return fmt.Errorf("cannot write etcd's environment: %w", err)
	}
	if err := os.Rename(beside, c.Environment); err != nil {
		return fmt.Errorf("cannot write etcd's environment: %w", err)
	}
	c.Say("etcd starts: " + map[string]string{stateNew: "as a new cluster", stateExisting: "as a member of its cluster"}[state])
	c.Ready()
	return nil
}

// listen takes the guard's port. The node's address may be a moment late.
func listen(ctx context.Context, address string) (net.Listener, error) {
	for {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err == nil {
			return l, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot guard etcd: %w", err)
		case <-time.After(time.Second):
		}
	}
}
