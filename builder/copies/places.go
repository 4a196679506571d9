package copies

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/slipway-os/slipway/builder/nodes"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// Places are all places of a cluster document, as an operator reaches them.
func Places(c *cluster.Cluster, o *nodes.Operator) []Place {
	var list []Place
	for _, n := range c.ControlPlanes() {
		list = append(list, node{o.Node(n), n.Name})
	}
	if address := c.Depot(); address != "" {
		list = append(list, depot{address, o.TLS()})
	}
	for _, b := range c.Buckets() {
		list = append(list, bucket{b, "s3:" + b.Bucket.Bucket + "/" + b.Prefix})
	}
	return list
}

// node is a control plane, through its management API.
type node struct {
	client *nodes.Client
	name   string
}

func (n node) String() string { return n.name }

func (n node) List(ctx context.Context) ([]bootspec.KeptSnapshot, error) { return n.client.Kept(ctx) }

func (n node) Open(ctx context.Context, s bootspec.KeptSnapshot) (io.ReadCloser, error) {
	return n.client.OpenKept(ctx, s)
}

// DepotPlace is what the boot server's depot is called.
const DepotPlace = "boot-server"

// depot is the boot server's.
type depot struct {
	address string
	tls     *tls.Config
}

func (d depot) String() string { return DepotPlace }

// Bounds of what the depot answers, in bytes.
const (
	maxList    = 64 << 20
	maxRefusal = 4 << 10
)

// get asks the depot; the answer's body is the caller's to close.
func (d depot) get(ctx context.Context, name string) (*http.Response, error) {
	config := d.tls.Clone()
	config.ServerName = bootspec.DepotName
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+d.address+bootspec.RouteDepot+name, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, TLSClientConfig: config, TLSHandshakeTimeout: 5 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10,
	}}
	answer, err := client.Do(request)
	var wrong *url.Error
	if errors.As(err, &wrong) {
		err = wrong.Err // without the method and the URL
	}
	if err != nil {
		return nil, fmt.Errorf("cannot ask %s: %w", d.address, err)
	}
	if answer.StatusCode != http.StatusOK {
		defer answer.Body.Close()
		words, _ := io.ReadAll(io.LimitReader(answer.Body, maxRefusal))
		return nil, fmt.Errorf("it says %s: %s", answer.Status, strings.TrimSpace(string(words)))
	}
	return answer, nil
}

func (d depot) List(ctx context.Context) ([]bootspec.KeptSnapshot, error) {
	answer, err := d.get(ctx, "")
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	var list []bootspec.KeptSnapshot
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxList)).Decode(&list); err != nil {
		return nil, fmt.Errorf("its list can't be read: %w", err)
	}
	return list, nil
}

func (d depot) Open(ctx context.Context, s bootspec.KeptSnapshot) (io.ReadCloser, error) {
	answer, err := d.get(ctx, s.Name)
	if err != nil {
		return nil, err
	}
	return answer.Body, nil
}
