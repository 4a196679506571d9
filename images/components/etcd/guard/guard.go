// Package guard decides how a control plane's etcd starts, so that nobody runs a bootstrap command and no cluster is ever
// started a second time.
//
// A member with data starts as it is. One without asks all other control planes first: where their etcd runs, it joins that
// cluster as a new member, in place of the one of its name; only when every one of them answers that it has no data either do
// they start a cluster together. In all other cases it waits and says for whom. So a replaced or re-imaged machine cannot
// start a second cluster, not even with another one: it would need all of them to be empty.
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
	"strings"
	"time"
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

// Config is a guard's.
type Config struct {
	Name        string // of this node
	Peers       []Peer // all members, this node too
	Data        string // etcd's data folder
	Environment string // file that etcd.service reads: SLIPWAY_ETCD_STATE and SLIPWAY_ETCD_CLUSTER
	TLS         *tls.Config
	Pause       time.Duration      // between two rounds of asking
	Say         func(words string) // what it waits for, when that changes
	Ready       func()             // the environment is written, etcd may start
	own         Peer
	others      []Peer
}

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
	data, err := hasData(c.Data)
	if err != nil {
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
	s := newServer(c.Name, begins(c.Data, data))
	go s.serve(listener, c.TLS)
	defer s.close()
	ask, err := newRemote(c.TLS)
	if err != nil {
		return err
	}
	defer ask.close()
	if data {
		err = c.start(stateExisting, c.Peers)
	} else {
		err = c.decide(ctx, s, ask)
	}
	if err != nil && ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	if err := c.untilFormed(ctx, ask); err != nil {
		return err
	}
	s.set(Member)
	<-ctx.Done()
	return nil
}

// begins is what a node says from its very first answer. A log that was cut before there was a leader is nothing that others
// have to wait for: they begin as if this node were fresh.
func begins(dir string, data bool) State {
	switch {
	case !data:
		return Fresh
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
		switch do, why := judge(v); do {
		case begin:
			s.set(Bootstrapping)
			return c.start(stateNew, c.Peers)
		case join:
			members, err := ask.join(ctx, v.running, c.own)
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

// start writes what etcd starts with: beside, then renamed.
func (c Config) start(state string, members []Peer) error {
	var list []string
	for _, m := range members {
		list = append(list, m.Name+"="+m.URL)
	}
	text := "SLIPWAY_ETCD_STATE=" + state + "\nSLIPWAY_ETCD_CLUSTER=" + strings.Join(list, ",") + "\n"
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

// untilFormed waits until this node's etcd is one of a cluster that can decide things.
func (c Config) untilFormed(ctx context.Context, ask asker) error {
	for {
		if seen := ask.see(ctx, c.own); seen.runs {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.Pause):
		}
	}
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
