// Package signature tells what a device holds by the marks that partition tables, file systems, volume managers, RAID and
// encryption leave at known places, and gives the whole of it an id that an operator can confirm.
//
// It reads and never writes, decides nothing, and believes nothing of what it reads. A device without any mark, but with
// other bytes than zeros at its beginning, holds "unknown data": that is a mark too.
package signature

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/images/disk"
)

// Mark is one thing found on a device.
type Mark struct {
	Where string // "disk", or the partition: "partition 2 (EFI system)"
	At    int64  // bytes from the beginning of the device
	Kind  string // ext4, LVM2, partition table GPT...
	Name  string // UUID or label, whatever tells it from others of its kind; may be empty
}

// String is a mark for people.
func (m Mark) String() string { return strings.TrimSuffix(m.Where+": "+m.Kind+" "+m.Name, " ") }

// idLength of an id in hexadecimal digits: enough for an operator not to confirm something else by mistake.
const idLength = 12

// ID names what was found: other content has another id. Nothing has none.
func ID(marks []Mark) string {
	if len(marks) == 0 {
		return ""
	}
	h := sha256.New()
	for _, m := range marks {
		fmt.Fprintf(h, "%s\x00%d\x00%s\x00%s\n", m.Where, m.At, m.Kind, m.Name)
	}
	return hex.EncodeToString(h.Sum(nil))[:idLength]
}

// Find lists what a device of size bytes holds, in the order of its places: on the whole of it, and in each partition of
// its table.
func Find(r io.ReaderAt, size int64) ([]Mark, error) {
	marks, err := find(r, "disk", 0, size)
	if err != nil {
		return nil, err
	}
	parts, table, err := partitions(r, size)
	if err != nil {
		return nil, err
	}
	marks = append(marks, table...)
	for _, p := range parts {
		inside, err := find(r, p.where, p.start, p.size)
		if err != nil {
			return nil, err
		}
		marks = append(marks, inside...)
	}
	if len(marks) == 0 {
		marks, err = unknown(r, size)
	}
	slices.SortStableFunc(marks, func(a, b Mark) int { return int(min(max(a.At-b.At, -1), 1)) })
	return marks, err
}

// searched is how much of the beginning is read at once, and looked at for unknown data.
const searched = 1 << 20

// unknown tells of bytes that nobody knows.
func unknown(r io.ReaderAt, size int64) ([]Mark, error) {
	head, err := read(r, 0, min(size, searched))
	if err != nil || len(bytes.Trim(head, "\x00")) == 0 {
		return nil, err
	}
	sum := sha256.Sum256(head)
	return []Mark{{Where: "disk", Kind: "unknown data", Name: hex.EncodeToString(sum[:8])}}, nil
}

type part struct {
	where       string
	start, size int64
}

// partitions reads a GPT, else an MBR.
func partitions(r io.ReaderAt, size int64) ([]part, []Mark, error) {
	d, err := disk.Read(r, size)
	if err == nil {
		var list []part
		var labels []string
		for _, p := range d.Partitions {
			where := fmt.Sprintf("partition %d", p.Index)
			if label := plain(p.Label); label != "" {
				where += " (" + label + ")"
			}
			labels = append(labels, strings.TrimPrefix(where, "partition "))
			list = append(list, part{where, p.Start, p.Size})
		}
		return list, []Mark{{Where: "disk", Kind: "partition table GPT", Name: d.GUID + " with " + strings.Join(labels, ", ")}}, nil
	}
	return masterBootRecord(r, size)
}

// masterBootRecord reads the four entries of an MBR; logical partitions lie in one of them and are searched by nobody:
// that it is there is enough. What has a boot sector's signature and a file system of its own is no table.
func masterBootRecord(r io.ReaderAt, size int64) ([]part, []Mark, error) {
	b, err := read(r, 0, min(size, 512))
	if err != nil || len(b) < 512 || b[510] != 0x55 || b[511] != 0xaa {
		return nil, nil, err
	}
	var list []part
	table := Mark{Where: "disk", Kind: "partition table MBR", Name: hex.EncodeToString(b[440:444])}
	for i := range 4 {
		e := b[446+16*i:]
		kind, start, sectors := e[4], int64(le32(e[8:])), int64(le32(e[12:]))
		if e[0]&0x7f != 0 {
			return nil, nil, nil // not an entry: code or a file system
		}
		if kind == 0 || sectors == 0 {
			continue
		}
		table.Name += fmt.Sprintf(" %d:%02x", i+1, kind)
		if start*512 < size && start > 0 {
			list = append(list, part{fmt.Sprintf("partition %d", i+1), start * 512, min(sectors*512, size-start*512)})
		}
	}
	if !strings.Contains(table.Name, ":") {
		return nil, nil, nil
	}
	return list, []Mark{table}, nil
}

// read reads what is there of a range.
func read(r io.ReaderAt, at, size int64) ([]byte, error) {
	b := make([]byte, size)
	n, err := r.ReadAt(b, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("cannot read what is there: %w", err)
	}
	return b[:n], nil
}

// plain is text from a device, short and printable.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	return strings.TrimSpace(s[:min(len(s), 40)])
}
