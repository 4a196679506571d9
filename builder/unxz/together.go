package unxz

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// ErrApart is what Together gives when the streams must be decompressed one by one: there is no program, or one of them isn't
// exactly one stream with an index that fits.
var ErrApart = errors.New("these xz streams can't be decompressed together")

// Together decompresses many small streams with one process, which takes streams that follow each other. Where one ends and the next
// begins is what their indexes say. None may unpack to more than so many bytes. An error says nothing of which stream is at fault.
func Together(streams [][]byte, most int64) ([][]byte, error) {
	if len(streams) == 0 {
		return nil, nil
	}
	program, err := exec.LookPath("xz")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrApart, err)
	}
	plain, inputs := make([][]byte, len(streams)), make([]io.Reader, len(streams))
	for i, s := range streams {
		size, err := unpackedSize(s, most)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrApart, err)
		}
		plain[i], inputs[i] = make([]byte, size), bytes.NewReader(s)
	}
	cmd := exec.Command(program, "--decompress", "--stdout", "--threads=1")
	var words strings.Builder
	cmd.Env, cmd.Stdin, cmd.Stderr = []string{"LC_ALL=C"}, io.MultiReader(inputs...), &words
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	failed := fill(plain, out)
	out.Close()
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("xz: %w: %s", err, strings.TrimSpace(words.String()))
	}
	return plain, failed
}

// fill reads what belongs into the buffers, and that nothing comes after it.
func fill(plain [][]byte, out io.Reader) error {
	for _, p := range plain {
		if _, err := io.ReadFull(out, p); err != nil {
			return fmt.Errorf("xz: %w", err)
		}
	}
	n, err := io.Copy(io.Discard, out)
	if err == nil && n > 0 {
		err = fmt.Errorf("xz: %d bytes more than the indexes say", n)
	}
	return err
}

// Lengths of a stream's header and footer in bytes.
const (
	ends       = 12
	maxRecords = 1 << 20
)

var errIndex = errors.New("not one xz stream with an index that fits")

// unpackedSize is how many bytes a file that is exactly one stream unpacks to, by its index (The .xz File Format 1.2.1, sections 2.1
// and 4). The decoder compares the index with what it finds.
func unpackedSize(stream []byte, most int64) (int64, error) {
	n := int64(len(stream))
	if n < 2*ends || string(stream[:6]) != "\xfd7zXZ\x00" || string(stream[n-2:]) != "YZ" {
		return 0, errIndex
	}
	backward := (int64(binary.LittleEndian.Uint32(stream[n-8:])) + 1) * 4
	if backward > n-2*ends {
		return 0, errIndex
	}
	index := stream[n-ends-backward : n-ends]
	if index[0] != 0 {
		return 0, errIndex
	}
	index = index[1:]
	number := func() int64 {
		v, used := binary.Uvarint(index)
		if used <= 0 || v > 1<<62 {
			index = nil
			return -1
		}
		index = index[used:]
		return int64(v)
	}
	records, blocks, size := number(), int64(0), int64(0)
	if records > maxRecords {
		return 0, errIndex
	}
	for range records {
		packed, plain := number(), number()
		if packed < 0 || packed > n || plain < 0 || plain > most {
			return 0, errIndex
		}
		blocks, size = blocks+(packed+3)&^3, size+plain
	}
	if records < 0 || size > most || 2*ends+blocks+backward != n {
		return 0, errIndex
	}
	return size, nil
}
