package document_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/document"
)

type inner struct {
	Address netip.Addr `yaml:"address"`
	Port    uint16     `yaml:"port"`
	On      bool       `yaml:"on"`
}

type sample struct {
	Name   string            `yaml:"name"`
	Prefix netip.Prefix      `yaml:"prefix"`
	Wait   time.Duration     `yaml:"wait"`
	Labels map[string]string `yaml:"labels"`
	Items  []inner           `yaml:"items"`
	Point  *inner            `yaml:"point"`
	Any    any               `yaml:"any"`
	Hidden string
}

func TestDecode(t *testing.T) {
	var got sample
	_, err := document.Decode("f.yaml", []byte(`
name: lab
prefix: 10.1.0.0/24
wait: 90s
labels: {example.com/rack: r1}
items:
  - &a {address: 10.1.0.11, port: 0x50, on: true}
  - *a
point: {port: 443}
any: {list: [1, two, 3.5, false, null]}
`), &got)
	if err != nil {
		t.Fatal(err)
	}
	i := inner{netip.MustParseAddr("10.1.0.11"), 80, true}
	want := sample{
		Name: "lab", Prefix: netip.MustParsePrefix("10.1.0.0/24"), Wait: 90 * time.Second,
		Labels: map[string]string{"example.com/rack": "r1"}, Items: []inner{i, i}, Point: &inner{Port: 443},
		Any: map[string]any{"list": []any{int64(1), "two", 3.5, false, nil}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestFaults has documents and every line that is said about them.
func TestFaults(t *testing.T) {
	laughs := "any:\n  - &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
	for c := 'b'; c <= 'h'; c++ {
		p := "*" + string(c-1)
		laughs += "  - &" + string(c) + " [" + strings.Repeat(p+", ", 9) + p + "]\n"
	}
	tests := []struct{ name, in, want string }{
		{"unknown field", "nam: lab\n", `f:1:1: nam: unknown field (did you mean name?)`},
		{"unknown field, nothing near", "point:\n  colour: red\n", `f:2:3: point.colour: unknown field (known fields: address, on, port)`},
		{"untagged field", "Hidden: x\n", `f:1:1: Hidden: unknown field (known fields: any, items, labels, name, point, prefix, wait)`},
		{"duplicate", "name: a\nwait: 1s\nname: b\n", `f:3:1: name: is set twice, first in line 1 (remove one of them)`},
		{"duplicate in a map", "labels:\n  a.b/c: x\n  a.b/c: y\n", `f:3:3: labels["a.b/c"]: is set twice, first in line 2 (remove one of them)`},
		{"number for text", "name: 1.37\n", `f:1:7: name: is the number 1.37, not text (put it in quotes: "1.37")`},
		{"all at once, in order", "items:\n  - {port: 70000, on: maybe}\n  - address: 10.1.0.300\nname: [a]\nprefix: 10.1.0.0\n", strings.Join([]string{
			`f:2:12: items[0].port: is the number 70000, not in the range of this field`,
			`f:2:23: items[0].on: is the text "maybe", not a truth value (true or false)`,
			`f:3:14: items[1].address: "10.1.0.300" is not an IP address (write it like 10.1.0.11)`,
			`f:4:7: name: is a list, not a single value`,
			`f:5:9: prefix: "10.1.0.0" is not an IP prefix (write it like 10.1.0.0/24)`,
		}, "\n")},
		{"mapping for list", "items: {port: 1}\n", `f:1:8: items: is a mapping, not a list (write it as a list: [a, b], or lines that begin with -)`},
		{"list for mapping", "point: [1]\n", `f:1:8: point: is a list, not a mapping (write it as key: value lines)`},
		{"text as document", "hello\n", `f:1:1: is the text "hello", not a mapping (write it as key: value lines)`},
		{"octal", "point: {port: 010}\n", `f:1:15: point.port: is the number 010, not a clear number (a leading 0 means octal to some; write 0o10 or leave it out)`},
		{"duration", "wait: soon\n", `f:1:7: wait: is the text "soon", not a duration (write it like 90s, 10m or 24h)`},
		{"negative", "point: {port: -1}\n", `f:1:15: point.port: is the number -1, not in the range of this field`},
		{"empty", "", `f:1: the document is empty`},
		{"comment only", "# nothing\n", `f:1: the document is empty`},
		{"two documents", "name: a\n---\nname: b\n", `f:2: a second document begins here (one file holds one document; remove what follows ---)`},
		{"merge key", "point: {<<: {port: 1}}\n", `f:1:9: point: merge keys (<<) are not supported (write the fields out, or use an alias for a whole value)`},
		{"tag", "name: !!binary aGVsbG8=\n", `f:1:7: name: tag !!binary is not supported (remove it)`},
		{"syntax", "name: a\n  b: c: d\n", `f:2: not valid YAML: mapping values are not allowed in this context`},
		{"unknown alias", "name: *x\n", `f:1: not valid YAML: unknown anchor 'x' referenced`},
		{"billion laughs", laughs, `f:2:30: any[4][7][0][7][0][7]: the document has over 100000 values (use fewer aliases)`},
		{"self reference", "any: &a [*a]\n", `f:1:6: any` + strings.Repeat("[0]", 32) + `: values are nested over 64 deep (an alias may not lie in its own anchor)`},
		{"too large", "name: " + strings.Repeat("a", document.MaxSize), `f: 1048582 bytes are over the limit of 1048576`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out sample
			_, err := document.Decode("f", []byte(tt.in), &out)
			if err == nil {
				t.Fatal("no error")
			}
			if err.Error() != tt.want {
				t.Errorf("got\n%s\nwant\n%s", err, tt.want)
			}
		})
	}
}

// TestManyFaults: a large file of nonsense is refused with its first faults and a count.
func TestManyFaults(t *testing.T) {
	var b strings.Builder
	for i := range 50_000 {
		fmt.Fprintf(&b, "k%d: 1\n", i)
	}
	var out sample
	_, err := document.Decode("f", []byte(b.String()), &out)
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != document.MaxFaults+1 || !strings.HasPrefix(lines[99], "f:100:1: k99: unknown field") || lines[100] != "and 900 more" {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
}

func TestSourceFault(t *testing.T) {
	var out sample
	src, err := document.Decode("f", []byte(`name: lab
labels:
  a.b/c: x
items:
  - address: 10.1.0.11
    port: 80
  - &p {port: 81}
  - *p
point:
`), &out)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"name":             "f:1:7: name: m (h)",
		"missing":          "f:1:1: missing: m (h)",
		"labels":           "f:2:1: labels: m (h)",
		`labels["a.b/c"]`:  `f:3:10: labels["a.b/c"]: m (h)`,
		"items":            "f:4:1: items: m (h)",
		"items[0]":         "f:5:5: items[0]: m (h)",
		"items[0].port":    "f:6:11: items[0].port: m (h)",
		"items[0].on":      "f:5:5: items[0].on: m (h)",
		"items[2].port":    "f:7:15: items[2].port: m (h)",
		"items[9].port":    "f:4:1: items[9].port: m (h)",
		"point.port":       "f:9:1: point.port: m (h)",
		"items[x]..[[[\"]": "f:4:1: items[x]..[[[\"]: m (h)",
	} {
		if got := src.Fault(path, "m", "h").String(); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
	if !src.Has("items[0].port") || src.Has("items[0].on") || src.Has("point") {
		t.Error("Has doesn't tell what the document sets")
	}
}

func TestJoin(t *testing.T) {
	var out sample
	src, err := document.Decode("f", []byte("items: 3\nname: lab\n"), &out)
	err = document.Join(err, document.Faults{src.Fault("items", "is missing", ""), src.Fault("items[0].port", "x", ""), src.Fault("name", "is dull", "")})
	want := "f:1:8: items: is the number 3, not a list (write it as a list: [a, b], or lines that begin with -)\nf:2:7: name: is dull"
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if err := document.Join(nil, nil); err != nil {
		t.Errorf("no faults are an error: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"name: a\n", "items: [{port: 1}]\n", "any: &a [*a]\n", "a: *b", "? [a]\n: b", "<<: {}", "---\n---\n", "\t", "name: !!float 1", "labels: {? : a}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var out sample
		src, err := document.Decode("f", data, &out)
		if src == nil {
			t.Fatal("no source")
		}
		if err != nil && strings.TrimSpace(err.Error()) == "" {
			t.Fatal("an error without words")
		}
		if got := src.Fault("items[0].port", "m", "").String(); !strings.HasSuffix(got, ": items[0].port: m") {
			t.Fatal(got)
		}
	})
}
