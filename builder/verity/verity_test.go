package verity

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func image(t *testing.T, blocks int) ([]byte, *Tree) {
	t.Helper()
	data := make([]byte, blocks*BlockSize)
	rand.New(rand.NewSource(int64(blocks))).Read(data)
	salt := [32]byte{1, 2, 3, 31: 9}
	tree, err := Build(context.Background(), bytes.NewReader(data), int64(len(data)), salt, [16]byte{15: 7})
	if err != nil {
		t.Fatal(err)
	}
	return append(data, tree.Bytes...), tree
}

// TestVeritysetupAgrees checks trees of one to three levels, full and partly filled, with cryptsetup's own tool.
func TestVeritysetupAgrees(t *testing.T) {
	tool, err := exec.LookPath("veritysetup")
	if err != nil {
		t.Skip("veritysetup is not installed")
	}
	for _, blocks := range []int{2, 127, 128, 129, 1000, 128*128 + 1} {
		file, tree := image(t, blocks)
		path := filepath.Join(t.TempDir(), "image")
		verify := func(content []byte) error {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(tool, "verify", path, path, fmt.Sprintf("%x", tree.RootHash), "--hash-offset="+strconv.Itoa(blocks*BlockSize)).CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
			}
			return err
		}
		if err := verify(file); err != nil {
			t.Errorf("%d blocks: %v", blocks, err)
		}
		file[(blocks-1)*BlockSize+17] ^= 1
		if verify(file) == nil {
			t.Errorf("%d blocks: veritysetup takes a flipped bit, so this test shows nothing", blocks)
		}
	}
}

func TestSaltChangesRootHash(t *testing.T) {
	data := bytes.NewReader(make([]byte, 8*BlockSize))
	a, err := Build(context.Background(), data, data.Size(), [32]byte{}, [16]byte{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Build(context.Background(), data, data.Size(), [32]byte{1}, [16]byte{})
	if err != nil {
		t.Fatal(err)
	}
	if a.RootHash == b.RootHash {
		t.Error("the salt is not in the root hash, so the superblock is not vouched for")
	}
}

func TestRefusals(t *testing.T) {
	data := bytes.NewReader(make([]byte, BlockSize))
	for _, size := range []int64{0, -BlockSize, 100, 2 * BlockSize} {
		if _, err := Build(context.Background(), data, size, [32]byte{}, [16]byte{}); err == nil {
			t.Errorf("size %d was taken with %d bytes of data", size, data.Size())
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Build(ctx, data, BlockSize, [32]byte{}, [16]byte{}); err == nil {
		t.Error("went on after cancel")
	}
}

func BenchmarkBuild(b *testing.B) {
	data := bytes.NewReader(make([]byte, 256<<20))
	b.SetBytes(data.Size())
	for b.Loop() {
		if _, err := Build(context.Background(), data, data.Size(), [32]byte{}, [16]byte{}); err != nil {
			b.Fatal(err)
		}
	}
}
