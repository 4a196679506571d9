package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/slipway-os/slipway/images/bootspec"
)

// ResolvConf is the content of /etc/resolv.conf for a network: the same bytes for the same document.
func ResolvConf(n bootspec.Network) []byte {
	var b strings.Builder
	b.WriteString("# Written by slipway-agent from the node document.\n")
	for _, a := range n.DNS {
		fmt.Fprintf(&b, "nameserver %v\n", a)
	}
	if len(n.Domains) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(n.Domains, " "))
	}
	return []byte(b.String())
}

// WriteResolvConf replaces resolv.conf in a folder (/etc); a link by that name is replaced, not followed.
func WriteResolvConf(etc *os.Root, n bootspec.Network) error {
	if err := replaceFile(etc, "resolv.conf", ResolvConf(n)); err != nil {
		return fmt.Errorf("cannot write resolv.conf: %w", err)
	}
	return nil
}

// replaceFile writes beside, and renames.
func replaceFile(dir *os.Root, name string, data []byte) (err error) {
	temporary := "." + name + ".slipway"
	if err := dir.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := dir.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, werr := f.Write(data)
	if err := errors.Join(werr, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, dir.Remove(temporary))
	}
	return dir.Rename(temporary, name)
}
