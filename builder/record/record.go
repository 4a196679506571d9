// Package record writes what a cache knows of its files so that damage shows: a JSON object that begins with the SHA-256 of
// all that follows. It finds accidents, not forgery; what it is about has digests of its own in it.
package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

const (
	before = `{"sum":"`
	after  = `",`
)

// ErrDamaged is what errors about a record that is not as it was written wrap.
var ErrDamaged = errors.New("the record is damaged")

// ErrOld is an ErrDamaged of a record that is JSON without a sum: very likely an older program wrote it, and nobody needs to be warned.
var ErrOld = fmt.Errorf("%w: it has no sum", ErrDamaged)

// Encode is v, which must marshal to an object with at least one field, none of them named sum, as a record with its sum.
func Encode(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("cannot write record: %w", err)
	}
	rest, ok := bytes.CutPrefix(text, []byte("{"))
	if !ok || len(rest) < 2 {
		return nil, fmt.Errorf("cannot write record: %T is no object with fields", v)
	}
	return append([]byte(before+sum(rest)+after), rest...), nil
}

// Decode reads what Encode wrote. The error wraps ErrDamaged when a byte of it has changed.
func Decode(record []byte, v any) error {
	rest, ok := bytes.CutPrefix(record, []byte(before))
	const digits = 2 * sha256.Size
	if !ok && json.Valid(record) {
		return ErrOld
	}
	if !ok || len(rest) < digits+len(after) || string(rest[digits:digits+len(after)]) != after {
		return fmt.Errorf("%w: it has no sum", ErrDamaged)
	}
	text := rest[digits+len(after):]
	if got := sum(text); got != string(rest[:digits]) {
		return fmt.Errorf("%w: its sum is %s, not %s", ErrDamaged, got, rest[:digits])
	}
	if err := json.Unmarshal(append([]byte("{"), text...), v); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}

func sum(text []byte) string {
	s := sha256.Sum256(text)
	return hex.EncodeToString(s[:])
}
