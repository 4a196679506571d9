package tpm

import (
	"slices"
	"sync"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Bounds of challenges that wait for their proof.
const (
	pendingPerNode = 4
	pendingFor     = 2 * time.Minute
)

// Pending are the challenges that wait for their proof: the newest of each node, bounded. The zero Pending has none. It is for many
// goroutines at a time.
type Pending struct {
	mu    sync.Mutex
	nodes map[string][]pending
}

type pending struct {
	claimant string // fingerprint of its key
	shown    *Shown
	secret   []byte
	until    time.Time
}

// Challenge makes a challenge for a TPM that a claimant of a node shows, and keeps it for a while. A claimant's earlier one is forgotten.
func (p *Pending) Challenge(node, claimant string, s *Shown, now time.Time) (bootspec.TPMChallenge, error) {
	secret, challenge, err := s.Challenge()
	if err != nil {
		return challenge, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	waiting := slices.DeleteFunc(p.nodes[node], func(w pending) bool { return w.claimant == claimant || !now.Before(w.until) })
	waiting = append(waiting, pending{claimant, s, secret, now.Add(pendingFor)})
	if p.nodes == nil {
		p.nodes = map[string][]pending{}
	}
	p.nodes[node] = waiting[max(0, len(waiting)-pendingPerNode):]
	return challenge, nil
}

// Proven is the TPM that a claimant of a node has proven to have; nil: it has not, or its challenge is forgotten. The same claimant may
// show the same proof again for as long as the challenge is kept: an answer may get lost.
func (p *Pending) Proven(node, claimant, authority string, proof []byte, now time.Time) *Shown {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.nodes[node] {
		if w.claimant == claimant && now.Before(w.until) && w.shown.Proves(proof, w.secret, claimant, authority) {
			return w.shown
		}
	}
	return nil
}
