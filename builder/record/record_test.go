package record

import (
	"encoding/json"
	"errors"
	"testing"
)

type about struct {
	Name string
	Mode int
}

func TestEveryBitCounts(t *testing.T) {
	text, err := Encode(about{"x", 0o755})
	if err != nil {
		t.Fatal(err)
	}
	var back about
	if err := Decode(text, &back); err != nil || back != (about{"x", 0o755}) {
		t.Errorf("%+v, %v", back, err)
	}
	if err := json.Unmarshal(text, &back); err != nil || back.Name != "x" {
		t.Errorf("it is no JSON for who doesn't look at the sum: %v", err)
	}
	for i := range text {
		for bit := range 8 {
			bad := append([]byte{}, text...)
			bad[i] ^= 1 << bit
			if err := Decode(bad, &back); !errors.Is(err, ErrDamaged) {
				t.Errorf("bit %d of byte %d: %v", bit, i, err)
			}
		}
		if err := Decode(text[:i], &back); !errors.Is(err, ErrDamaged) {
			t.Errorf("%d bytes of it: %v", i, err)
		}
	}
	if err := Decode([]byte(`{"Name":"x","Mode":493}`), &back); !errors.Is(err, ErrOld) {
		t.Errorf("a record of before: %v", err)
	}
	if err := Decode([]byte(`{"Name":"x","Mode":49`), &back); errors.Is(err, ErrOld) {
		t.Errorf("half a record of before: %v", err)
	}
	for _, v := range []any{nil, 5, []int{1}, struct{}{}} {
		if _, err := Encode(v); err == nil {
			t.Errorf("%v was taken", v)
		}
	}
}

func FuzzDecode(f *testing.F) {
	text, _ := Encode(about{"x", 1})
	f.Add(text)
	f.Fuzz(func(t *testing.T, data []byte) {
		var a about
		if Decode(data, &a) == nil {
			if _, err := Encode(a); err != nil {
				t.Fatal(err)
			}
		}
	})
}
