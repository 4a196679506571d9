package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-os/slipway/builder/kv"
)

const (
	// cutSize is the size in bytes of the file system that loses its power.
	cutSize = 1 << 30
	cutRate = 250 // leases a second that are asked for, which each server keeps up with
	// cutAfter is how long leases have been asked for then.
	cutAfter = dhcpSeconds * time.Second / 2
)

// cut says how many of the leases that a server has acknowledged are there after its machine has lost its power: the server's folder is on
// a device of its own. While leases are asked for the server is killed, and the device copied as it is. What the kernel holds and hasn't
// written isn't in the copy.
func (s dhcpServer) cut(dir string, number int) (_ string, err error) {
	n, err := newNamespaces(number)
	if err != nil {
		return "", err
	}
	defer n.remove()
	device, after := filepath.Join(dir, "device"), filepath.Join(dir, "after")
	if err := makeDevice(device); err != nil {
		return "", err
	}
	disk, err := mount(device)
	if err != nil {
		return "", err
	}
	acks, err := n.acknowledged(s, disk, func() error { return command("cp", "--sparse=always", device, after) })
	if err = errors.Join(err, command("umount", disk)); err != nil {
		return "", fmt.Errorf("%s: %w", s.name, err)
	}
	if disk, err = mount(after); err != nil {
		return "", err
	}
	leases, err := s.leases(n, disk)
	if err = errors.Join(err, command("umount", disk)); err != nil {
		return "", fmt.Errorf("%s, after the power cut: %w", s.name, err)
	}
	kept := fmt.Sprintf("%d of %d", min(leases, acks), acks)
	fmt.Fprintf(os.Stderr, "figures: %s: after a power cut there are, of the leases that it acknowledged: %s\n", s.name, kept)
	return kept, os.RemoveAll(dir)
}

// acknowledged has a server in a folder acknowledge leases, kills it and does what comes next, all the while leases are asked for. It says
// how many were acknowledged.
func (n *namespaces) acknowledged(s dhcpServer, dir string, next func() error) (int, error) {
	server, err := s.start(n, dir)
	if err != nil {
		return 0, err
	}
	defer server.kill()
	if err := n.answers(dir, server[0].ended); err != nil {
		return 0, err
	}
	cut := make(chan error, 1)
	time.AfterFunc(cutAfter, func() {
		server.kill()
		cut <- next()
	})
	said, err := n.perf(dhcpMeasure, "-r", strconv.Itoa(cutRate), "-R", "60000", "-p", strconv.Itoa(dhcpSeconds), "-W", "100000", "-x", "t")
	if err := errors.Join(err, <-cut); err != nil {
		return 0, err
	}
	l, err := readPerf(said)
	if err != nil {
		return 0, fmt.Errorf("%w:\n%.2000s", err, said)
	}
	return l.acks, nil
}

// makeDevice makes a file with an empty file system.
func makeDevice(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(file, cutSize); err != nil {
		return err
	}
	return command("mkfs.ext4", "-q", "-F", file)
}

// mount mounts a file beside it.
func mount(file string) (dir string, err error) {
	dir = file + ".d"
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	return dir, command("mount", "-o", "loop", file, dir)
}

// command runs a program of the machine to its end.
func command(words ...string) error {
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, out)
	}
	return nil
}

// slipwayLeases are those in our store, after it has read itself.
func slipwayLeases(_ *namespaces, dir string) (int, error) {
	folder, err := os.OpenRoot(filepath.Join(dir, "state"))
	if err != nil {
		return 0, err
	}
	defer folder.Close()
	const file = "state.db"
	if _, err := folder.Stat(file); err != nil {
		return 0, err // it would be made
	}
	store, err := kv.OpenBolt(folder, file)
	if err != nil {
		return 0, err
	}
	entries, err := store.List("lease/")
	return len(entries), errors.Join(err, store.Close())
}

// dnsmasqLeases are the lines of its file, which has another one for its own identity with DHCPv6 only.
func dnsmasqLeases(_ *namespaces, dir string) (int, error) {
	return lines(filepath.Join(dir, "leases"))
}

// keaLeases are the lines of memfile's file after the first, which names the columns.
func keaLeases(_ *namespaces, dir string) (int, error) {
	count, err := lines(filepath.Join(dir, "leases.csv"))
	return max(0, count-1), err
}

// lines are the whole lines of a file; none where it isn't there.
func lines(file string) (int, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	return bytes.Count(text, []byte("\n")), err
}
