package squashfs

import (
	"bytes"
	"encoding/binary"

	"github.com/klauspost/compress/zstd"
)

// metadataSize is how many bytes a metadata block holds.
const metadataSize = 8192

// plainMetadata in a metadata block's header says that it is not compressed.
const plainMetadata = 1 << 15

// newCompressor is for metadata: small blocks, which change with every image and take next to no time.
func newCompressor() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(metadataSize))
}

// table is a stream of metadata blocks.
type table struct {
	zstd   *zstd.Encoder
	out    bytes.Buffer // finished blocks
	starts []uint64     // of each block, in out
	open   []byte       // less than a block
}

// position is where something in a table is: its block's start in the table, and the offset in the uncompressed block.
type position struct {
	block  uint32
	offset uint16
}

// ref is the position in one number.
func (p position) ref() uint64 { return uint64(p.block)<<16 | uint64(p.offset) }

func (t *table) at() position { return position{uint32(t.out.Len()), uint16(len(t.open))} }

func (t *table) Write(p []byte) (int, error) {
	t.open = append(t.open, p...)
	for len(t.open) >= metadataSize {
		t.block(t.open[:metadataSize])
		t.open = append(t.open[:0], t.open[metadataSize:]...)
	}
	return len(p), nil
}

// put writes values as little-endian integers.
func (t *table) put(values ...any) {
	for _, v := range values {
		b, err := binary.Append(nil, binary.LittleEndian, v)
		if err != nil {
			panic("squashfs: " + err.Error()) // only integers, and lists of them, are put
		}
		t.Write(b)
	}
}

func (t *table) block(plain []byte) {
	t.starts = append(t.starts, uint64(t.out.Len()))
	data, header := t.zstd.EncodeAll(plain, nil), uint16(0)
	if len(data) >= len(plain) {
		data, header = plain, plainMetadata
	}
	t.out.Write(binary.LittleEndian.AppendUint16(nil, header|uint16(len(data))))
	t.out.Write(data)
}

// bytes ends the table.
func (t *table) bytes() []byte {
	if len(t.open) > 0 {
		t.block(t.open)
		t.open = nil
	}
	return t.out.Bytes()
}

// pointers are where the table's blocks are in the file when the table itself is at start.
func (t *table) pointers(start uint64) []byte {
	var list []byte
	for _, s := range t.starts {
		list = binary.LittleEndian.AppendUint64(list, start+s)
	}
	return list
}
