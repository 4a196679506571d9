package deb

import (
	"io"
	"reflect"
	"strings"
	"testing"
)

func paragraphs(text string) (list []Paragraph, err error) {
	for r := NewReader(strings.NewReader(text)); ; {
		p, err := r.Next()
		if err == io.EOF {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		list = append(list, p)
	}
}

func TestParagraphs(t *testing.T) {
	text := "\n# a comment\nPackage: a\nDepends: b,\n c (>= 1)\n# in between\n\td\nEmpty:\n\n \t\nPackage:   z  \r\nX: y: z"
	got, err := paragraphs(text)
	want := []Paragraph{
		{Line: 3, Fields: []Field{{"Package", "a"}, {"Depends", "b,\n c (>= 1)\n\td"}, {"Empty", ""}}},
		{Line: 11, Fields: []Field{{"Package", "z"}, {"X", "y: z"}}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
}

func TestBadParagraphs(t *testing.T) {
	for text, want := range map[string]string{
		"A: 1\n\n continuation\n": "line 3: a continuation without a field",
		"A: 1\nnot a field\n":     "line 2: not a field",
		"A: 1\na: 2\n":            `line 2: field "a" twice`,
		": 1\n":                   "line 1: not a field",
		"-A: 1\n":                 "line 1: not a field",
		"A B: 1\n":                "line 1: not a field",
		"A: " + strings.Repeat("x", maxParagraph):                  "line 1: ",
		"A: 1\n" + strings.Repeat(" xxxxxxx\n", maxParagraph/8+10): "a paragraph of more than",
	} {
		if _, err := paragraphs(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.30q: error %v, want %q", text, err, want)
		}
	}
}

func FuzzControl(f *testing.F) {
	f.Add(controlText)
	f.Add("A: 1\n b\n\nB:2\n#c\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, _ := paragraphs(text)
		for _, p := range list {
			if len(p.Fields) == 0 || p.Line < 1 {
				t.Fatalf("empty paragraph %+v", p)
			}
		}
	})
}

func FuzzRelations(f *testing.F) {
	f.Add("libc6 (>= 2.38), systemd | systemd-standalone-sysusers (<< 5:1~), a:any [amd64 arm64], b [!i386]")
	f.Fuzz(func(t *testing.T, text string) {
		clauses, err := ParseRelations(text)
		if err != nil {
			return
		}
		var again []string
		for _, c := range clauses {
			again = append(again, c.String())
		}
		back, err := ParseRelations(strings.Join(again, ", "))
		if err != nil || !reflect.DeepEqual(clauses, back) {
			t.Fatalf("%q: %+v, then %+v, %v", text, clauses, back, err)
		}
	})
}

func FuzzVersion(f *testing.F) {
	f.Add("1:2.3~rc1-4+b1", "2.3-0")
	f.Fuzz(func(t *testing.T, a, b string) {
		v, err := ParseVersion(a)
		w, err2 := ParseVersion(b)
		if err != nil || err2 != nil {
			return
		}
		if v.Compare(w) != -w.Compare(v) || v.Compare(v) != 0 {
			t.Fatalf("%q and %q: %d and %d", a, b, v.Compare(w), w.Compare(v))
		}
		if again, err := ParseVersion(v.String()); err != nil || again.Compare(v) != 0 {
			t.Fatalf("%q as text is %q: %v", a, v, err)
		}
	})
}
