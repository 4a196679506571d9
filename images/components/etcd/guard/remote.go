package guard

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/slipway-os/slipway/images/components/etcd/restore"
)

// patience is how long another node may take for an answer.
const patience = 5 * time.Second

// remote asks other nodes over mutual TLS.
type remote struct {
	tls  *tls.Config
	http *http.Client
}

func newRemote(config *tls.Config) (*remote, error) {
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	return &remote{config, &http.Client{Transport: transport, Timeout: patience}}, nil
}

func (r *remote) close() { r.http.CloseIdleConnections() }

// see asks a node's etcd whether its cluster runs, and its guard.
func (r *remote) see(ctx context.Context, p Peer) sight {
	s := sight{peer: p}
	if conn, err := net.DialTimeout("tcp", p.at(clientPort), patience); err == nil {
		conn.Close()
		s.runs = r.runs(ctx, p)
		s.waits = !s.runs
	}
	answer, err := r.guard(ctx, p)
	switch {
	case err != nil:
		s.trouble = err.Error()
	case answer.Name != p.Name:
		s.trouble = fmt.Sprintf("node %s answers at its address %s", answer.Name, p.host)
	default:
		s.state, s.generation = answer.State, answer.Restored
	}
	if s.state == Fresh || s.state == Bootstrapping || s.state == Joining {
		s.waits = false // its etcd is on the way to the others
	}
	return s
}

// runs says whether a node's etcd has a leader: a list of members is only answered by one that has.
func (r *remote) runs(ctx context.Context, p Peer) bool {
	err := r.with(ctx, p, func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.MemberList(ctx)
		return err
	})
	return err == nil
}

func (r *remote) with(ctx context.Context, p Peer, do func(context.Context, *clientv3.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"https://" + p.at(clientPort)}, TLS: r.tls, DialTimeout: patience, Context: ctx, Logger: zap.NewNop(),
	})
	if err != nil {
		return err
	}
	defer c.Close()
	return do(ctx, c)
}

func (r *remote) guard(ctx context.Context, p Peer) (status, error) {
	var s status
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+p.at(guardPort)+statusPath, nil)
	if err != nil {
		return s, err
	}
	response, err := r.http.Do(request)
	if err != nil {
		return s, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return s, fmt.Errorf("its guard answers %s", response.Status)
	}
	return s, json.NewDecoder(io.LimitReader(response.Body, 4096)).Decode(&s)
}

// generations asks the guards of all others.
func (r *remote) generations(ctx context.Context, others []Peer) []restore.Generation {
	list := make([]restore.Generation, len(others))
	var group sync.WaitGroup
	for i, p := range others {
		group.Go(func() {
			if answer, err := r.guard(ctx, p); err == nil && answer.Name == p.Name {
				list[i] = answer.Restored
			}
		})
	}
	group.Wait()
	return list
}

// join makes this node a new member of a cluster that runs, in place of the one that has its address: a member that lost
// its data must not come back as itself (raft relies on what a member has promised). The second member of a cluster of one has
// no vote before it has caught up (promote), so that the cluster goes on when this node fails now. It returns all members.
func (r *remote) join(ctx context.Context, running, own Peer) (members []Peer, err error) {
	err = r.with(ctx, running, func(ctx context.Context, c *clientv3.Client) error {
		list, err := c.MemberList(ctx)
		if err != nil {
			return err
		}
		voters := 0
		for _, m := range list.Members {
			ours := m.Name == own.Name || slices.Contains(m.PeerURLs, own.URL)
			switch {
			case ours:
				if _, err := c.MemberRemove(ctx, m.ID); err != nil {
					return fmt.Errorf("cannot remove member %s (%x), which lost its data: %w", own.Name, m.ID, err)
				}
			case m.IsLearner:
				return fmt.Errorf("another node joins just now (%s): one at a time", strings.Join(m.PeerURLs, ", "))
			default:
				voters++
			}
		}
		add := c.MemberAdd
		if voters == 1 {
			add = c.MemberAddAsLearner
		}
		added, err := add(ctx, []string{own.URL})
		if err != nil {
			return fmt.Errorf("cannot add this node: %w", err)
		}
		members = peersOf(added.Members)
		return nil
	})
	return members, err
}

func peersOf(list []*etcdserverpb.Member) (members []Peer) {
	for _, m := range list {
		for _, url := range m.PeerURLs {
			members = append(members, Peer{Name: m.Name, URL: url})
		}
	}
	return members
}

// members asks one after the other.
func (r *remote) members(ctx context.Context, others []Peer) (members []Peer, err error) {
	for _, p := range others {
		err = r.with(ctx, p, func(ctx context.Context, c *clientv3.Client) error {
			list, err := c.MemberList(ctx)
			if err == nil {
				members = peersOf(list.Members)
			}
			return err
		})
		if err == nil {
			return members, nil
		}
	}
	return nil, err
}

// promote asks the first other member that answers. etcd refuses while this node hasn't caught up.
func (r *remote) promote(ctx context.Context, others []Peer, own Peer) {
	for _, p := range others {
		err := r.with(ctx, p, func(ctx context.Context, c *clientv3.Client) error {
			list, err := c.MemberList(ctx)
			if err != nil {
				return err
			}
			for _, m := range list.Members {
				if m.IsLearner && m.Name != "" && slices.Contains(m.PeerURLs, own.URL) {
					_, _ = c.MemberPromote(ctx, m.ID) // it is asked again
				}
			}
			return nil
		})
		if err == nil {
			return
		}
	}
}
