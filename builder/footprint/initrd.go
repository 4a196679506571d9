package footprint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/slipway-os/slipway/builder/inventory"
)

// maxInitrd bounds an unpacked initrd in bytes.
const maxInitrd = 1 << 30

// block is a zstd block: so many bytes of the archive up to end, in so many bytes compressed (RFC 8878, section 3.1.1.2).
type block struct{ end, packed int64 }

// span is a part of an archive that belongs together: up to end. The name is a file's path, or empty for what the format takes.
type span struct {
	name string
	end  int64
	data int64 // bytes of the file
}

// measureInitrd tells what each file takes: each compressed block, of 128 KiB at most, is divided among what lies in it by the bytes
// it has there.
func measureInitrd(data []byte, list []inventory.Entry, order Order) (*Node, error) {
	archive, blocks, err := unpack(data)
	if err != nil {
		return nil, err
	}
	spans, err := readCPIO(archive)
	if err != nil {
		return nil, err
	}
	known := map[string]inventory.Entry{}
	for _, e := range list {
		known[e.Path] = e
	}
	overhead := int64(0)
	files := map[string]inventory.Entry{}
	for i, packed := range divide(blocks, spans) {
		name := spans[i].name
		if name == "" {
			overhead += packed
			continue
		}
		e, ok := files[name]
		if !ok {
			e = inventory.Entry{Path: name, Type: inventory.File, Origin: known[name].Origin}
		}
		e.Packed, e.Size = e.Packed+packed, e.Size+spans[i].data
		files[name] = e
	}
	var found []inventory.Entry
	for _, e := range files {
		found = append(found, e)
	}
	slices.SortFunc(found, func(a, b inventory.Entry) int { return strings.Compare(a.Path, b.Path) })
	n := &Node{Name: "initrd", Class: Mixed, Children: arrange(found, order)}
	n.Children = append(n.Children, &Node{Name: "archive: names, attributes", Class: Overhead, Bytes: overhead})
	return n, nil
}

// unpack decompresses an initrd, and notes where each block ends.
func unpack(data []byte) ([]byte, []block, error) {
	in := &counted{r: bytes.NewReader(data)}
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot unpack it: %w", err)
	}
	defer z.Close()
	out := &blockWriter{in: in}
	if _, err := z.WriteTo(out); err != nil { // with one at work, it reads a block, writes it, and then reads on
		return nil, nil, fmt.Errorf("cannot unpack it: %w", err)
	}
	if len(out.blocks) == 0 {
		return nil, nil, errors.New("it is empty")
	}
	out.blocks[len(out.blocks)-1].packed += int64(len(data)) - out.seen // the frame's checksum
	return out.archive.Bytes(), out.blocks, nil
}

type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

type blockWriter struct {
	in      *counted
	archive bytes.Buffer
	blocks  []block
	seen    int64 // compressed bytes that blocks account for
}

func (w *blockWriter) Write(p []byte) (int, error) {
	if w.archive.Len()+len(p) > maxInitrd {
		return 0, fmt.Errorf("more than %d bytes", maxInitrd)
	}
	w.archive.Write(p)
	w.blocks = append(w.blocks, block{int64(w.archive.Len()), w.in.n - w.seen})
	w.seen = w.in.n
	return len(p), nil
}

// divide gives each span its part of the blocks it lies in, by the bytes it has there. All parts together are all blocks.
func divide(blocks []block, spans []span) []int64 {
	parts := make([]int64, len(spans))
	at, i := int64(0), 0
	for _, b := range blocks {
		packed := b.packed
		for at < b.end && i < len(spans) {
			end := min(spans[i].end, b.end)
			part := packed * (end - at) / (b.end - at)
			parts[i] += part
			packed, at = packed-part, end
			if at == spans[i].end {
				i++
			}
		}
		parts[min(i, len(spans)-1)] += packed // a block without content
	}
	return parts
}

// Fields of a header of a newc archive (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
const (
	magicNewc   = "070701"
	headerSize  = 6 + 13*8
	fieldSize   = 6
	fieldName   = 11
	fieldMode   = 1
	typeMask    = 0o170000
	typeRegular = 0o100000
	trailerName = "TRAILER!!!"
	maxName     = 4096
)

// readCPIO finds the files in newc archives that follow each other, perhaps with zeros between them: spans that cover all of it.
func readCPIO(archive []byte) ([]span, error) {
	var spans []span
	for at := 0; ; {
		if len(archive)-at < headerSize || string(archive[at:at+len(magicNewc)]) != magicNewc {
			return nil, fmt.Errorf("byte %d of the archive is no header of a newc archive", at)
		}
		header := archive[at : at+headerSize]
		size, name, mode := field(header, fieldSize), field(header, fieldName), field(header, fieldMode)
		if size < 0 || name < 1 || name > maxName || mode < 0 {
			return nil, fmt.Errorf("the header at byte %d of the archive has wrong numbers", at)
		}
		data := align(at + headerSize + name)
		if data > len(archive) || size > len(archive)-data {
			return nil, fmt.Errorf("the entry at byte %d of the archive is cut off", at)
		}
		entry := strings.TrimRight(string(archive[at+headerSize:at+headerSize+name]), "\x00")
		if entry == trailerName {
			for at = min(align(data+size), len(archive)); at < len(archive) && archive[at] == 0; {
				at++
			}
			spans = append(spans, span{end: int64(at)})
			if at == len(archive) {
				return spans, nil
			}
			continue
		}
		spans = append(spans, span{end: int64(data)})
		if mode&typeMask == typeRegular {
			spans = append(spans, span{name: strings.TrimPrefix(path.Clean("/"+entry), "/"), end: int64(data + size), data: int64(size)})
		}
		at = min(align(data+size), len(archive))
		spans = append(spans, span{end: int64(at)})
	}
}

func align(n int) int { return (n + 3) &^ 3 }

// field is a number of a header; below zero if it is none.
func field(header []byte, i int) int {
	at := len(magicNewc) + 8*i
	n, err := strconv.ParseUint(string(header[at:at+8]), 16, 32)
	if err != nil {
		return -1
	}
	return int(n)
}
