package install

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/slipway-os/slipway/images/disk"
)

// The marker is a block of 4096 bytes in the gap before the first partition (1 MiB), behind the partition table and what
// an ISO image has there: magic (16 bytes), lengths of cluster, node and seed (2 each), these three, and at the end of the
// block the SHA-256 of what is before it. Little endian.
const (
	markerAt    = 512 << 10
	markerSize  = 4096
	markerMagic = "SLIPWAY-INSTALL1"
	maxName     = 253
)

// marker is the block.
type marker [markerSize]byte

func newMarker(cluster, node, seed string) marker {
	var m marker
	copy(m[:], markerMagic)
	at := 22
	for i, s := range []string{cluster, node, seed} {
		s = s[:min(len(s), maxName)]
		binary.LittleEndian.PutUint16(m[16+2*i:], uint16(len(s)))
		at += copy(m[at:], s)
	}
	sum := sha256.Sum256(m[:markerSize-sha256.Size])
	copy(m[markerSize-sha256.Size:], sum[:])
	return m
}

func (m marker) write(d disk.Device) error {
	if _, err := d.WriteAt(m[:], markerAt); err != nil {
		return fmt.Errorf("cannot mark the disk: %w", err)
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("cannot mark the disk: %w", err)
	}
	return nil
}

// readMarker tells whose installation has begun on a disk; ok is false when none has.
func readMarker(r io.ReaderAt) (cluster, node string, ok bool, err error) {
	var m marker
	if n, err := r.ReadAt(m[:], markerAt); n < len(m) {
		if err == io.EOF {
			return "", "", false, nil // a disk too small for anything
		}
		return "", "", false, fmt.Errorf("cannot read what is there: %w", err)
	}
	sum := sha256.Sum256(m[:markerSize-sha256.Size])
	n, k := int(binary.LittleEndian.Uint16(m[16:])), int(binary.LittleEndian.Uint16(m[18:]))
	if string(m[:16]) != markerMagic || !bytes.Equal(sum[:], m[markerSize-sha256.Size:]) || n > maxName || k > maxName {
		return "", "", false, nil
	}
	return string(m[22 : 22+n]), string(m[22+n : 22+n+k]), true, nil
}

// ClearMarker takes the marker away, if there is one: the installation is whole.
func ClearMarker(d disk.Device) error {
	if _, _, ok, err := readMarker(d); err != nil || !ok {
		return err
	}
	if _, err := d.WriteAt(make([]byte, markerSize), markerAt); err != nil {
		return fmt.Errorf("cannot take the mark of an installation away: %w", err)
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("cannot take the mark of an installation away: %w", err)
	}
	return nil
}

// marked is a device on which the marker stays whatever is written over it.
type marked struct {
	disk.Device
	marker marker
}

func (d marked) WriteAt(p []byte, at int64) (int, error) {
	if at < markerAt+markerSize && at+int64(len(p)) > markerAt {
		p = bytes.Clone(p)
		from, to := max(at, markerAt), min(at+int64(len(p)), markerAt+markerSize)
		copy(p[from-at:to-at], d.marker[from-markerAt:])
	}
	return d.Device.WriteAt(p, at)
}
