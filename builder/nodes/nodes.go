// Package nodes asks running nodes through their management API (images/bootspec, manage.go): how they are, their journal,
// snapshots of their etcd. What it finds out about several nodes it explains in words for people (explain.go).
//
// It makes its own client certificate with the cluster's identity, and believes only the node whose name it asks for. It is
// not for machines on their way up: those report to the boot server (builder/netboot).
package nodes

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/slipway-os/slipway/builder/pki"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

const (
	dialLimit   = 5 * time.Second
	headerLimit = 40 * time.Second
	statusLimit = 10 * time.Second
	maxRefusal  = 4 << 10  // bytes of an error's text
	maxAnswer   = 1 << 20  // bytes of what a node says it did
	maxList     = 64 << 20 // bytes of a list of Kubernetes' objects
)

// Operator asks nodes of a cluster with a certificate of its own.
type Operator struct {
	cluster *cluster.Cluster
	own     tls.Certificate
	trusted *x509.CertPool
	port    int
}

// NewOperator makes the certificate, valid for pki.OperatorLifetime.
func NewOperator(c *cluster.Cluster, id *pki.Identity, env pki.Environment) (*Operator, error) {
	pair, err := id.Operator(env)
	if err != nil {
		return nil, err
	}
	own, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	if err != nil {
		return nil, fmt.Errorf("cannot use the operator's certificate: %w", err)
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(id.Trusted())
	return &Operator{cluster: c, own: own, trusted: trusted, port: bootspec.ManagePort}, nil
}

// TLS is for clients of the cluster's API servers.
func (o *Operator) TLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: o.trusted, Certificates: []tls.Certificate{o.own}}
}

// Client asks one node. Close it.
type Client struct {
	name, base string
	http       *http.Client
}

// Node is the client of a node of the cluster document.
func (o *Operator) Node(n *cluster.Node) *Client {
	address := net.JoinHostPort(o.cluster.NodeAddress(n).String(), strconv.Itoa(o.port))
	return &Client{name: n.Name, base: "https://" + address, http: &http.Client{Transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialLimit}).DialContext,
		TLSHandshakeTimeout: dialLimit, ResponseHeaderTimeout: headerLimit, MaxResponseHeaderBytes: 64 << 10,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, ServerName: n.Name, RootCAs: o.trusted, Certificates: []tls.Certificate{o.own},
		},
	}}}
}

// Close ends the connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// get asks; the answer's body is the caller's to close.
func (c *Client) get(ctx context.Context, route string, query url.Values) (*http.Response, error) {
	fail := func(err error) (*http.Response, error) { return nil, fmt.Errorf("cannot ask node %s: %w", c.name, err) }
	address := c.base + route
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fail(err)
	}
	answer, err := c.http.Do(request)
	var wrong *url.Error
	if errors.As(err, &wrong) {
		err = wrong.Err // without the method and the URL
	}
	if err != nil {
		return fail(err)
	}
	if answer.StatusCode != http.StatusOK {
		defer answer.Body.Close()
		words, _ := io.ReadAll(io.LimitReader(answer.Body, maxRefusal))
		return fail(fmt.Errorf("it says %s: %s", answer.Status, strings.TrimSpace(string(words))))
	}
	return answer, nil
}

// send has the node do something; its answer (JSON) goes into out. How long that may take is ctx's.
func (c *Client) send(ctx context.Context, method, route string, body io.Reader, size int64, out any) error {
	if t, ok := c.http.Transport.(*http.Transport); ok {
		t.ResponseHeaderTimeout = 0
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+route, body)
	if err != nil {
		return err
	}
	request.ContentLength = size
	answer, err := c.http.Do(request)
	var wrong *url.Error
	if errors.As(err, &wrong) {
		err = wrong.Err // without the method and the URL
	}
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	switch {
	case err != nil:
		return err
	case answer.StatusCode == http.StatusNotFound:
		return errors.New("its image has no such command: " + strings.TrimSpace(string(data)))
	case answer.StatusCode != http.StatusOK:
		return errors.New(strings.TrimSpace(string(data)))
	}
	return json.Unmarshal(data, out)
}

// Status is how the node is.
func (c *Client) Status(ctx context.Context) (bootspec.LiveStatus, error) {
	var l bootspec.LiveStatus
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	answer, err := c.get(ctx, bootspec.RouteLiveStatus, nil)
	if err != nil {
		return l, err
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(io.LimitReader(answer.Body, bootspec.MaxLiveStatus)).Decode(&l); err != nil {
		return l, fmt.Errorf("cannot read the answer of node %s: %w", c.name, err)
	}
	return l, nil
}

// LogQuery chooses of a journal.
type LogQuery struct {
	Unit   string        // empty: everything
	Since  time.Duration // back from now; 0: the whole boot
	Follow bool          // until ctx ends
}

// Logs writes the journal as lines of text.
func (c *Client) Logs(ctx context.Context, q LogQuery, w io.Writer) error {
	query := url.Values{}
	if q.Unit != "" {
		query.Set("unit", q.Unit)
	}
	if q.Since > 0 {
		query.Set("since", strconv.FormatInt(int64((q.Since+time.Second-1)/time.Second), 10))
	}
	if q.Follow {
		query.Set("follow", "1")
	}
	answer, err := c.get(ctx, bootspec.RouteLogs, query)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(w, answer.Body)
	if err == nil {
		err = ctx.Err() // a node that sees the end of the connection may end its answer properly, in time to be read
	}
	if err != nil {
		return fmt.Errorf("the journal of node %s breaks off: %w", c.name, err)
	}
	return nil
}

// Answer is what one node said, or why nothing is known.
type Answer struct {
	Name    string               `json:"name"`
	Role    string               `json:"role"`
	Address string               `json:"address"`
	Status  *bootspec.LiveStatus `json:"status,omitempty"`
	Error   string               `json:"error,omitempty"`
}

// Survey asks all nodes of the document at once; the answers are in its order.
func (o *Operator) Survey(ctx context.Context) []Answer {
	answers := make([]Answer, len(o.cluster.Nodes))
	var all sync.WaitGroup
	for i := range o.cluster.Nodes {
		n := &o.cluster.Nodes[i]
		all.Go(func() {
			c := o.Node(n)
			defer c.Close()
			a := Answer{Name: n.Name, Role: n.Role, Address: o.cluster.NodeAddress(n).String()}
			if l, err := c.Status(ctx); err != nil {
				a.Error = err.Error()
			} else {
				a.Status = &l
			}
			answers[i] = a
		})
	}
	all.Wait()
	return answers
}
