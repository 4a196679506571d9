package tftp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Opcodes (RFC 1350 section 5, RFC 2347).
const (
	opRRQ   = 1
	opWRQ   = 2
	opDATA  = 3
	opACK   = 4
	opERROR = 5
	opOACK  = 6
)

// Error codes (RFC 1350 appendix, RFC 2347).
const (
	codeUndefined = 0
	codeNotFound  = 1
	codeAccess    = 2
	codeIllegal   = 4
	codeOptions   = 8
)

// maxRequest bounds a request packet in bytes: RFC 2347 says 512; some firmware goes a little over it.
const maxRequest = 2048

// Options a client may ask for. Zero means not asked.
type options struct {
	blockSize  int // bytes, 8..65464 (RFC 2348)
	windowSize int // blocks, 1..65535 (RFC 7440)
	timeout    int // seconds, 1..255 (RFC 2349)
	size       bool
	order      []string // names in lower case, in the client's order
}

// request is a read request.
type request struct {
	write   bool
	file    string
	mode    string
	options options
}

// same says that a request asks for the same.
func (r request) same(as request) bool {
	return r.file == as.file && r.mode == as.mode && r.options.blockSize == as.options.blockSize && r.options.windowSize == as.options.windowSize &&
		r.options.timeout == as.options.timeout && slices.Equal(r.options.order, as.options.order)
}

var errMalformed = errors.New("malformed request")

// parseRequest reads an RRQ or WRQ. Unknown options and values out of range are left out, as RFC 2347 section 2 demands.
func parseRequest(packet []byte) (request, error) {
	if len(packet) < 4 || len(packet) > maxRequest {
		return request{}, fmt.Errorf("%w: %d bytes", errMalformed, len(packet))
	}
	op := binary.BigEndian.Uint16(packet)
	if op != opRRQ && op != opWRQ {
		return request{}, fmt.Errorf("%w: opcode %d", errMalformed, op)
	}
	fields := strings.Split(string(packet[2:]), "\x00")
	if len(fields) < 3 || fields[0] == "" {
		return request{}, fmt.Errorf("%w: no file name or mode", errMalformed)
	}
	r := request{write: op == opWRQ, file: fields[0], mode: strings.ToLower(fields[1])}
	// The last field is what follows the final zero: empty in a right packet, padding in some firmware's.
	pairs := fields[2 : len(fields)-1]
	for i := 0; i+1 < len(pairs); i += 2 {
		r.options.set(strings.ToLower(pairs[i]), pairs[i+1])
	}
	return r, nil
}

func (o *options) set(name, value string) {
	number, err := strconv.Atoi(value)
	if err != nil {
		return
	}
	var target *int
	low, high := 1, 0
	switch name {
	case "blksize":
		target, low, high = &o.blockSize, 8, 65464
	case "windowsize":
		target, high = &o.windowSize, 65535
	case "timeout":
		target, high = &o.timeout, 255
	case "tsize":
		if !o.size {
			o.size = true
			o.order = append(o.order, name)
		}
		return
	}
	if target == nil || *target != 0 || number < low || number > high {
		return
	}
	*target = number
	o.order = append(o.order, name)
}

// oack is the option acknowledgement for what was granted, in the client's order.
func (o options) oack(size int64) []byte {
	packet := []byte{0, opOACK}
	for _, name := range o.order {
		value := size
		switch name {
		case "blksize":
			value = int64(o.blockSize)
		case "windowsize":
			value = int64(o.windowSize)
		case "timeout":
			value = int64(o.timeout)
		}
		packet = append(packet, name...)
		packet = append(packet, 0)
		packet = strconv.AppendInt(packet, value, 10)
		packet = append(packet, 0)
	}
	return packet
}

func errorPacket(code uint16, message string) []byte {
	packet := binary.BigEndian.AppendUint16([]byte{0, opERROR}, code)
	packet = append(packet, message...)
	return append(packet, 0)
}
