// Package copies finds the snapshots of etcd that a cluster's control planes keep and push: on the nodes, in the boot server's depot
// and wherever else the cluster document says. It lists them and fetches one.
//
// Words: a place is where snapshots lie; a copy is one snapshot with all places that have it. It takes, checks and restores none
// (builder/nodes).
package copies

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Place is where snapshots may lie.
type Place interface {
	// String is for people and for --from: "cp-1", "boot-server".
	String() string
	List(ctx context.Context) ([]bootspec.KeptSnapshot, error)
	// Open is the content of one that List told of; it ends early with an error when it is cut.
	Open(ctx context.Context, s bootspec.KeptSnapshot) (io.ReadCloser, error)
}

// Copy is a snapshot and where it is.
type Copy struct {
	Name string    `json:"name"`
	Node string    `json:"node"`
	At   time.Time `json:"at"`
	Size int64     `json:"size"` // bytes
	// Where are places: NODE:FOLDER, or the place alone.
	Where []string `json:"where"`

	sources []source
}

type source struct {
	place Place
	kept  bootspec.KeptSnapshot
}

func (s source) String() string {
	if s.kept.Directory == "" {
		return s.place.String()
	}
	return s.place.String() + ":" + s.kept.Directory
}

// listLimit bounds how long a place is asked.
const listLimit = 30 * time.Second

// List asks all places at once. The newest copies are first; silent are those places that don't tell, and why.
func List(ctx context.Context, places []Place) (list []Copy, silent []error) {
	answers, faults := make([][]bootspec.KeptSnapshot, len(places)), make([]error, len(places))
	var all sync.WaitGroup
	for i, p := range places {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, listLimit)
			defer cancel()
			answers[i], faults[i] = p.List(ctx)
		})
	}
	all.Wait()
	found := map[string]*Copy{}
	for i, p := range places {
		if faults[i] != nil {
			silent = append(silent, fmt.Errorf("%s: %w", p, faults[i]))
			continue
		}
		for _, k := range answers[i] {
			add(found, source{p, k})
		}
	}
	for _, c := range found {
		list = append(list, *c)
	}
	slices.SortFunc(list, func(a, b Copy) int {
		return cmp.Or(b.At.Compare(a.At), strings.Compare(a.Node, b.Node), cmp.Compare(a.Size, b.Size))
	})
	return list, silent
}

// add adds what a place has. Files of one name and another size are not the same.
func add(found map[string]*Copy, s source) {
	node, at, ok := bootspec.ParseSnapshotName(s.kept.Name)
	if !ok {
		return
	}
	key := fmt.Sprintf("%s/%d", s.kept.Name, s.kept.Size)
	c := found[key]
	if c == nil {
		c = &Copy{Name: s.kept.Name, Node: node, At: at, Size: s.kept.Size}
		found[key] = c
	}
	c.sources, c.Where = append(c.sources, s), append(c.Where, s.String())
}

// Fetch writes a copy into a file (mode 0600), which appears whole or not at all, from the first place that gives it; from says
// which.
func (c Copy) Fetch(ctx context.Context, file string) (from string, err error) {
	var why []error
	for _, s := range c.sources {
		err := c.fetch(ctx, s, file)
		if err == nil {
			return s.String(), nil
		}
		why = append(why, fmt.Errorf("%s: %w", s, err))
		if ctx.Err() != nil {
			break
		}
	}
	return "", fmt.Errorf("cannot fetch %s: %w", c.Name, errors.Join(why...))
}

func (c Copy) fetch(ctx context.Context, s source, file string) error {
	in, err := s.place.Open(ctx, s.kept)
	if err != nil {
		return err
	}
	defer in.Close()
	beside, err := os.CreateTemp(filepath.Dir(file), ".etcd-snapshot-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(beside.Name()) // gone already when it was renamed
	head := make([]byte, len(bootspec.SnapshotHead))
	n, err := io.Copy(beside, io.LimitReader(in, c.Size+1))
	if err == nil && n != c.Size {
		err = fmt.Errorf("%d bytes came, of %d", n, c.Size)
	}
	if err == nil {
		_, _ = beside.ReadAt(head, 0)
	}
	if err == nil && string(head) != bootspec.SnapshotHead {
		err = errors.New("it is not encrypted with age, so it is none of ours")
	}
	if err := errors.Join(err, beside.Sync(), beside.Close()); err != nil {
		return err
	}
	if err := os.Rename(beside.Name(), file); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
