package guard

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// firstLog is the name of the first file of a member's log (etcd's server/storage/wal, walName).
const firstLog = "0000000000000000-0000000000000000.wal"

// hadLeader says whether the member whose data lies here may have promised or stored anything. A cluster's founders write
// term 1 before they have met; a vote or a leader means a later one, and etcd asks for a majority before it begins that
// (pre-vote, its default). Whatever can't be read counts as yes: then this node's data is waited for, as anybody's.
func hadLeader(dir string) bool {
	files, err := os.ReadDir(filepath.Join(dir, "member", "wal"))
	if err != nil {
		return true
	}
	for _, f := range files {
		if filepath.Ext(f.Name()) == ".wal" && f.Name() != firstLog {
			return true
		}
	}
	terms, later := 0, false
	err = readLog(dir, func(r *walpb.Record) bool {
		if r.GetType() != wal.StateType {
			return true
		}
		var state raftpb.HardState
		if proto.Unmarshal(r.Data, &state) != nil || state.GetTerm() != 1 {
			later = true
		}
		terms++
		return !later
	})
	return err != nil || later || terms == 0
}

// readLog calls use with the records of a log's first file, one at a time, until that says false or there is none left.
func readLog(dir string, use func(*walpb.Record) bool) error {
	f, err := os.Open(filepath.Join(dir, "member", "wal", firstLog))
	if err != nil {
		return fmt.Errorf("cannot read etcd's log: %w", err)
	}
	defer f.Close()
	decoder := wal.NewDecoder(fileutil.NewFileReader(f))
	for {
		var r walpb.Record
		switch err := decoder.Decode(&r); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("cannot read etcd's log: %w", err)
		case !use(&r):
			return nil
		}
	}
}
