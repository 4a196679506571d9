package bootspec

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func place(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "place"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(ConfigPlaceSize); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestConfigPlaceKeepsTheLastWhole(t *testing.T) {
	f := place(t)
	if _, err := ReadConfig(f); !errors.Is(err, ErrNoConfig) {
		t.Errorf("an empty place says %v", err)
	}
	for i, text := range []string{"one", "two", "three"} {
		if err := WriteConfig(f, Config{Cluster: "lab", Node: "worker-1", Document: []byte(text)}, f.Sync); err != nil {
			t.Fatal(err)
		}
		c, err := ReadConfig(f)
		if err != nil || string(c.Document) != text || c.Generation != uint64(i+1) || c.Cluster != "lab" || c.Node != "worker-1" {
			t.Fatalf("after %q: %+v, %v", text, c, err)
		}
	}
	// Three is in the first half: a write that was cut off there leaves two.
	if _, err := f.WriteAt([]byte{0xff}, configBlock); err != nil {
		t.Fatal(err)
	}
	if c, err := ReadConfig(f); err != nil || string(c.Document) != "two" {
		t.Errorf("after a torn write: %q, %v", c.Document, err)
	}
	if _, err := f.WriteAt([]byte{0xff}, configHalf+20); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadConfig(f); err == nil || errors.Is(err, ErrNoConfig) {
		t.Errorf("two damaged copies say %v", err)
	}
	if err := WriteConfig(f, Config{Document: make([]byte, MaxConfig+1)}, nil); err == nil {
		t.Error("a document over the limit was written")
	}
	if err := WriteConfig(f, Config{Node: "n", Document: make([]byte, MaxConfig)}, nil); err != nil {
		t.Errorf("a document at the limit: %v", err)
	}
	if c, err := ReadConfig(f); err != nil || len(c.Document) != MaxConfig {
		t.Errorf("a document at the limit: %d bytes, %v", len(c.Document), err)
	}
}

type bytesAt []byte

func (b bytesAt) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(b)) {
		clear(p)
		return len(p), nil
	}
	n := copy(p, b[off:])
	clear(p[n:])
	return len(p), nil
}

func FuzzReadConfig(f *testing.F) {
	f.Add(Config{Cluster: "lab", Node: "worker-1", Generation: 7, Document: []byte("{}")}.header())
	f.Add([]byte(configMagic))
	f.Fuzz(func(t *testing.T, head []byte) {
		c, err := ReadConfig(bytesAt(head))
		if err == nil && len(c.Document) > MaxConfig {
			t.Errorf("%d bytes", len(c.Document))
		}
	})
}
