package squashfs

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// packed is a piece, compressed: its blocks, and the size of each as the format has it.
type packed struct {
	sizes []uint32 // bytes, with bit 24 when the block is not compressed
	data  []byte
}

const (
	sizeMask  = 1<<24 - 1 // of a block's size
	maxBlocks = 1 << 20   // of a piece: 1 TiB of blocks of 1 MiB
)

// packedMagic begins the file of a piece.
const packedMagic = "slipway piece 1\n"

// encode is the piece as a file: magic, number of blocks, their sizes, the blocks, and SHA-256 of all that.
func (p packed) encode() []byte {
	var b bytes.Buffer
	b.WriteString(packedMagic)
	binary.Write(&b, binary.LittleEndian, uint32(len(p.sizes)))
	binary.Write(&b, binary.LittleEndian, p.sizes)
	b.Write(p.data)
	sum := sha256.Sum256(b.Bytes())
	b.Write(sum[:])
	return b.Bytes()
}

var errPiece = errors.New("not a piece, or a damaged one")

func decodePacked(file []byte) (packed, error) {
	n := len(file) - sha256.Size
	if n < len(packedMagic)+4 || string(file[:len(packedMagic)]) != packedMagic {
		return packed{}, errPiece
	}
	if sum := sha256.Sum256(file[:n]); !bytes.Equal(sum[:], file[n:]) {
		return packed{}, errPiece
	}
	rest := file[len(packedMagic):n]
	count := int64(binary.LittleEndian.Uint32(rest))
	rest = rest[4:]
	if count > maxBlocks || count*4 > int64(len(rest)) {
		return packed{}, errPiece
	}
	p := packed{sizes: make([]uint32, count), data: rest[count*4:]}
	var total int64
	for i := range p.sizes {
		p.sizes[i] = binary.LittleEndian.Uint32(rest[i*4:])
		total += int64(p.sizes[i] & sizeMask)
	}
	if total != int64(len(p.data)) {
		return packed{}, errPiece
	}
	return p, nil
}

// Store is a folder of compressed pieces. Several programs may use it at the same time.
type Store struct{ dir string }

// NewStore opens a store in the folder, which is made when it is missing.
func NewStore(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make cache folder: %w", err)
	}
	return &Store{dir}, nil
}

// Dir is the store's folder.
func (s *Store) Dir() string { return s.dir }

func (s *Store) file(key string) string { return filepath.Join(s.dir, key) }

// load is a piece that is there and whole.
func (s *Store) load(key string) (packed, bool) {
	file, err := os.ReadFile(s.file(key))
	if err != nil {
		return packed{}, false
	}
	p, err := decodePacked(file)
	return p, err == nil
}

// save writes a piece beside its place and puts it there.
func (s *Store) save(key string, p packed) error {
	tmp, err := os.CreateTemp(s.dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if _, err := tmp.Write(p.encode()); err != nil {
		return err
	}
	if err := errors.Join(tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), s.file(key))
}

// keptLists is how many lists of one name stay: the newest ones.
const keptLists = 4

const listMark = ".list-" // between a list's name and the digest of what it says

// keep notes that an image of that name has these pieces, so that Sweep leaves them.
func (s *Store) keep(name string, keys []string) error {
	text := []byte(strings.Join(keys, "\n") + "\n")
	path := s.file(fmt.Sprintf("%s%s%x", name, listMark, sha256.Sum256(text)))
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return err
	}
	lists, err := filepath.Glob(s.file(name + listMark + "*"))
	if err != nil || len(lists) <= keptLists {
		return err
	}
	age := func(path string) int64 {
		if info, err := os.Stat(path); err == nil {
			return info.ModTime().UnixNano()
		}
		return 0
	}
	slices.SortFunc(lists, func(a, b string) int { return cmp.Compare(age(b), age(a)) })
	for _, old := range lists[keptLists:] {
		if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Sweep removes what no list names and what was left half-written. Nobody else may use the store meanwhile.
func (s *Store) Sweep() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for _, e := range entries {
		if !strings.Contains(e.Name(), listMark) {
			continue
		}
		named[e.Name()] = true
		text, err := os.ReadFile(s.file(e.Name()))
		if err != nil {
			return err
		}
		for key := range strings.Lines(string(text)) {
			named[strings.TrimSuffix(key, "\n")] = true
		}
	}
	var faults []error
	for _, e := range entries {
		if !named[e.Name()] {
			faults = append(faults, os.RemoveAll(s.file(e.Name()))) // what a killed program left may be a folder
		}
	}
	return errors.Join(faults...)
}
