package nodes

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// What is worth saying.
const (
	certificateSoon = 30 * 24 * time.Hour
	clockApart      = 2 * time.Minute
	diskLow         = 10 // percent free
	memoryLow       = 5  // percent free
	pushLate        = 30 * time.Minute
)

// Explain is what somebody should know or do, a line each; nothing, when all is well. Document is how the cluster document
// is named on the command line, now the operator's clock.
func Explain(answers []Answer, document string, now time.Time) []string {
	lines := quorum(answers, document)
	for _, a := range answers {
		if a.Status == nil {
			lines = append(lines, fmt.Sprintf("%s: %s", a.Name, a.Error))
			continue
		}
		lines = append(lines, node(a, document, now)...)
	}
	return lines
}

// quorum says how etcd's members are together.
func quorum(answers []Answer, document string) []string {
	var healthy, down []string
	led, sure := false, true // sure: every missing one said itself that its etcd doesn't run
	for _, a := range answers {
		switch {
		case a.Role != cluster.RoleControlPlane:
		case a.Status == nil:
			down, sure = append(down, a.Name+" (doesn't answer)"), false
		case runsSilently(a.Status):
			down, sure = append(down, a.Name+" (its etcd runs and doesn't answer)"), false
		case a.Status.Etcd == nil || !a.Status.Etcd.Answers:
			down = append(down, a.Name+" (its etcd doesn't run)")
		default:
			led = led || a.Status.Etcd.HasLeader
			healthy = append(healthy, a.Name)
		}
	}
	all := len(healthy) + len(down)
	need := all/2 + 1
	switch {
	case all == 0 || len(down) == 0 && led:
		return nil
	case len(healthy) == 0 && !sure:
		return []string{
			fmt.Sprintf("None of etcd's %d members answers: %s.", all, strings.Join(down, ", ")),
			fmt.Sprintf("  Next: power on those that are off; if they are only busy, ask again: `slipway status --cluster %s` says how far they are.", document),
		}
	case len(healthy) < need && led:
		return []string{fmt.Sprintf("etcd has a leader and goes on, but only %d of %d members answer here. Missing: %s.", len(healthy), all, strings.Join(down, ", "))}
	case len(healthy) < need:
		return []string{
			fmt.Sprintf("etcd has lost its quorum: %d of %d members run, %d are needed. Missing: %s.", len(healthy), all, need, strings.Join(down, ", ")),
			"  Nothing can be changed in the cluster; what runs in its pods goes on. As soon as enough members run with their data, it comes back by itself.",
			fmt.Sprintf("  Next: power the missing machines on, then `slipway status --cluster %s` says how far they are.", document),
		}
	case !led:
		return []string{
			"etcd's members run but have no leader: they can't reach each other, or are electing.",
			fmt.Sprintf("  Next, if this stays: `slipway logs %s --cluster %s --unit etcd.service --since 5m`.", healthy[0], document),
		}
	default:
		spare := len(healthy) - need
		return []string{
			fmt.Sprintf("etcd: %d of %d members run, %d are needed: %s. Missing: %s.", len(healthy), all, need, bearable(spare), strings.Join(down, ", ")),
			fmt.Sprintf("  Next: a copy now is wise: `slipway etcd snapshot --cluster %s --out etcd.snapshot`.", document),
		}
	}
}

// runsSilently tells of a node whose etcd is started but says nothing: it is busy, or hangs.
func runsSilently(l *bootspec.LiveStatus) bool {
	return l.Etcd != nil && !l.Etcd.Answers &&
		slices.ContainsFunc(l.Units, func(u bootspec.UnitStatus) bool { return u.Name == "etcd.service" && u.Active == "active" })
}

func bearable(spare int) string {
	if spare == 0 {
		return "if one more is lost, nothing can be changed any more"
	}
	return fmt.Sprintf("%d more may be lost", spare)
}

// node is what is worth saying of one that answers.
func node(a Answer, document string, now time.Time) []string {
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, a.Name+": "+fmt.Sprintf(format, args...)) }
	l := a.Status
	for _, u := range l.Units {
		if u.Failing {
			say("%s is %s (%s, %d restarts): `slipway logs %s --cluster %s --unit %s`", u.Name, u.Active, u.Sub, u.Restarts, a.Name, document, u.Name)
		}
	}
	if c, ok := FirstToEnd(l.Certificates); ok && c.Until.Sub(now) < certificateSoon {
		say("the certificate in %s ends on %s: `slipway renew %s --cluster %s` before", c.File, c.Until.Format(time.DateOnly), a.Name, document)
	}
	if apart := l.Clock.Sub(now); apart.Abs() > clockApart {
		say("its clock is %s off", apart.Abs().Round(time.Second))
	}
	for _, c := range l.Disks {
		if low(c, diskLow) && c.Name != "/" {
			say("only %d %% of %s are free", c.Free*100/c.Total, c.Name)
		}
	}
	if low(l.Memory, memoryLow) {
		say("only %d %% of its memory are free", l.Memory.Free*100/l.Memory.Total)
	}
	if e := l.Etcd; e != nil && e.Answers && !e.Healthy {
		say("etcd isn't healthy: %s", e.Reason)
	}
	for _, line := range backup(l, now) {
		say("%s", line)
	}
	for _, p := range l.Problems {
		say("%s", p)
	}
	return lines
}

// backup is what is wrong with the scheduled snapshots of etcd. Those of a node that has just started may be missing.
func backup(l *bootspec.LiveStatus, now time.Time) []string {
	b := l.Backup
	if b == nil {
		return nil
	}
	var lines []string
	every := time.Duration(b.Every) * time.Second
	switch {
	case b.Fault != "":
		lines = append(lines, b.Fault)
	case b.Newest.IsZero() && l.Uptime.Duration() > every:
		lines = append(lines, "there is no scheduled snapshot of etcd")
	case !b.Newest.IsZero() && now.Sub(b.Newest) > 2*every:
		lines = append(lines, fmt.Sprintf("the newest scheduled snapshot of etcd is from %s, and there should be one every %s", b.Newest.Format(time.RFC3339), every))
	}
	for _, p := range b.Pushed {
		switch {
		case p.Fault != "" && !p.Newest.IsZero():
			lines = append(lines, fmt.Sprintf("%s (the newest there is from %s)", p.Fault, p.Newest.Format(time.RFC3339)))
		case p.Fault != "":
			lines = append(lines, p.Fault)
		case !b.Newest.IsZero() && b.Newest.Sub(p.Newest) > every && now.Sub(b.Newest) > pushLate:
			lines = append(lines, fmt.Sprintf("snapshots of etcd are late at %s: the newest there is from %s", p.To, p.Newest.Format(time.RFC3339)))
		}
	}
	return lines
}

// FirstToEnd is the certificate that ends first, of those that no kubelet replaces by itself.
func FirstToEnd(list []bootspec.CertificateDate) (bootspec.CertificateDate, bool) {
	for _, c := range list {
		if !rotates(c.File) {
			return c, true
		}
	}
	return bootspec.CertificateDate{}, false
}

// rotates tells of certificates that a kubelet replaces by itself: their first one is short-lived by design.
func rotates(file string) bool {
	return strings.HasPrefix(file, "/var/lib/kubelet/") || file == bootspec.KubeconfigDirectory+"/kubelet.conf"
}

func low(c bootspec.Capacity, percent int64) bool { return c.Total > 0 && c.Free*100 < c.Total*percent }
