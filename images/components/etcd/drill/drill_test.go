package drill

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/snapshot"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// TestDrill: a snapshot of a running etcd with many keys is read as a whole; a damaged one is no snapshot.
func TestDrill(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir := t.TempDir()
	file := filepath.Join(dir, "snapshot")
	e, err := run(ctx, dir, filepath.Join(dir, "data"), embed.ClusterStateFlagNew)
	if err != nil {
		t.Fatal(err)
	}
	client := socket(dir, "client")
	endpoint := client.String()
	config := clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()}
	c, err := clientv3.New(config)
	if err != nil {
		t.Fatal(err)
	}
	for i := range page + 7 {
		if _, err := c.Put(ctx, fmt.Sprintf("key/%d", i), "value"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Delete(ctx, "key/3"); err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.SaveWithVersion(ctx, zap.NewNop(), config, file); err != nil {
		t.Fatal(err)
	}
	c.Close()
	e.Close()

	scratch := t.TempDir()
	got, err := Run(ctx, file, scratch)
	if err != nil {
		t.Fatal(err)
	}
	if got.Keys != page+6 || got.Bytes != 5*(page+6) || got.Revision != page+9 || got.Version == "" || got.Hash == 0 {
		t.Errorf("%+v", got)
	}
	again, err := Run(ctx, file, scratch)
	if err != nil || again.Hash != got.Hash {
		t.Errorf("another hash: %+v, %v", again, err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(ctx, file, scratch); err == nil || !strings.Contains(err.Error(), "cannot start etcd with the snapshot") {
		t.Errorf("a damaged snapshot: %v", err)
	}
	if left, _ := os.ReadDir(scratch); len(left) > 0 {
		t.Errorf("%s is left", left[0].Name())
	}
}
