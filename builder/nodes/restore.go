package nodes

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"filippo.io/age"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// ageHead is how an encrypted file begins (age-encryption.org/v1).
const ageHead = "age-encryption.org/v1"

// stepLimit bounds one step on one node: sending a snapshot and building data of it takes longest.
const stepLimit = 20 * time.Minute

// OpenSnapshot checks a snapshot file, and decrypts it first if it is encrypted: with the identity (age-keygen) in the file
// key. The decrypted copy is a temporary file that only its owner may read; done removes it. File of the result is what to read.
func OpenSnapshot(file, key string) (s Snapshot, done func(), err error) {
	done = func() {}
	f, err := os.Open(file)
	if err != nil {
		return s, done, fmt.Errorf("cannot read the snapshot: %w", err)
	}
	defer f.Close()
	in := bufio.NewReader(f)
	head, _ := in.Peek(len(ageHead))
	if string(head) == ageHead {
		plain, err := decrypt(in, key)
		if err != nil {
			return s, done, fmt.Errorf("cannot decrypt %s: %w", file, err)
		}
		file, done = plain, func() { _ = os.Remove(plain) }
	}
	if s, err = CheckSnapshot(file); err != nil {
		done()
		return s, func() {}, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return s, done, nil
}

// decrypt writes a temporary file.
func decrypt(in io.Reader, key string) (file string, err error) {
	if key == "" {
		return "", errors.New("it is encrypted: name the file with the secret key that age-keygen made (--key)")
	}
	k, err := os.Open(key)
	if err != nil {
		return "", err
	}
	defer k.Close()
	identities, err := age.ParseIdentities(io.LimitReader(k, 1<<20))
	if err != nil {
		return "", fmt.Errorf("%s holds no secret key of age", key) // not what it holds
	}
	plain, err := age.Decrypt(in, identities...)
	if err != nil {
		return "", err
	}
	out, err := os.CreateTemp("", "etcd-snapshot-*") // 0600
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, plain)
	if err := errors.Join(err, out.Close()); err != nil {
		_ = os.Remove(out.Name())
		return "", err
	}
	return out.Name(), nil
}

// Restore brings a snapshot back into a cluster's etcd: one control plane gets it, all others that answer set their data aside
// and join. Its steps are to be called in their order; each error says what stands then.
type Restore struct {
	Operator *Operator
	Snapshot Snapshot
	On       *cluster.Node
	At       time.Time // in whole seconds, UTC; later than any restore of the cluster before
}

// Prepare sends the snapshot. Nothing in the cluster changes.
func (r *Restore) Prepare(ctx context.Context) error {
	f, err := os.Open(r.Snapshot.File)
	if err != nil {
		return fmt.Errorf("cannot send the snapshot: %w", err)
	}
	defer f.Close()
	_, err = r.step(ctx, r.On, http.MethodPut, bootspec.RouteEtcdRestore, f)
	if err != nil {
		return fmt.Errorf("%w: nothing was changed", err)
	}
	return nil
}

// SetAside sets another control plane's data aside: its etcd waits for the restored one.
func (r *Restore) SetAside(ctx context.Context, n *cluster.Node) (bootspec.EtcdChange, error) {
	if _, err := r.step(ctx, n, http.MethodPost, bootspec.RouteEtcdSetAside, nil); err != nil {
		return bootspec.EtcdChange{}, err
	}
	return r.step(ctx, n, http.MethodPost, bootspec.RouteEtcdApply, nil)
}

// Apply starts the node that got the snapshot with it.
func (r *Restore) Apply(ctx context.Context) (bootspec.EtcdChange, error) {
	return r.step(ctx, r.On, http.MethodPost, bootspec.RouteEtcdApply, nil)
}

// Await waits until etcd of the node is healthy with the restored data, or says why it isn't when ctx ends.
func (r *Restore) Await(ctx context.Context, n *cluster.Node) error {
	c := r.Operator.Node(n)
	defer c.Close()
	why := "it does not answer"
	for {
		l, err := c.Status(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			why = err.Error()
		case l.Etcd == nil:
			why = "it has no etcd"
		case !l.Etcd.Restored.Equal(r.At):
			why = "it has not ended yet" // what answers is the one of before
		case l.Etcd.Learner:
			why = "it has not caught up yet"
		case l.Etcd.Healthy && l.Etcd.HasLeader:
			return nil
		default:
			why = l.Etcd.Reason
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("etcd of %s is not healthy yet: %s", n.Name, why)
		case <-time.After(time.Second):
		}
	}
}

// step asks a node for one step.
func (r *Restore) step(ctx context.Context, n *cluster.Node, method, route string, body *os.File) (bootspec.EtcdChange, error) {
	var change bootspec.EtcdChange
	fail := func(err error) (bootspec.EtcdChange, error) {
		return change, fmt.Errorf("cannot restore etcd on node %s: %w", n.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	c := r.Operator.Node(n)
	defer c.Close()
	query := url.Values{"at": {r.At.UTC().Format(time.RFC3339)}, "on": {r.On.Name}}
	var size int64
	var content io.Reader
	if body != nil {
		content, size = body, r.Snapshot.Size
	}
	if err := c.send(ctx, method, route+"?"+query.Encode(), content, size, &change); err != nil {
		return fail(err)
	}
	return change, nil
}
