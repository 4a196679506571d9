package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/slipway-os/slipway/images/components/etcd/drill"
	"github.com/slipway-os/slipway/images/components/etcd/restore"
)

// restoreFlags are what all steps of a restore have in common.
type restoreFlags struct{ data, at, on *string }

func registerRestore(flags *flag.FlagSet) restoreFlags {
	return restoreFlags{
		flags.String("data-dir", "/var/lib/etcd", "etcd's data folder"),
		flags.String("at", "", "when the cluster is restored, in whole seconds: 2026-03-01T12:00:00Z"),
		flags.String("on", "", "node that gets the snapshot"),
	}
}

// parse reads the arguments and tells which restore they speak of.
func (f restoreFlags) parse(flags *flag.FlagSet, args []string) (restore.Generation, error) {
	if err := flags.Parse(args); err != nil {
		return restore.Generation{}, err
	}
	at, err := time.Parse(time.RFC3339, *f.at)
	if err != nil || *f.on == "" {
		return restore.Generation{}, errors.New("--at is a time like 2026-03-01T12:00:00Z, --on a node")
	}
	return restore.Generation{At: at.UTC(), On: *f.on}, nil
}

// restoreCommand prepares data from a snapshot, beside etcd's own. Nothing changes before decide.
func restoreCommand(_ context.Context, args []string) error {
	flags := flag.NewFlagSet("slipway-etcd restore", flag.ContinueOnError)
	file := flags.String("snapshot", "", "file as etcd writes it")
	name := flags.String("name", "", "this node's name")
	url := flags.String("peer-url", "", "https://ADDRESS:2380")
	common := registerRestore(flags)
	g, err := common.parse(flags, args)
	if err != nil {
		return err
	}
	return restore.Stage(*common.data, g, restore.FromSnapshot(*file, restore.Member{Name: *name, URL: *url}, g))
}

// asideCommand prepares that the data is set aside, so that the node joins the restored cluster.
func asideCommand(_ context.Context, args []string) error {
	flags := flag.NewFlagSet("slipway-etcd set-aside", flag.ContinueOnError)
	common := registerRestore(flags)
	g, err := common.parse(flags, args)
	if err != nil {
		return err
	}
	return restore.Stage(*common.data, g, nil)
}

// decideCommand makes what is prepared count: the guard carries it out when it starts.
func decideCommand(_ context.Context, args []string) error {
	flags := flag.NewFlagSet("slipway-etcd decide", flag.ContinueOnError)
	common := registerRestore(flags)
	g, err := common.parse(flags, args)
	if err != nil {
		return err
	}
	return restore.Decide(*common.data, g)
}

// drillCommand tries a snapshot out, and prints what etcd said as JSON.
func drillCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("slipway-etcd drill", flag.ContinueOnError)
	file := flags.String("snapshot", "", "file as etcd writes it")
	scratch := flags.String("scratch", os.TempDir(), "folder with room for three times the snapshot")
	if err := flags.Parse(args); err != nil {
		return err
	}
	r, err := drill.Run(ctx, *file, *scratch)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// How long etcd may take to end. One that never had a leader doesn't end when it is asked (embed.Etcd.Close waits for it to
// serve), and its data is not changed by being killed.
const (
	endLimit = 20 * time.Second
	askLimit = 8 * time.Second
)

// endAll ends the processes of a control group and waits until there are none. A group that isn't there has none.
func endAll(ctx context.Context, group string) error {
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	signal, asked := syscall.SIGTERM, time.Now()
	for {
		text, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		if errors.Is(err, os.ErrNotExist) || err == nil && len(text) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot end etcd: %w", err)
		}
		for _, word := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(word)
			if err != nil || pid <= 1 {
				return fmt.Errorf("cannot end etcd: %q is no process", word)
			}
			if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("cannot end etcd: %w", err)
			}
		}
		signal = 0 // it was asked; now only whether it is still there
		if time.Since(asked) > askLimit {
			signal = syscall.SIGKILL
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot end etcd: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
