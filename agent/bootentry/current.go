package bootentry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
)

// Card is the network card that firmware has booted over, and how.
type Card struct {
	MAC  net.HardwareAddr
	VLAN int // the tag (IEEE 802.1Q) that firmware puts on its frames; 0: none
}

// Device path nodes (UEFI specification 2.10, section 10.3.4): messaging device paths and the end of all.
const (
	typeMessaging = 3
	subtypeMAC    = 11
	subtypeVLAN   = 20
	typeEnd       = 0x7f
)

// Booted reads the load option that firmware has started (BootCurrent, section 3.3), as far as it tells of a network card: the zero Card when
// it was none, or firmware doesn't say.
func Booted(folder string) (Card, error) {
	fail := func(err error) (Card, error) {
		return Card{}, fmt.Errorf("cannot read what the firmware has booted: %w", err)
	}
	current, err := get(folder, "BootCurrent")
	if errors.Is(err, fs.ErrNotExist) {
		return Card{}, nil
	}
	if err == nil && len(current) != 2 {
		err = fmt.Errorf("variable BootCurrent has %d bytes", len(current))
	}
	if err != nil {
		return fail(err)
	}
	name := optionName(int(binary.LittleEndian.Uint16(current)))
	option, err := get(folder, name)
	if errors.Is(err, fs.ErrNotExist) {
		return Card{}, nil
	}
	if err != nil {
		return fail(err)
	}
	c, err := cardOf(option)
	if err != nil {
		return fail(fmt.Errorf("variable %s: %w", name, err))
	}
	return c, nil
}

// cardOf is the network card of a load option's device path.
func cardOf(option []byte) (c Card, err error) {
	const fixed = 6 // attributes, length of the device path
	if len(option) < fixed {
		return c, errors.New("it is cut off")
	}
	_, path := description(option)
	if path == nil {
		return c, errors.New("its description doesn't end")
	}
	size := int(binary.LittleEndian.Uint16(option[4:]))
	if size > len(path) {
		return c, errors.New("its device path is cut off")
	}
	for path = path[:size]; len(path) >= 4 && path[0] != typeEnd; {
		length := int(binary.LittleEndian.Uint16(path[2:]))
		if length < 4 || length > len(path) {
			return Card{}, errors.New("its device path is damaged")
		}
		body := path[4:length]
		switch {
		case path[0] == typeMessaging && path[1] == subtypeMAC && len(body) >= 6:
			c.MAC = net.HardwareAddr(append([]byte(nil), body[:6]...))
		case path[0] == typeMessaging && path[1] == subtypeVLAN && len(body) >= 2:
			c.VLAN = int(binary.LittleEndian.Uint16(body) & 0xfff)
		}
		path = path[length:]
	}
	if c.MAC == nil {
		return Card{}, nil
	}
	return c, nil
}
