// Package drill tries a snapshot out: it restores it into a scratch folder as a restore would, starts etcd with that, reads every
// key and writes one.
//
// It listens on sockets in the scratch folder only, needs no certificates, and touches no cluster.
package drill

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/slipway-os/slipway/images/components/etcd/restore"
)

// Result is what etcd said of a snapshot when it ran with it.
type Result struct {
	Version  string `json:"version"`  // etcd's
	Keys     int64  `json:"keys"`     // that were read
	Bytes    int64  `json:"bytes"`    // of their values
	Revision int64  `json:"revision"` // the snapshot's newest
	Hash     uint32 `json:"hash"`     // etcd's hash of all keys (HashKV), for comparison with another drill
	Took     int64  `json:"took"`     // milliseconds from the snapshot to the first answer
}

// page is how many keys are read at a time.
const page = 500

// probe is the key that is written.
const probe = "\x00slipway-drill"

// Run tries the snapshot in file out, in a folder of its own below scratch, which it removes.
func Run(ctx context.Context, file, scratch string) (Result, error) {
	began := time.Now()
	dir, err := os.MkdirTemp(scratch, "drill-")
	if err != nil {
		return Result{}, fmt.Errorf("cannot try the snapshot: %w", err)
	}
	defer os.RemoveAll(dir)
	e, endpoint, err := start(ctx, file, dir)
	if err != nil {
		return Result{}, fmt.Errorf("cannot start etcd with the snapshot: %w", err)
	}
	defer func() {
		e.Server.HardStop()
		e.Close()
	}()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 10 * time.Second, Context: ctx, Logger: zap.NewNop()})
	if err != nil {
		return Result{}, fmt.Errorf("cannot ask etcd: %w", err)
	}
	defer c.Close()
	r, err := read(ctx, c)
	if err != nil {
		return r, fmt.Errorf("etcd runs with the snapshot, but: %w", err)
	}
	r.Took = time.Since(began).Milliseconds()
	state, err := c.Status(ctx, endpoint)
	if err != nil {
		return r, fmt.Errorf("cannot ask etcd: %w", err)
	}
	r.Version = state.Version
	return r, nil
}

func socket(dir, name string) url.URL { return url.URL{Scheme: "unix", Path: filepath.Join(dir, name)} }

const memberName = "drill"

// start restores and starts.
func start(ctx context.Context, file, dir string) (e *embed.Etcd, endpoint string, err error) {
	peer, client := socket(dir, "peer"), socket(dir, "client")
	data := filepath.Join(dir, "data")
	build := restore.FromSnapshot(file, restore.Member{Name: memberName, URL: peer.String()}, restore.Generation{At: time.Unix(0, 0), On: memberName})
	if err := build(data); err != nil {
		return nil, "", err
	}
	e, err = run(ctx, dir, data, embed.ClusterStateFlagExisting)
	return e, client.String(), err
}

// run starts etcd with sockets in dir, and waits until it serves.
func run(ctx context.Context, dir, data, state string) (*embed.Etcd, error) {
	peer, client := socket(dir, "peer"), socket(dir, "client")
	c := embed.NewConfig()
	c.Name, c.Dir, c.LogLevel, c.Logger = memberName, data, "fatal", "zap"
	c.InitialCluster, c.ClusterState = memberName+"="+peer.String(), state
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.UnsafeNoFsync = true // it is thrown away
	e, err := embed.StartEtcd(c)
	if err != nil {
		return nil, err
	}
	select {
	case <-e.Server.ReadyNotify():
		return e, nil
	case err = <-e.Err():
	case <-e.Server.StopNotify():
		err = errors.New("it stopped by itself")
	case <-ctx.Done():
		err = ctx.Err()
	}
	e.Server.HardStop()
	e.Close()
	return nil, err
}

// read reads all keys, writes one and reads that back.
func read(ctx context.Context, c *clientv3.Client) (r Result, err error) {
	from, at := "\x00", int64(0)
	for more := true; more; {
		// All pages are of one revision.
		got, err := c.Get(ctx, from, clientv3.WithFromKey(), clientv3.WithLimit(page), clientv3.WithRev(at))
		if err != nil {
			return r, fmt.Errorf("its keys cannot be read: %w", err)
		}
		at = got.Header.Revision
		for _, kv := range got.Kvs {
			r.Keys, r.Bytes = r.Keys+1, r.Bytes+int64(len(kv.Value))
			from = string(kv.Key) + "\x00"
		}
		more = got.More
	}
	r.Revision = at - restore.RevisionBump
	hash, err := c.HashKV(ctx, c.Endpoints()[0], at)
	if err != nil {
		return r, fmt.Errorf("its keys cannot be hashed: %w", err)
	}
	r.Hash = hash.Hash
	if _, err := c.Put(ctx, probe, "written"); err != nil {
		return r, fmt.Errorf("nothing can be written: %w", err)
	}
	got, err := c.Get(ctx, probe)
	if err == nil && (len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "written") {
		err = errors.New("it is not there")
	}
	if err != nil {
		return r, fmt.Errorf("what was written cannot be read: %w", err)
	}
	return r, nil
}
