// Package storage has the file systems that a node keeps between boots: it makes them where there is none, has them checked
// where there is one, fits them to their partition, and mounts them.
//
// The programs that make and check file systems are the root image's: they run with that as their root folder. Which
// partition is meant is not decided here (agent/media, agent/drives), and nothing that holds something else is
// overwritten.
package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FormatExt4 is the file system of the state, and of volumes that say nothing else.
const FormatExt4 = "ext4"

// FileSystem is one that shall be there.
type FileSystem struct {
	Device string // /dev/vda7
	Label  string // at most 16 bytes are kept
	Format string // FormatExt4, or another that the image has mkfs and the kernel a driver for
}

// Tools are the root image's programs.
type Tools struct {
	Root string // folder where the root image is mounted
	Log  *slog.Logger
}

// ErrForeign is what errors wrap about a partition with something on it that is not the file system that was expected.
var ErrForeign = errors.New("it holds something else")

// Limits of programs: a check of a large file system reads much of it.
const (
	makeLimit  = 10 * time.Minute
	checkLimit = 30 * time.Minute
)

// Prepare makes the file system if the device is empty, and has it checked and repaired if it is there. Anything else on
// the device is ErrForeign. A make that was cut off is made anew: what tells a file system is written last.
func (t Tools) Prepare(ctx context.Context, fs FileSystem) error {
	found, err := Probe(fs.Device)
	if err != nil {
		return err
	}
	switch {
	case found == "":
		return t.create(ctx, fs)
	case found != fs.Format:
		return fmt.Errorf("cannot use %s (%s) as %s: %w: %s; wipe it if nobody needs that any more", fs.Device, fs.Label, fs.Format, ErrForeign, found)
	case found == FormatExt4:
		return t.check(ctx, fs)
	}
	return nil // others check themselves when they are mounted
}

// Unknown is what Probe says of a device with something on it that it doesn't know.
const Unknown = "unknown data"

// Probe tells what a device holds: the name of a file system, Unknown, or nothing when its first 4096 bytes are zeros.
func Probe(device string) (string, error) {
	f, err := os.Open(device)
	if err != nil {
		return "", fmt.Errorf("cannot look at %s: %w", device, err)
	}
	defer f.Close()
	head := make([]byte, 4096)
	if _, err := io.ReadFull(f, head); err != nil {
		return "", fmt.Errorf("cannot read %s: %w", device, err)
	}
	switch {
	case binary.LittleEndian.Uint16(head[1024+56:]) == 0xef53: // s_magic, Documentation/filesystems/ext4
		return FormatExt4, nil
	case string(head[:4]) == "XFSB":
		return "xfs", nil
	case bytes.Equal(head, make([]byte, len(head))):
		return "", nil
	}
	return Unknown, nil
}

func (t Tools) create(ctx context.Context, fs FileSystem) error {
	program := "mkfs." + fs.Format
	if _, err := os.Stat(filepath.Join(t.Root, "usr/sbin", program)); err != nil {
		return fmt.Errorf("cannot make file system %s on %s: the image has no %s", fs.Label, fs.Device, program)
	}
	args := []string{"-L", fs.Label[:min(len(fs.Label), 16)]}
	if fs.Format == FormatExt4 {
		args = append(args, "-q", "-F", "-m", "1", "-e", "remount-ro")
	}
	ctx, cancel := context.WithTimeout(ctx, makeLimit)
	defer cancel()
	began := time.Now()
	if out, _, err := t.run(ctx, program, append(args, fs.Device)...); err != nil {
		return fmt.Errorf("cannot make file system %s on %s: %w: %s", fs.Label, fs.Device, err, lastLine(out))
	}
	t.Log.Info("file system made", "device", fs.Device, "label", fs.Label, "format", fs.Format, "took", time.Since(began).Round(100*time.Millisecond))
	return nil
}

