package nodes

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Kept are the snapshots of etcd that a control plane keeps, in all its folders.
func (c *Client) Kept(ctx context.Context) ([]bootspec.KeptSnapshot, error) {
	defer c.Close()
	answer, err := c.get(ctx, bootspec.RouteEtcdKept, nil)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	var list []bootspec.KeptSnapshot
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxList)).Decode(&list); err != nil {
		return nil, fmt.Errorf("cannot read the answer of node %s: %w", c.name, err)
	}
	return list, nil
}

// OpenKept is the content of one of them.
func (c *Client) OpenKept(ctx context.Context, s bootspec.KeptSnapshot) (io.ReadCloser, error) {
	answer, err := c.get(ctx, bootspec.RouteEtcdKept+"/"+url.PathEscape(s.Name), url.Values{"directory": {s.Directory}})
	if err != nil {
		return nil, err
	}
	return answer.Body, nil
}
