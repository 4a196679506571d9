package drives

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Decision is what was decided about a drive.
type Decision struct {
	Drive
	Chosen bool
	Why    []string // why it was not chosen, or why it was; at least one
}

// Table is the decisions about all drives.
type Table []Decision

// ErrNone is what errors wrap when no drive fits, ErrMany when more than one does.
var (
	ErrNone = errors.New("no drive fits")
	ErrMany = errors.New("more than one drive fits")
)

// Choose decides which drive is meant. Drives that nothing can be written to never are; exclude, if given, says why
// another must not be taken, or nothing. The table is whole whatever the error. Equally small drives are told apart by their
// place on the bus, so that the same machine always decides the same.
func Choose(match bootspec.DiskMatch, list []Drive, exclude func(Drive) string) (Drive, Table, error) {
	var table Table
	for _, d := range list {
		table = append(table, Decision{Drive: d, Why: against(match, d, exclude)})
	}
	if match == (bootspec.DiskMatch{}) {
		return Drive{}, table, fmt.Errorf("%w: nothing is said to choose it by (serial, wwn, path, minSize, maxSize or smallest)", ErrNone)
	}
	var fit []*Decision
	for i := range table {
		if len(table[i].Why) == 0 {
			fit = append(fit, &table[i])
		}
	}
	switch {
	case len(fit) == 0:
		return Drive{}, table, fmt.Errorf("%w %s", ErrNone, describe(match))
	case len(fit) > 1 && !match.Smallest:
		for _, d := range fit {
			d.Why = []string{fmt.Sprintf("one of %d that fit", len(fit))}
		}
		return Drive{}, table, fmt.Errorf("%w %s: say its serial or wwn", ErrMany, describe(match))
	}
	slices.SortStableFunc(fit, func(a, b *Decision) int {
		return cmp.Or(cmp.Compare(a.Size, b.Size), cmp.Compare(a.Bus, b.Bus), cmp.Compare(a.Name, b.Name))
	})
	fit[0].Chosen, fit[0].Why = true, []string{reason(match, fit)}
	for _, d := range fit[1:] {
		d.Why = []string{fit[0].Path + " is smaller"}
		if d.Size == fit[0].Size {
			d.Why = []string{fit[0].Path + " is as small and comes first on the bus"}
		}
	}
	return fit[0].Drive, table, nil
}

func reason(match bootspec.DiskMatch, fit []*Decision) string {
	if len(fit) > 1 {
		return fmt.Sprintf("the smallest of %d that fit", len(fit))
	}
	return "the only one that fits"
}

// against is all that speaks against a drive.
func against(m bootspec.DiskMatch, d Drive, exclude func(Drive) string) []string {
	var why []string
	say := func(wrong bool, format string, args ...any) {
		if wrong {
			why = append(why, fmt.Sprintf(format, args...))
		}
	}
	say(d.Optical, "a CD-ROM")
	say(d.ReadOnly, "read-only")
	say(d.Size == 0 && !d.Optical, "no medium in it")
	if exclude != nil {
		said := exclude(d)
		say(said != "", "%s", said)
	}
	say(m.Serial != "" && d.Serial != strings.TrimSpace(m.Serial), "serial is not %s", m.Serial)
	say(m.WWN != "" && !sameWWN(m.WWN, d.WWN), "wwn is not %s", m.WWN)
	say(m.Path != "" && !d.isAt(m.Path), "path is not %s", m.Path)
	say(m.MinSize != 0 && d.Size < m.MinSize, "smaller than %s", Size(m.MinSize))
	say(m.MaxSize != 0 && d.Size > m.MaxSize, "larger than %s", Size(m.MaxSize))
	return why
}

// sameWWN compares without case and without what says of which kind a name is: 0x5000c500a1b2c3d4 is naa.5000c500a1b2c3d4.
func sameWWN(a, b string) bool {
	plain := func(s string) string {
		s = strings.ToLower(strings.TrimSpace(s))
		for _, kind := range []string{"naa.", "eui.", "uuid.", "0x"} {
			s = strings.TrimPrefix(s, kind)
		}
		return s
	}
	return plain(b) != "" && plain(a) == plain(b)
}

// isAt tells whether a path means a drive: /dev/vda, pci-0000:00:04.0, or its folder in /sys or one above.
func (d Drive) isAt(path string) bool {
	if path == d.Path || path == d.Bus {
		return true
	}
	device, ok := strings.CutPrefix(path, "/sys/devices/")
	return ok && strings.HasPrefix(d.Device+"/", "/devices/"+strings.TrimSuffix(device, "/")+"/")
}

func describe(m bootspec.DiskMatch) string {
	var words []string
	for _, f := range []struct{ name, value string }{{"serial", m.Serial}, {"wwn", m.WWN}, {"path", m.Path}} {
		if f.value != "" {
			words = append(words, f.name+" "+f.value)
		}
	}
	if m.MinSize != 0 {
		words = append(words, "at least "+Size(m.MinSize))
	}
	if m.MaxSize != 0 {
		words = append(words, "at most "+Size(m.MaxSize))
	}
	if m.Smallest {
		words = append(words, "the smallest")
	}
	return "(" + strings.Join(words, ", ") + ")"
}

// Size is a number of bytes as drives are sold: 512.1 GB (10^9 bytes).
func Size(n int64) string { return bootspec.DiskSize(n) }

// Lines is the table for people, a line for each drive and one of headings.
func (t Table) Lines() []string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DRIVE\tSIZE\tSECTOR\tBUS\tMODEL\tSERIAL\tWWN\tVERDICT")
	for _, d := range t {
		verdict := "no: "
		if d.Chosen {
			verdict = "CHOSEN: "
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", d.Path, Size(d.Size), d.SectorSize, strings.Trim(d.Transport+" "+d.Bus, " "),
			cmp.Or(d.Model, "-"), cmp.Or(d.Serial, "-"), cmp.Or(d.WWN, "-"), verdict+strings.Join(d.Why, ", "))
	}
	w.Flush()
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}

// Await is Choose, again and again until a drive fits or ctx ends: USB drives take seconds to appear. What fits at once is
// taken at once, so a rule that more drives would change (Smallest) needs all of them to be there.
func Await(ctx context.Context, sys string, match bootspec.DiskMatch, exclude func(Drive) string) (Drive, Table, error) {
	for {
		list, err := List(sys)
		if err != nil {
			return Drive{}, nil, err
		}
		d, table, err := Choose(match, list, exclude)
		if !errors.Is(err, ErrNone) || match == (bootspec.DiskMatch{}) {
			return d, table, err
		}
		select {
		case <-ctx.Done():
			return d, table, err
		case <-time.After(300 * time.Millisecond):
		}
	}
}