// check has e2fsck repair what can be repaired without asking. Its exit code is a sum: 1 and 2 are repaired faults (e2fsck(8)).
func (t Tools) check(ctx context.Context, fs FileSystem) error {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	out, code, err := t.run(ctx, "e2fsck", "-p", fs.Device)
	switch {
	case err == nil:
		return nil
	case code > 0 && code < 4:
		t.Log.Warn("file system repaired", "device", fs.Device, "e2fsck", lastLine(out))
		return nil
	}
	return fmt.Errorf("cannot repair file system %s on %s: e2fsck says: %s: repair it on another machine, or wipe it", fs.Label, fs.Device, lastLine(out))
}

// run runs a program of the root image. /dev is the kernel's there meanwhile.
func (t Tools) run(ctx context.Context, program string, args ...string) (output []byte, code int, err error) {
	dev := filepath.Join(t.Root, "dev")
	if err := unix.Mount("devtmpfs", dev, "devtmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755"); err != nil {
		return nil, -1, fmt.Errorf("cannot mount %s: %w", dev, err)
	}
	defer func() {
		if uerr := unix.Unmount(dev, unix.MNT_DETACH); uerr != nil && err == nil {
			err = fmt.Errorf("cannot unmount %s: %w", dev, uerr)
		}
	}()
	cmd := exec.CommandContext(ctx, "/usr/sbin/"+program, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin", "LC_ALL=C", "E2FSCK_CONFIG=/dev/null"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: t.Root}
	cmd.WaitDelay = 5 * time.Second
	output, err = cmd.CombinedOutput()
	if ctx.Err() != nil {
		return output, -1, fmt.Errorf("%s: %w", program, context.Cause(ctx))
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	return output, code, err
}

// lastLine is a program's last words, without what could write over a terminal.
func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(bytes.ToValidUTF8(out, []byte("?")))), "\n")
	line := lines[len(lines)-1]
	return line[:min(len(line), 300)]
}

// Mount mounts a prepared file system, and lets one of ext4 grow to the size of its device.
func (t Tools) Mount(fs FileSystem, target string, flags uintptr) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("cannot mount %s: %w", fs.Label, err)
	}
	if err := unix.Mount(fs.Device, target, fs.Format, flags, ""); err != nil {
		return fmt.Errorf("cannot mount %s (%s, %s) at %s: %w", fs.Label, fs.Device, fs.Format, target, err)
	}
	if fs.Format != FormatExt4 {
		return nil
	}
	grown, err := growExt4(fs.Device, target)
	if err != nil {
		t.Log.Warn("a file system stays smaller than its partition", "device", fs.Device, "cause", err)
	} else if grown {
		t.Log.Info("file system grown to the size of its partition", "device", fs.Device)
	}
	return nil
}

// ext4Resize is EXT4_IOC_RESIZE_FS (fs/ext4/ext4.h): _IOW('f', 16, __u64).
const ext4Resize = 1<<30 | 8<<16 | 'f'<<8 | 16

// growExt4 grows a mounted file system; what is left of a device, less than a 1/64 of it, is not worth the risk.
func growExt4(device, target string) (bool, error) {
	d, err := os.Open(device)
	if err != nil {
		return false, err
	}
	defer d.Close()
	size, err := d.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	super := make([]byte, 1024)
	if _, err := d.ReadAt(super, 1024); err != nil {
		return false, err
	}
	block := int64(1024) << (binary.LittleEndian.Uint32(super[24:]) & 7) // s_log_block_size
	blocks := int64(binary.LittleEndian.Uint32(super[4:])) | int64(binary.LittleEndian.Uint32(super[336:]))<<32
	if blocks*block >= size-size/64 {
		return false, nil
	}
	folder, err := os.Open(target)
	if err != nil {
		return false, err
	}
	defer folder.Close()
	want := uint64(size / block)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, folder.Fd(), ext4Resize, uintptr(unsafe.Pointer(&want))); e != 0 {
		return false, e
	}
	return true, nil
}
