package deb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
	arMembers    = 16 // deb(5) names three and allows a few more
)

// find is the first ar member whose name begins with prefix ("data.tar"), bounded to its size. The members before it
// must be those deb(5) demands, and the file must be long enough for every member.
func find(r io.ReaderAt, size int64, prefix string) (*io.SectionReader, string, error) {
	magic := make([]byte, len(arMagic))
	if _, err := r.ReadAt(magic, 0); err != nil || string(magic) != arMagic {
		return nil, "", errors.New("not an ar archive")
	}
	at := int64(len(arMagic))
	for i := 0; i < arMembers; i++ {
		name, n, err := arMember(r, at, size)
		if err != nil {
			return nil, "", err
		}
		body := io.NewSectionReader(r, at+arHeaderSize, n)
		if i == 0 {
			if err := format(name, body); err != nil {
				return nil, "", err
			}
		}
		if name == prefix || strings.HasPrefix(name, prefix+".") {
			return body, name, nil
		}
		at += arHeaderSize + n + n%2
	}
	return nil, "", fmt.Errorf("no %s in the first %d members", prefix, arMembers)
}

// arMember reads the header at an offset: name and size of the member after it.
func arMember(r io.ReaderAt, at, size int64) (string, int64, error) {
	var h [arHeaderSize]byte
	if n, err := r.ReadAt(h[:], at); n < len(h) {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return "", 0, fmt.Errorf("ar header at byte %d: %w", at, err)
	}
	if h[58] != '`' || h[59] != '\n' {
		return "", 0, fmt.Errorf("ar header at byte %d: bad end mark", at)
	}
	n, err := strconv.ParseInt(strings.TrimRight(string(h[48:58]), " "), 10, 64)
	if err != nil || n < 0 {
		return "", 0, fmt.Errorf("ar header at byte %d: bad size %q", at, h[48:58])
	}
	if n > size-at-arHeaderSize {
		return "", 0, fmt.Errorf("ar member at byte %d: %w", at, io.ErrUnexpectedEOF)
	}
	name := strings.TrimRight(string(h[:16]), " ")
	return strings.TrimSuffix(name, "/"), n, nil
}

// format checks the debian-binary member: format 2, any minor number.
func format(name string, body io.Reader) error {
	if name != "debian-binary" {
		return fmt.Errorf("first ar member is %q, not debian-binary", name)
	}
	var b [8]byte
	n, _ := io.ReadFull(body, b[:])
	if !bytes.HasPrefix(b[:n], []byte("2.")) {
		return fmt.Errorf("debian-binary says %q, not 2.x", b[:n])
	}
	return nil
}
