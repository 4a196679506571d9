package netboot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/builder/kv"
)

// A node's configuration holds its keys. It is claimed: the first machine with the node's MAC address gets it, and from then on the node
// is bound to what that machine showed. What a later claim must show is the policy's to say; one that doesn't is refused until
// an operator arms the node again. Every claim is on disk before it is answered.

// ClaimPolicy says when a configuration that was claimed is given out again.
type ClaimPolicy string

// Policies of claims. A machine that asks again in the same boot, with the same key, is always answered.
const (
	ClaimSameMachine ClaimPolicy = "same-machine" // the zero policy too
	ClaimOnce        ClaimPolicy = "once"
)

// claimKey + node is the entry of a node's claims.
const claimKey = "claim/"

// maxClaims bounds the claims of a node that are kept.
const maxClaims = 16

// Claimed is a claim that was granted: who, when, from where.
type Claimed struct {
	Time   time.Time  `json:"time"`
	From   netip.Addr `json:"from"`
	MAC    string     `json:"mac"`
	UUID   string     `json:"uuid"`
	Serial string     `json:"serial"`
	Key    string     `json:"key"` // SHA-256 of the public key that the claimant made for its boot
	Image  string     `json:"image,omitempty"`
	// TPM is the fingerprint of the endorsement key (bootspec.Fingerprint of its PKIX form) of the TPM that the machine has proven to
	// have; empty: none.
	TPM string `json:"tpm,omitempty"`
	// TPMCertificate is that key's, in PEM, and TPMMaker who issued it, if the TPM has one. They are kept of the claim that the node is bound to.
	TPMCertificate string `json:"tpmCertificate,omitempty"`
	TPMMaker       string `json:"tpmMaker,omitempty"`
}

// ClaimRecord is what is kept of a node's claims.
type ClaimRecord struct {
	Node string `json:"node"`
	// Armed: the next claim is granted to whoever has the MAC address, and binds the node to it. A node without a record is armed.
	Armed bool `json:"armed"`
	// Bound is the claim that the node is bound to; nil: it was never claimed.
	Bound *Claimed `json:"bound,omitempty"`
	// Recent are the newest claims, the newest last.
	Recent []Claimed `json:"recent,omitempty"`
}

// ErrClaimed says that a configuration isn't given to this claimant.
var ErrClaimed = errors.New("this node's configuration was claimed by another machine")

// decideClaim says what becomes of a node's record when a machine claims its configuration, or why it is refused (ErrClaimed). It
// is pure. The claimant's MAC address is the one that the cluster document has.
func decideClaim(record ClaimRecord, policy ClaimPolicy, claim Claimed) (ClaimRecord, error) {
	bound := record.Bound
	opens := bound == nil || record.Armed || bound.MAC != claim.MAC // the last: the document has another machine for this node now
	switch {
	case opens, bound.Key == claim.Key:
	case policy == ClaimOnce:
		return record, fmt.Errorf("%w, or in an earlier boot (policy once)", ErrClaimed)
	case !strings.EqualFold(bound.UUID, claim.UUID) || bound.Serial != claim.Serial:
		return record, fmt.Errorf("%w, with another SMBIOS UUID or serial number", ErrClaimed)
	}
	next := claim
	if !opens {
		if policy != ClaimOnce {
			next = *bound
		}
		next.takeTPM(*bound)
		if claim.TPM != "" { // a node that was claimed without its TPM, by an image of before, is bound to it as well from now on
			next.takeTPM(claim)
		}
	}
	record.Bound, record.Armed = &next, false
	claim.TPMCertificate = ""
	record.Recent = append(slices.Clone(record.Recent), claim)
	record.Recent = record.Recent[max(0, len(record.Recent)-maxClaims):]
	return record, nil
}

// anonymous says that a machine shows nothing by which it could be told from another: some firmware has no UUID and no serial number,
// or what its maker forgot to fill in.
func (c Claimed) anonymous() bool {
	if c.TPM != "" {
		return false
	}
	uuid := strings.Trim(strings.ToLower(strings.ReplaceAll(c.UUID, "-", "")), "0")
	if strings.Trim(uuid, "f") != "" {
		return false
	}
	switch strings.ToLower(strings.TrimSpace(c.Serial)) {
	case "", "0", "none", "default string", "to be filled by o.e.m.", "system serial number", "not specified", "not applicable", "123456789":
		return true
	}
	return false
}

// claims keeps the records.
type claims struct {
	store  kv.Store
	policy ClaimPolicy
	tpm    TPMPolicy
	log    *slog.Logger
	nodes  sync.Map // name -> *sync.Mutex: one claim of a node at a time; those of others share the disk's syncs
}

// read is a node's record, and the bytes that it was read from; nil: there is none.
func readClaims(store kv.Store, node string) (ClaimRecord, []byte, error) {
	record := ClaimRecord{Node: node, Armed: true}
	entries, err := store.List(claimKey + node)
	if err != nil {
		return record, nil, err
	}
	for _, e := range entries {
		if e.Key == claimKey+node {
			if err := json.Unmarshal(e.Value, &record); err != nil {
				return record, nil, fmt.Errorf("the record of its claims: %w", err)
			}
			record.Node = node
			return record, e.Value, nil
		}
	}
	return record, nil, nil
}

