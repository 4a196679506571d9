package nodes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// Renew gives a running node a newer configuration (Ignition, as the boot server renders it) and waits until all units that
// read it run again. An error of the first part says that nothing was changed.
func (o *Operator) Renew(ctx context.Context, n *cluster.Node, document []byte) (bootspec.Renewed, error) {
	var done bootspec.Renewed
	c := o.Node(n)
	defer c.Close()
	if err := c.send(ctx, http.MethodPost, bootspec.RouteRenew, bytes.NewReader(document), int64(len(document)), &done); err != nil {
		return done, fmt.Errorf("node %s: %w", n.Name, err)
	}
	return done, o.renewed(ctx, c)
}

// renewed waits for the units that a renewal restarts, and for etcd's quorum beside them.
func (o *Operator) renewed(ctx context.Context, c *Client) error {
	why := "it does not answer"
	for {
		l, err := c.Status(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			why = err.Error()
		case l.Renewal == nil:
			return fmt.Errorf("node %s was renewed and has started anew since", c.name)
		case l.Renewal.Fault != "":
			return fmt.Errorf("node %s has its new configuration, but not all units run with it: %s (slipway logs %s says more; slipway renew %s tries again)",
				c.name, l.Renewal.Fault, c.name, c.name)
		case len(l.Renewal.Left) > 0:
			why = "it still restarts " + strings.Join(l.Renewal.Left, ", ")
		case l.Etcd != nil && !l.Etcd.Healthy:
			why = "its etcd is not healthy: " + l.Etcd.Reason
		default:
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("node %s has its new configuration, but is not done: %s", c.name, why), context.Cause(ctx))
		case <-time.After(time.Second):
		}
	}
}
