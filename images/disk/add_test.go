package disk

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

func TestPartitionsAreAddedOneAfterTheOther(t *testing.T) {
	for _, sector := range sectors {
		path := filepath.Join(t.TempDir(), "drive")
		const size = 100*mib + 4096
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		n := NewPartition{Label: "slipway-data-a", Type: bootspec.PartitionTypeState, GUID: "01234567-89ab-cdef-0123-456789abcdef", Size: 30 * mib}
		a, err := Create(f, size, sector, "11234567-89ab-cdef-0123-456789abcdef", n)
		if err != nil || a.Start != mib || a.Size != 30*mib {
			t.Fatalf("%+v, %v", a, err)
		}
		n.Label, n.GUID, n.Size = "slipway-data-b", "21234567-89ab-cdef-0123-456789abcdef", 0
		b, err := Add(f, size, n)
		if err != nil || b.Start != 31*mib || b.Size != 68*mib {
			t.Fatalf("%+v, %v", b, err)
		}
		if _, err := Add(f, size, n); !errors.Is(err, ErrNoRoom) {
			t.Errorf("a full drive: %v", err)
		}
		got, err := Inspect(path)
		if err != nil || len(got.Partitions) != 2 || got.Partitions[0] != a || got.Partitions[1] != b {
			t.Errorf("%+v, %v", got, err)
		}
		out, err := tool(t, "sgdisk", "-v", loop(t, path, sector))
		if err != nil || !strings.Contains(out, "No problems found.") {
			t.Errorf("%v: %s", err, out)
		}
	}
}

func TestAddRefuses(t *testing.T) {
	path := written(t, small(t, 512))
	size := int64(200 * mib)
	f := grown(t, path, size)
	n := NewPartition{Label: strings.Repeat("x", 37), Type: bootspec.PartitionTypeState, GUID: "01234567-89ab-cdef-0123-456789abcdef"}
	if _, err := Add(f, size, n); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a long label: %v", err)
	}
	n.Label, n.GUID = "x", "no"
	if _, err := Add(f, size, n); err == nil || !strings.Contains(err.Error(), "is no GUID") {
		t.Errorf("no GUID: %v", err)
	}
	n.Size = 500 * mib
	if _, err := Add(f, size, n); !errors.Is(err, ErrNoRoom) {
		t.Errorf("too large: %v", err)
	}
}
