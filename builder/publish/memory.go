package publish

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Memory is what this machine has seen of signed places: a file for each, in a folder.
type Memory struct {
	Dir string
	// Warn is told when something cannot be kept: then an older index will not be noticed.
	Warn func(error)
}

// memo is the newest index that was seen of a place.
type memo struct {
	Address string `json:"address"` // for people
	Place   string `json:"place"`
	Counter int64  `json:"counter"`
}

const maxMemo = 4 << 10 // bytes

// file is where a place's memo is.
func (m *Memory) file(address string) string {
	if m == nil {
		return "what is remembered of it"
	}
	return filepath.Join(m.Dir, fmt.Sprintf("%.32x.json", sha256.Sum256([]byte(address))))
}

// recall reads what was seen of a place; nil: nothing.
func (m *Memory) recall(address string) (*memo, error) {
	if m == nil {
		return nil, nil
	}
	name := m.file(address)
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var seen memo
	switch {
	case err != nil:
	case len(data) > maxMemo:
		err = errors.New("it is too long")
	default:
		err = json.Unmarshal(data, &seen)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read what was seen of %s before: %s: %w (remove it to begin anew)", address, name, err)
	}
	return &seen, nil
}

// remember keeps what was seen. Where that can't be, it is said, and no reason to stop.
func (m *Memory) remember(address string, s *Seal) error {
	if m == nil {
		return nil
	}
	if seen, err := m.recall(address); err == nil && seen != nil && seen.Counter >= s.Counter {
		return nil
	}
	data, err := json.Marshal(memo{address, s.Place, s.Counter})
	if err != nil {
		return err
	}
	if err := m.write(m.file(address), append(data, '\n')); err != nil && m.Warn != nil {
		m.Warn(fmt.Errorf("cannot keep that index %d of %s was seen: an older one will not be noticed: %w", s.Counter, address, err))
	}
	return nil
}

func (m *Memory) write(name string, data []byte) error {
	if err := os.MkdirAll(m.Dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(m.Dir, ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when the rename was done
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
