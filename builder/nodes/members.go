package nodes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// Leftovers is what a running cluster has of nodes that its document doesn't.
type Leftovers struct {
	Members []bootspec.EtcdMember `json:"members"` // of etcd
	Nodes   []string              `json:"nodes"`   // Kubernetes' node objects
}

// Leftovers asks a control plane what the cluster has beyond its document.
func (o *Operator) Leftovers(ctx context.Context, n *cluster.Node) (Leftovers, error) {
	var left Leftovers
	c := o.Node(n)
	defer c.Close()
	members, err := c.members(ctx)
	if err != nil {
		return left, err
	}
	for _, m := range members {
		if !o.has(m) {
			left.Members = append(left.Members, m)
		}
	}
	var list struct {
		Items []struct{ Metadata struct{ Name string } }
	}
	if err := o.kubernetes(ctx, n, http.MethodGet, "/api/v1/nodes", &list); err != nil {
		return left, err
	}
	for _, i := range list.Items {
		if _, ok := o.cluster.Node(i.Metadata.Name); !ok {
			left.Nodes = append(left.Nodes, i.Metadata.Name)
		}
	}
	return left, nil
}

// has says whether a member is a control plane of the document. One that has not started yet has no name, but an address.
func (o *Operator) has(m bootspec.EtcdMember) bool {
	for _, n := range o.cluster.ControlPlanes() {
		own := "https://" + net.JoinHostPort(o.cluster.NodeAddress(n).String(), "2380")
		if m.Name == n.Name || m.Name == "" && slices.Contains(m.PeerURLs, own) {
			return true
		}
	}
	return false
}

// members are etcd's, as a control plane's knows them.
func (c *Client) members(ctx context.Context) (list []bootspec.EtcdMember, err error) {
	if err := c.send(ctx, http.MethodGet, bootspec.RouteEtcdMembers, nil, 0, &list); err != nil {
		return nil, fmt.Errorf("cannot ask %s for etcd's members: %w", c.name, err)
	}
	return list, nil
}

// How long the others may take until they can remove a member: a new leader, and 5 s of being connected to each other.
const (
	removalLimit = time.Minute
	removalPause = time.Second
)

// RemoveMember has a control plane remove a member of etcd. It asks again for a minute while etcd refuses: a cluster that has
// just lost a member, or its leader with it, does so for some seconds, and may lose what it was asked.
func (o *Operator) RemoveMember(ctx context.Context, n *cluster.Node, m bootspec.EtcdMember) error {
	ctx, cancel := context.WithTimeout(ctx, removalLimit)
	defer cancel()
	c := o.Node(n)
	defer c.Close()
	route := bootspec.RouteEtcdRemove + "?" + url.Values{"id": {m.ID}}.Encode()
	var why error
	for {
		err := c.send(ctx, http.MethodPost, route, nil, 0, &struct{}{})
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || why == nil { // what etcd said tells more than that the time was over
			why = err
		}
		// It may have been removed all the same.
		if left, err := c.members(ctx); err == nil && !slices.ContainsFunc(left, func(l bootspec.EtcdMember) bool { return l.ID == m.ID }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot remove %s from etcd: %w", MemberName(m), why)
		case <-time.After(removalPause):
		}
	}
}

// MemberName is what people call a member.
func MemberName(m bootspec.EtcdMember) string {
	if m.Name == "" {
		return fmt.Sprintf("the member at %v, which has not started yet,", m.PeerURLs)
	}
	return m.Name
}

// RemoveNode deletes a node object of Kubernetes. Its pods are replaced elsewhere then.
func (o *Operator) RemoveNode(ctx context.Context, n *cluster.Node, name string) error {
	return o.kubernetes(ctx, n, http.MethodDelete, "/api/v1/nodes/"+url.PathEscape(name), &struct{}{})
}

// apiPort is where API servers listen.
const apiPort = "6443"

// kubernetes asks the API server of a control plane.
func (o *Operator) kubernetes(ctx context.Context, n *cluster.Node, method, path string, out any) error {
	fail := func(err error) error {
		var wrong *url.Error
		if errors.As(err, &wrong) {
			err = wrong.Err
		}
		return fmt.Errorf("cannot ask the API server of %s: %w", n.Name, err)
	}
	client := &http.Client{Transport: &http.Transport{
		DialContext: (&net.Dialer{Timeout: dialLimit}).DialContext, TLSHandshakeTimeout: dialLimit, ResponseHeaderTimeout: headerLimit, TLSClientConfig: o.TLS(),
	}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, method, "https://"+net.JoinHostPort(o.cluster.NodeAddress(n).String(), apiPort)+path, nil)
	if err != nil {
		return fail(err)
	}
	answer, err := client.Do(request)
	if err != nil {
		return fail(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxList))
	if err != nil {
		return fail(err)
	}
	if answer.StatusCode != http.StatusOK {
		var why struct{ Message string }
		_ = json.Unmarshal(data, &why)
		return fail(fmt.Errorf("it says %s: %s", answer.Status, why.Message))
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fail(err)
	}
	return nil
}
