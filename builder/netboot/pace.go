package netboot

import "time"

// Acknowledgements of leases that were written together leave a few at a time: a relay's socket has room for some 150 (rmem_default).
const (
	fewAcks  = 16                    // that leave at once
	acksRest = time.Millisecond / 16 // until one more may
)

// pace has what leaves leave a few at a time. Who has waited too long (a timer is late on a busy machine) waits less for the next.
type pace struct {
	now  func() time.Time
	rest func(time.Duration)
	full time.Time // all that has left is read by then
}

// wait waits until the next may leave.
func (p *pace) wait() {
	now := p.now()
	if p.full.Before(now) {
		p.full = now
	}
	p.full = p.full.Add(acksRest)
	if early := p.full.Sub(now) - fewAcks*acksRest; early > 0 {
		p.rest(early)
	}
}
