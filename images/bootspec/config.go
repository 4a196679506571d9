package bootspec

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The configuration place is a partition (LabelConfig) of ConfigPlaceSize bytes with two copies of a node's
// configuration, each of half its size: a header block, then the document. The valid copy with the higher generation
// counts. A new one is written over the other: a write that is cut off leaves the one before.
//
// The header, little endian: magic (16 bytes), generation (8), length of the document in bytes (8), SHA-256 of the
// document (32), lengths of two names (2 and 2), the names of the cluster and the node, SHA-256 of the header so far at
// its end (32 bytes).
const (
	ConfigPlaceSize = 8 << 20
	configBlock     = 4096
	configHalf      = ConfigPlaceSize / 2
	maxConfigName   = 253
)

// MaxConfig bounds a node's configuration in bytes, wherever it comes from.
const MaxConfig = configHalf - configBlock

const configMagic = "SLIPWAY-CONFIG-1"

// ErrNoConfig says that a configuration place holds none: it is all zeros where a header would be.
var ErrNoConfig = errors.New("there is no node configuration on it")

// Config is a node's configuration on a medium.
type Config struct {
	Cluster, Node string // names, at most 253 bytes
	Generation    uint64 // counts up with each write
	Document      []byte // Ignition configuration: a secret
}

// ReadConfig reads a configuration place. ErrNoConfig: nothing was ever written. A place whose copies are both damaged is
// another error.
func ReadConfig(place io.ReaderAt) (Config, error) {
	a, errA := readConfigCopy(place, 0)
	b, errB := readConfigCopy(place, configHalf)
	switch {
	case errA == nil && (errB != nil || a.Generation > b.Generation):
		return a, nil
	case errB == nil:
		return b, nil
	case errors.Is(errA, ErrNoConfig) && errors.Is(errB, ErrNoConfig):
		return Config{}, ErrNoConfig
	case errors.Is(errA, ErrNoConfig):
		errA = errB
	}
	return Config{}, fmt.Errorf("cannot read the node configuration on the medium: %w: write it again with `slipway flash`", errA)
}

func readConfigCopy(place io.ReaderAt, at int64) (Config, error) {
	head := make([]byte, configBlock)
	if _, err := place.ReadAt(head, at); err != nil {
		return Config{}, err
	}
	if bytes.Equal(head, make([]byte, configBlock)) {
		return Config{}, ErrNoConfig
	}
	sum := sha256.Sum256(head[:configBlock-sha256.Size])
	if string(head[:16]) != configMagic || !bytes.Equal(sum[:], head[configBlock-sha256.Size:]) {
		return Config{}, errors.New("its header is damaged")
	}
	le := binary.LittleEndian
	length, n, m := le.Uint64(head[24:]), int(le.Uint16(head[64:])), int(le.Uint16(head[66:]))
	if length > MaxConfig || n > maxConfigName || m > maxConfigName {
		return Config{}, errors.New("its header is wrong")
	}
	c := Config{Generation: le.Uint64(head[16:]), Cluster: string(head[68 : 68+n]), Node: string(head[68+n : 68+n+m])}
	c.Document = make([]byte, length)
	if _, err := place.ReadAt(c.Document, at+configBlock); err != nil {
		return Config{}, err
	}
	if sum := sha256.Sum256(c.Document); !bytes.Equal(sum[:], head[32:64]) {
		return Config{}, errors.New("its document is damaged")
	}
	return c, nil
}

// configFile is what holds a configuration place.
type configFile interface {
	io.ReaderAt
	io.WriterAt
}

// WriteConfig writes a configuration over the older copy; Generation is decided here. The document is written before its
// header; sync, if given, is called after each of both.
func WriteConfig(place configFile, c Config, sync func() error) error {
	if len(c.Document) == 0 || len(c.Document) > MaxConfig || len(c.Cluster) > maxConfigName || len(c.Node) > maxConfigName {
		return fmt.Errorf("cannot write a node configuration of %d bytes: the limit is %d", len(c.Document), MaxConfig)
	}
	if sync == nil {
		sync = func() error { return nil }
	}
	at := int64(0)
	c.Generation = 1
	a, errA := readConfigCopy(place, 0)
	b, errB := readConfigCopy(place, configHalf)
	switch {
	case errA == nil && (errB != nil || a.Generation > b.Generation):
		at, c.Generation = configHalf, a.Generation+1
	case errB == nil:
		c.Generation = b.Generation + 1
	}
	if _, err := place.WriteAt(c.Document, at+configBlock); err != nil {
		return fmt.Errorf("cannot write the node configuration: %w", err)
	}
	if err := sync(); err != nil {
		return fmt.Errorf("cannot write the node configuration: %w", err)
	}
	if _, err := place.WriteAt(c.header(), at); err != nil {
		return fmt.Errorf("cannot write the node configuration: %w", err)
	}
	if err := sync(); err != nil {
		return fmt.Errorf("cannot write the node configuration: %w", err)
	}
	return nil
}

func (c Config) header() []byte {
	head := make([]byte, configBlock)
	le := binary.LittleEndian
	copy(head, configMagic)
	le.PutUint64(head[16:], c.Generation)
	le.PutUint64(head[24:], uint64(len(c.Document)))
	document := sha256.Sum256(c.Document)
	copy(head[32:], document[:])
	le.PutUint16(head[64:], uint16(len(c.Cluster)))
	le.PutUint16(head[66:], uint16(len(c.Node)))
	copy(head[68:], c.Cluster+c.Node)
	sum := sha256.Sum256(head[:configBlock-sha256.Size])
	copy(head[configBlock-sha256.Size:], sum[:])
	return head
}
