// Package etcdkv keeps entries in an etcd that several boot servers share: a kv.Shared.
//
// Words: a group is what one transaction of etcd carries: several commits. It is the only package that knows etcd's client.
package etcdkv

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/slipway-os/slipway/builder/kv"
)

// Bounds.
const (
	answerLimit = 4 * time.Second // for one answer of etcd
	listLimit   = 20 * time.Second
	lookPause   = 2 * time.Second // between looks whether it is there
	maxWaiting  = 4096            // commits that are begun and not yet written
	maxOps      = 60              // changes of a group: etcd takes 128 conditions and as many changes (--max-txn-ops)
	maxBytes    = 1 << 20         // of a group, unless one change alone has more: etcd takes 1.5 MiB (--max-request-bytes)
)

// Place is where entries are.
type Place struct {
	Endpoints []string // host:port
	Prefix    string   // of all keys, with a slash at its end
	TLS       *tls.Config
}

// ParsePlace reads etcd://HOST:PORT,HOST:PORT/PREFIX.
func ParsePlace(text string) (Place, error) {
	fail := func(why string) (Place, error) {
		return Place{}, fmt.Errorf("%q is not like etcd://10.0.0.1:2379,10.0.0.2:2379/slipway: %s", text, why)
	}
	rest, ok := strings.CutPrefix(text, "etcd://")
	if !ok {
		return fail("it doesn't begin with etcd://")
	}
	hosts, prefix, _ := strings.Cut(rest, "/")
	prefix = strings.Trim(prefix, "/")
	if prefix == "" || strings.ContainsAny(prefix, "\x00?#") {
		return fail("it needs a prefix that is the boot servers' own")
	}
	var p Place
	for host := range strings.SplitSeq(hosts, ",") {
		name, port, err := net.SplitHostPort(host)
		if err != nil || name == "" || port == "" || (&url.URL{Host: host}).Port() != port {
			return fail(fmt.Sprintf("%q is no host and port", host))
		}
		p.Endpoints = append(p.Endpoints, host)
	}
	p.Prefix = "/" + prefix + "/"
	return p, nil
}

// String is the place in words.
func (p Place) String() string {
	return "etcd at " + strings.Join(p.Endpoints, ",") + " under " + p.Prefix
}

// local says whether all of it is on this machine.
func (p Place) local() bool {
	for _, e := range p.Endpoints {
		at, err := netip.ParseAddrPort(e)
		if err != nil || !at.Addr().IsLoopback() {
			return false
		}
	}
	return true
}

// Store is a kv.Shared in etcd.
type Store struct {
	place  Place
	client *clientv3.Client
	ctx    context.Context // ends the looks
	stop   context.CancelFunc
	queue  chan *commit
	ended  sync.WaitGroup

	mu     sync.RWMutex // held shared while a commit is put into the queue
	closed bool

	look sync.Mutex
	away error
}

type commit struct {
	changes []kv.Change
	done    chan error
}

var _ kv.Shared = (*Store)(nil)

// Open opens a place and makes sure that it answers.
func Open(ctx context.Context, place Place) (*Store, error) {
	scheme := "http://"
	if place.TLS != nil {
		scheme = "https://"
	}
	if place.TLS == nil && !place.local() {
		return nil, fmt.Errorf("cannot use %s without TLS: whoever is on the network between could claim nodes (give an authority, a certificate and a key)", place)
	}
	urls := make([]string, len(place.Endpoints))
	for i, e := range place.Endpoints {
		urls[i] = scheme + e
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: urls, TLS: place.TLS, DialTimeout: answerLimit, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: answerLimit,
		MaxCallSendMsgSize: 4 << 20, Logger: zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", place, err)
	}
	s := &Store{place: place, client: client, queue: make(chan *commit, maxWaiting)}
	if err := s.ask(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("cannot use %s: %w", place, err)
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.ended.Go(s.run)
	s.ended.Go(s.looks)
	return s, nil
}

// ask reads one key, with etcd's own agreement that the answer is of now.
func (s *Store) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	_, err := s.client.Get(ctx, s.place.Prefix, clientv3.WithKeysOnly(), clientv3.WithLimit(1))
	return s.seen(err)
}

// looks asks from time to time whether the store is there.
func (s *Store) looks() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(lookPause):
			_ = s.ask(s.ctx) // Away tells
		}
	}
}

// seen notes how an answer ended, and makes the error of it.
func (s *Store) seen(err error) error {
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = errors.New("it doesn't answer")
		}
		err = fmt.Errorf("%w: %s: %w", kv.ErrAway, s.place, err)
	}
	s.look.Lock()
	defer s.look.Unlock()
	s.away = err
	return err
}

// Away is part of kv.Shared.
func (s *Store) Away() error {
	s.look.Lock()
	defer s.look.Unlock()
	return s.away
}

// List is part of kv.Store.
func (s *Store) List(prefix string) ([]kv.Entry, error) {
	list, _, err := s.list(s.ctx, prefix)
	return list, err
}

// list is what is under a prefix, and the revision that it is of.
func (s *Store) list(ctx context.Context, prefix string) ([]kv.Entry, int64, error) {
	if err := s.Away(); err != nil { // who asks often shouldn't wait each time
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	answer, err := s.client.Get(ctx, s.place.Prefix+prefix, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
	if err = s.seen(err); err != nil {
		return nil, 0, err
	}
	out := make([]kv.Entry, len(answer.Kvs))
	for i, e := range answer.Kvs {
		out[i] = kv.Entry{Key: s.key(e.Key), Value: notNil(e.Value)}
	}
	return out, answer.Header.Revision, nil
}

// key is an entry's key without the prefix of the place.
func (s *Store) key(k []byte) string { return strings.TrimPrefix(string(k), s.place.Prefix) }

// notNil is a value that is there.
func notNil(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}

// Watch is part of kv.Shared.
func (s *Store) Watch(ctx context.Context, prefix string, changed func(whole bool, entries []kv.Entry)) {
	for ctx.Err() == nil && s.ctx.Err() == nil {
		entries, revision, err := s.list(ctx, prefix)
		if err == nil {
			changed(true, entries)
			s.follow(ctx, prefix, revision+1, changed)
		}
		select {
		case <-ctx.Done():
		case <-s.ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// follow tells of changes from a revision on until etcd ends that.
func (s *Store) follow(ctx context.Context, prefix string, revision int64, changed func(bool, []kv.Entry)) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	for answer := range s.client.Watch(ctx, s.place.Prefix+prefix, clientv3.WithPrefix(), clientv3.WithRev(revision)) {
		if answer.Err() != nil {
			return
		}
		var entries []kv.Entry
		for _, e := range answer.Events {
			entry := kv.Entry{Key: s.key(e.Kv.Key)}
			if e.Type == clientv3.EventTypePut {
				entry.Value = notNil(e.Kv.Value)
			}
			entries = append(entries, entry)
		}
		if len(entries) > 0 {
			changed(false, entries)
		}
	}
}

// Close is part of kv.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.queue)
	s.mu.Unlock()
	s.stop()
	s.ended.Wait()
	return s.client.Close()
}
