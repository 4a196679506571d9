package nodes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Drill is what etcd said when it ran with a snapshot.
type Drill struct {
	Version  string `json:"version"`  // etcd's
	Keys     int    `json:"keys"`     // that it read
	Bytes    int64  `json:"bytes"`    // of their values
	Revision int64  `json:"revision"` // the snapshot's newest
	Hash     uint32 `json:"hash"`     // etcd's of all keys, the same at each drill
	Took     int64  `json:"took"`     // milliseconds until all was read
}

// drillLimit bounds a drill.
const drillLimit = 20 * time.Minute

// TryOut restores a checked snapshot in a scratch folder and starts etcd there: program is the images' multi-call binary of this
// machine's architecture. It fails when etcd doesn't start, can't read or write, or finds other keys than the snapshot has.
func TryOut(ctx context.Context, program string, s Snapshot) (Drill, error) {
	fail := func(err error) (Drill, error) { return Drill{}, fmt.Errorf("the drill failed: %w", err) }
	ctx, cancel := context.WithTimeout(ctx, drillLimit)
	defer cancel()
	scratch, err := os.MkdirTemp("", "etcd-drill-") // 0700
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(scratch)
	cmd := exec.CommandContext(ctx, program, "drill", "--snapshot="+s.File, "--scratch="+scratch)
	cmd.Args[0] = "slipway-etcd" // the name decides what the binary is
	cmd.WaitDelay = time.Second
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(words.String())
		if text == "" {
			return fail(err)
		}
		return fail(errors.New(text[max(0, len(text)-1000):]))
	}
	var d Drill
	if err := json.Unmarshal(out.Bytes(), &d); err != nil {
		return fail(fmt.Errorf("%s is not etcd of an image: %w", program, err))
	}
	if d.Keys != s.Keys || d.Revision != s.Revision {
		return d, fmt.Errorf("the drill failed: etcd reads %d keys at revision %d, and the snapshot has %d at %d", d.Keys, d.Revision, s.Keys, s.Revision)
	}
	return d, nil
}
