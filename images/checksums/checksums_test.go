package checksums

import (
	"bytes"
	"strings"
	"testing"
)

func FuzzDecode(f *testing.F) {
	f.Add(Sums{"a": strings.Repeat("0", 64), "b.json": strings.Repeat("f", 64)}.Encode())
	f.Add([]byte(strings.Repeat("0", 64) + "  ../x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		sums, err := Decode(data)
		if err == nil && !bytes.Equal(sums.Encode(), data) {
			t.Fatal("what was read is not what would be written")
		}
		for name := range sums {
			if strings.ContainsAny(name, "/\\ \n") {
				t.Fatalf("%q was taken", name)
			}
		}
	})
}