// change reads a node's record, edits it, and has it on disk before it returns.
func (c *claims) change(node string, edit func(ClaimRecord) (ClaimRecord, error)) (ClaimRecord, error) {
	lock, _ := c.nodes.LoadOrStore(node, &sync.Mutex{})
	mutex := lock.(*sync.Mutex)
	mutex.Lock()
	defer mutex.Unlock()
	for {
		record, before, err := readClaims(c.store, node)
		if err != nil {
			return record, err
		}
		next, err := edit(record)
		if err != nil {
			return record, err
		}
		value, err := json.Marshal(next)
		if err != nil {
			return record, err
		}
		if err = kv.Commit(c.store, kv.Replace(claimKey+node, before, value)); !errors.Is(err, kv.ErrConflict) {
			return next, err
		}
	}
}

// claim grants a claim, which is on disk then, or says why not.
func (c *claims) claim(node string, claim Claimed) error {
	_, err := c.change(node, func(r ClaimRecord) (ClaimRecord, error) {
		if err := decideTPM(r, c.tpm, claim); err != nil {
			return r, err
		}
		return decideClaim(r, c.policy, claim)
	})
	return err
}

// arm opens a node for the next claim.
func (c *claims) arm(node string) error {
	_, err := c.change(node, func(r ClaimRecord) (ClaimRecord, error) { r.Armed = true; return r, nil })
	return err
}

// all are the records of all nodes of a site.
func (c *claims) all(site *Site) ([]ClaimRecord, error) {
	var out []ClaimRecord
	for _, m := range site.Machines {
		record, _, err := readClaims(c.store, m.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, record)
	}
	return out, nil
}

// withStore does something with the entries of a server that isn't running.
func withStore(stateDir string, do func(kv.Store) error) error {
	store, err := openStore(stateDir)
	if err != nil {
		return err
	}
	defer store.close()
	entries, err := store.entries()
	if err != nil {
		return err
	}
	return errors.Join(do(entries), entries.Close())
}

func notRunning(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED)
}

// Arm opens a node for the next claim of its configuration: by the server that uses the state folder, or, when none does, in the
// folder itself.
func Arm(ctx context.Context, stateDir string, site *Site, node string) error {
	fail := func(err error) error { return fmt.Errorf("cannot arm %s: %w", node, err) }
	if err := hasNode(site, node); err != nil {
		return fail(err)
	}
	err := askServer(ctx, stateDir, http.MethodPost, "/arm", order{Node: node}, nil)
	if notRunning(err) {
		err = withStore(stateDir, func(entries kv.Store) error {
			s, err := openStates(entries, site, time.Now, slog.New(slog.DiscardHandler), nil)
			if err == nil {
				s.armed(node)
				err = s.save()
			}
			return errors.Join(err, (&claims{store: entries}).arm(node))
		})
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// Claims are the claims of all nodes, of the server that uses the state folder, or of the folder itself.
func Claims(ctx context.Context, stateDir string, site *Site) (out []ClaimRecord, err error) {
	err = askServer(ctx, stateDir, http.MethodGet, "/claims", nil, &out)
	if notRunning(err) {
		err = withStore(stateDir, func(entries kv.Store) error {
			out, err = (&claims{store: entries}).all(site)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read claims: %w", err)
	}
	return out, nil
}

func hasNode(site *Site, node string) error {
	if !slices.ContainsFunc(site.Machines, func(m Machine) bool { return m.Name == node }) {
		return fmt.Errorf("cluster %s has no node %q", site.Cluster, node)
	}
	return nil
}

// memory keeps entries for a server without a state folder.
type memory struct {
	mu      sync.Mutex
	entries map[string][]byte
}

func (m *memory) List(prefix string) ([]kv.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []kv.Entry
	for key, value := range m.entries {
		if strings.HasPrefix(key, prefix) {
			out = append(out, kv.Entry{Key: key, Value: value})
		}
	}
	slices.SortFunc(out, func(a, b kv.Entry) int { return strings.Compare(a.Key, b.Key) })
	return out, nil
}

func (m *memory) Begin(changes ...kv.Change) <-chan error {
	m.mu.Lock()
	defer m.mu.Unlock()
	ended := make(chan error, 1)
	for _, c := range changes {
		if have, found := m.entries[c.Key]; c.Conditional && (found != (c.Before != nil) || string(have) != string(c.Before)) {
			ended <- kv.ErrConflict
			return ended
		}
	}
	if m.entries == nil {
		m.entries = map[string][]byte{}
	}
	for _, c := range changes {
		if c.Value == nil {
			delete(m.entries, c.Key)
			continue
		}
		m.entries[c.Key] = c.Value
	}
	ended <- nil
	return ended
}

func (m *memory) Close() error { return nil }
