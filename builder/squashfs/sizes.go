package squashfs

import (
	"encoding/binary"
	"fmt"
	"io"
	"path"

	squashfslow "github.com/CalebQ42/squashfs/low"
	"github.com/CalebQ42/squashfs/low/inode"
)

// Sizes tells how many bytes each regular file takes in a squashfs file, compressed: its blocks, and of a fragment that it
// shares with others its part. What several files have in common counts for the first by path, for the others nothing.
// It reads what this package has packed; it is not for files of others.
func Sizes(r io.ReaderAt) (map[string]int64, error) {
	fs, err := squashfslow.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("cannot read squashfs: %w", err)
	}
	s := &sizes{fs: fs, of: map[string]int64{}, seen: map[extent]bool{}}
	s.fragments = squashfslow.NewTable(&s.fs, fs.Superblock.FragTableStart, fs.Superblock.FragCount, readFragment)
	if err := s.walk(fs.Root, ""); err != nil {
		return nil, fmt.Errorf("cannot read squashfs: %w", err)
	}
	if err := s.share(); err != nil {
		return nil, fmt.Errorf("cannot read squashfs: %w", err)
	}
	return s.of, nil
}

// share gives each file its part of the fragment blocks, by what it has in them.
func (s *sizes) share() error {
	held := map[uint32]uint64{}
	for _, t := range s.tails {
		held[t.index] += t.length
	}
	for _, t := range s.tails {
		f, err := s.fragments.Get(t.index)
		if err != nil {
			return err
		}
		s.of[t.name] += int64(uint64(f.Size&sizeMask) * t.length / held[t.index])
	}
	return nil
}

// inFragment is what a file has in a fragment block.
type inFragment struct {
	name   string
	index  uint32 // of the block
	length uint64 // bytes
}

// fragment is an entry of the fragment table.
type fragment struct {
	Start        uint64
	Size, Unused uint32
}

func readFragment(r io.Reader) (f fragment, err error) {
	return f, binary.Read(r, binary.LittleEndian, &f)
}

// extent is where a file's data begins: its first block, or its place in a fragment.
type extent struct {
	start  uint64
	offset uint32
	inside bool // a fragment
}

type sizes struct {
	fs        squashfslow.Reader
	fragments *squashfslow.Table[fragment]
	of        map[string]int64
	seen      map[extent]bool
	tails     []inFragment
}

func (s *sizes) walk(d squashfslow.Directory, at string) error {
	for _, e := range d.Entries {
		name := path.Join(at, e.Name)
		file, err := s.fs.BaseFromEntry(e)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if file.IsDir() {
			below, err := file.ToDir(s.fs)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if err := s.walk(below, name); err != nil {
				return err
			}
		}
		if !file.IsRegular() {
			continue
		}
		s.of[name] = s.size(name, file.Inode)
	}
	return nil
}

const noFragment = 0xffffffff

// size is what a file's blocks take; what it has in a fragment is noted.
func (s *sizes) size(name string, i inode.Inode) int64 {
	var start, length uint64
	var index, offset uint32
	var blocks []uint32
	switch f := i.Data.(type) {
	case inode.File:
		start, length, index, offset, blocks = uint64(f.BlockStart), uint64(f.Size), f.FragInd, f.FragOffset, f.BlockSizes
	case inode.EFile:
		start, length, index, offset, blocks = f.BlockStart, f.Size, f.FragInd, f.FragOffset, f.BlockSizes
	}
	var total int64
	if len(blocks) > 0 && s.first(extent{start: start}) {
		for _, b := range blocks {
			total += int64(b & sizeMask)
		}
	}
	if tail := length % uint64(s.fs.Superblock.BlockSize); index != noFragment && tail > 0 && s.first(extent{uint64(index), offset, true}) {
		s.tails = append(s.tails, inFragment{name, index, tail})
	}
	return total
}

func (s *sizes) first(e extent) bool {
	seen := s.seen[e]
	s.seen[e] = true
	return !seen
}
