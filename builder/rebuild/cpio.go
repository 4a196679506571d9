package rebuild

import (
	"errors"
	"fmt"
	"strconv"
)

// entry is a file of a cpio archive.
type entry struct {
	name                     string
	mode, uid, gid, time     uint32
	major, minor, ino, links uint32
	data                     []byte
}

func (e entry) facts() []fact {
	return []fact{
		{"mode", fmt.Sprintf("%06o", e.mode)},
		{"owner", fmt.Sprintf("%d:%d", e.uid, e.gid)},
		{"time", fmt.Sprint(e.time)},
		{"device number", fmt.Sprintf("%d:%d", e.major, e.minor)},
		{"number of links", fmt.Sprint(e.links)},
	}
}

const (
	cpioHeader  = 6 + 13*8
	cpioTrailer = "TRAILER!!!"
	maxName     = 4096 // bytes of a path, PATH_MAX
)

var errCPIO = errors.New("not a newc cpio archive")

// readCPIO reads newc archives that follow each other, perhaps with zeros between them (Linux,
// Documentation/driver-api/early-userspace/buffer-format.rst). Data are parts of it.
func readCPIO(archive []byte) ([]entry, error) {
	var list []entry
	for at := 0; ; {
		if len(archive)-at < cpioHeader || string(archive[at:at+6]) != "070701" {
			return nil, fmt.Errorf("%w: no header at byte %d", errCPIO, at)
		}
		var fields [13]uint32
		for i := range fields {
			n, err := strconv.ParseUint(string(archive[at+6+8*i:at+14+8*i]), 16, 32)
			if err != nil {
				return nil, fmt.Errorf("%w: a header at byte %d with %q", errCPIO, at, archive[at+6+8*i:at+14+8*i])
			}
			fields[i] = uint32(n)
		}
		size, length := int(fields[6]), int(fields[11])
		name := at + cpioHeader
		if length < 1 || length > maxName || length > len(archive)-name {
			return nil, fmt.Errorf("%w: a name of %d bytes at byte %d", errCPIO, length, at)
		}
		data := (name + length + 3) &^ 3
		if size < 0 || data > len(archive) || size > len(archive)-data {
			return nil, fmt.Errorf("%w: a file of %d bytes at byte %d, and it ends at %d", errCPIO, size, at, len(archive))
		}
		e := entry{
			name: string(archive[name : name+length-1]), ino: fields[0], mode: fields[1], uid: fields[2], gid: fields[3], links: fields[4],
			time: fields[5], major: fields[9], minor: fields[10], data: archive[data : data+size : data+size],
		}
		at = (data + size + 3) &^ 3
		if e.name == cpioTrailer {
			for at < len(archive) && archive[at] == 0 {
				at++
			}
			if at >= len(archive) {
				return list, nil
			}
			continue
		}
		list = append(list, e)
		if at > len(archive) {
			return nil, fmt.Errorf("%w: it ends within a file", errCPIO)
		}
	}
}
