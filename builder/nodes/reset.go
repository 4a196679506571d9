package nodes

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// Resettable tells why a node may not be reset now: the cluster would lose etcd's quorum by it. nil: it may.
func Resettable(answers []Answer, n *cluster.Node) error {
	if n.Role != cluster.RoleControlPlane {
		return nil
	}
	members, healthy := 0, 0
	for _, a := range answers {
		if a.Role != cluster.RoleControlPlane {
			continue
		}
		members++
		if a.Name != n.Name && a.Status != nil && a.Status.Etcd != nil && a.Status.Etcd.Healthy && !a.Status.Etcd.Learner {
			healthy++
		}
	}
	switch {
	case members == 1:
		return fmt.Errorf("%s is the only control plane: all that the cluster knows would be lost with its state", n.Name)
	case healthy < members/2+1:
		return fmt.Errorf("without %s etcd would lose its quorum: of the other %d control planes %d are healthy, and %d are needed",
			n.Name, members-1, healthy, members/2+1)
	}
	return nil
}

// Reset has a node forget its state and start anew. It returns when the node has gone down for that.
func (o *Operator) Reset(ctx context.Context, n *cluster.Node) (boot string, err error) {
	ctx, cancel := context.WithTimeout(ctx, headerLimit)
	defer cancel()
	c := o.Node(n)
	defer c.Close()
	var done bootspec.Reset
	if err := c.send(ctx, http.MethodPost, bootspec.RouteReset+"?"+url.Values{"node": {n.Name}}.Encode(), nil, 0, &done); err != nil {
		return "", fmt.Errorf("node %s: %w", n.Name, err)
	}
	return done.Boot, nil
}

// AwaitBoot waits until a node answers in another boot than the given one, with all its units and a healthy etcd.
func (o *Operator) AwaitBoot(ctx context.Context, n *cluster.Node, before string) error {
	c := o.Node(n)
	defer c.Close()
	why := "it does not answer yet"
	for {
		l, err := c.Status(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			why = err.Error()
		case l.Boot == before:
			why = "it has not gone down yet"
		case l.Etcd != nil && (!l.Etcd.Healthy || l.Etcd.Learner):
			why = "its etcd is not healthy yet: " + l.Etcd.Reason
		default:
			if why = waiting(l.Units); why == "" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("node %s was reset, but is not up again: %s", n.Name, why), context.Cause(ctx))
		case <-time.After(time.Second):
		}
	}
}

// waiting names a unit that isn't active yet.
func waiting(list []bootspec.UnitStatus) string {
	for _, u := range list {
		if u.Active != "active" {
			return u.Name + " is " + u.Active
		}
	}
	return ""
}
