package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/slipway-os/slipway/images/document"
)

// strict reads a lock's JSON side by side with the Go type it is for: fields that the type doesn't have and keys that are
// there twice, which encoding/json passes over, are errors. It keeps where each value begins.
type strict struct {
	data   []byte
	dec    *json.Decoder
	places map[string]int64 // offsets by path: architectures.amd64.packages[3].name
}

// maxNested bounds values in values; a lock has six.
const maxNested = 20

// readStrict checks data against out, decodes it, and tells where its values are.
func readStrict(data []byte, out any) (*strict, error) {
	s := &strict{data: data, dec: json.NewDecoder(bytes.NewReader(data)), places: map[string]int64{}}
	if err := s.value("", reflect.TypeOf(out).Elem(), 0); err != nil {
		return s, s.explain(err)
	}
	if s.dec.More() {
		return s, s.at(s.dec.InputOffset(), "", errors.New("something follows the lock"))
	}
	if err := json.Unmarshal(data, out); err != nil {
		return s, s.explain(err)
	}
	return s, nil
}

// explain places an error of encoding/json.
func (s *strict) explain(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	var placed *placedError
	switch {
	case errors.As(err, &placed):
		return err
	case errors.As(err, &syntax):
		return s.at(syntax.Offset, "", fmt.Errorf("not valid JSON: %w", err))
	case errors.As(err, &kind):
		return s.at(kind.Offset, kind.Field, fmt.Errorf("it is a %s, not %s", kind.Value, kind.Type))
	}
	return s.at(s.dec.InputOffset(), "", fmt.Errorf("not valid JSON: %w", err))
}

// placedError is an error with line and column.
type placedError struct {
	line, column int
	path         string
	err          error
}

func (e *placedError) Error() string {
	if e.path == "" {
		return fmt.Sprintf("%d:%d: %v", e.line, e.column, e.err)
	}
	return fmt.Sprintf("%d:%d: %s: %v", e.line, e.column, e.path, e.err)
}

func (e *placedError) Unwrap() error { return e.err }

func (s *strict) at(offset int64, path string, err error) error {
	before := s.data[:min(max(offset, 0), int64(len(s.data)))]
	return &placedError{1 + bytes.Count(before, []byte("\n")), len(before) - bytes.LastIndexByte(before, '\n'), path, err}
}

// fault is an error at a path, or at the nearest value around it.
func (s *strict) fault(path string, err error) error {
	for p := path; ; p = p[:max(strings.LastIndexAny(p, ".["), 0)] {
		if offset, ok := s.places[p]; ok || p == "" {
			return s.at(offset, path, err)
		}
	}
}

// next is the next token and where it begins.
func (s *strict) next() (json.Token, int64, error) {
	offset := s.dec.InputOffset()
	token, err := s.dec.Token()
	for offset < int64(len(s.data)) && strings.IndexByte(" \t\r\n,:", s.data[offset]) >= 0 {
		offset++
	}
	return token, offset, err
}

func (s *strict) value(path string, t reflect.Type, depth int) error {
	token, offset, err := s.next()
	if err != nil {
		return err
	}
	s.places[path] = offset
	if depth > maxNested {
		return s.at(offset, path, errors.New("values are nested too deep"))
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch token {
	case json.Delim('{'):
		return s.object(path, t, depth)
	case json.Delim('['):
		return s.list(path, t, depth)
	}
	return nil
}

func (s *strict) object(path string, t reflect.Type, depth int) error {
	seen := map[string]bool{}
	for s.dec.More() {
		token, offset, err := s.next()
		if err != nil {
			return err
		}
		key, _ := token.(string) // keys are
		if seen[key] {
			return s.at(offset, document.Key(path, key), errors.New("it is there twice"))
		}
		seen[key] = true
		of, known := field(t, key)
		if !known {
			return s.at(offset, document.Key(path, key), errors.New("unknown field"))
		}
		if err := s.value(document.Key(path, key), of, depth+1); err != nil {
			return err
		}
	}
	_, err := s.dec.Token()
	return err
}

func (s *strict) list(path string, t reflect.Type, depth int) error {
	var of reflect.Type
	if t != nil && t.Kind() == reflect.Slice {
		of = t.Elem()
	}
	for i := 0; s.dec.More(); i++ {
		if err := s.value(document.Index(path, i), of, depth+1); err != nil {
			return err
		}
	}
	_, err := s.dec.Token()
	return err
}

// field is the type of a key's value, and whether there may be such a key. Where another type than an object is wanted,
// decoding says so.
func field(t reflect.Type, key string) (reflect.Type, bool) {
	switch {
	case t == nil:
		return nil, true
	case t.Kind() == reflect.Map:
		return t.Elem(), true
	case t.Kind() != reflect.Struct:
		return nil, true
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name == key && name != "-" {
			return f.Type, true
		}
	}
	return nil, false
}
