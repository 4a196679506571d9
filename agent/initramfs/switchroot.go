package initramfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

// switchRoot hands over to systemd: the boot record, the mounts, the process. The initramfs' memory is given back.
func (b *boot) switchRoot(ctx context.Context) error {
	program, err := findInit()
	if err != nil {
		return err
	}
	if err := b.writeRecord(ctx); err != nil {
		return err
	}
	b.log.Info("starting " + program)
	for _, m := range kernelMounts() {
		target := sysroot + m.target
		if err := unix.Mount(m.target, target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("cannot move %s to %s: %w", m.target, target, err)
		}
	}
	if err := empty("/"); err != nil {
		b.log.Warn("cannot give all of the initramfs' memory back", "cause", err)
	}
	if err := os.Chdir(sysroot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("cannot move %s to /: %w", sysroot, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("cannot change the root folder: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	err = unix.Exec(program, []string{program}, []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "TERM=linux"})
	return fmt.Errorf("cannot start %s: %w", program, err)
}

// findInit is the image's init.
func findInit() (string, error) {
	for _, p := range []string{"/usr/lib/systemd/systemd", "/usr/sbin/init", "/sbin/init"} {
		if st, err := os.Stat(sysroot + p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", errors.New("cannot find init in the root image: there is no /usr/lib/systemd/systemd and no /usr/sbin/init")
}

// handoverWait is how long the boot waits for reports to be delivered; the others go on with the next stage.
const handoverWait = 2 * time.Second

// writeRecord tells the running system's agent what happened.
func (b *boot) writeRecord(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, handoverWait)
	defer cancel()
	_ = b.sender.Flush(ctx) // what it can't deliver is pending
	var over *bootspec.Secure
	if b.secure.URL != "" {
		over = &b.secure
	}
	record, err := json.MarshalIndent(bootspec.BootState{
		MAC: b.lease.MAC, Server: b.lease.Server, Secure: over, Image: b.root.Image, ESP: b.espDevice(), Config: b.configDevice(), Pending: b.sender.Pending(),
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(bootspec.BootRecord, append(record, '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot write the boot record: %w", err)
	}
	return nil
}

// empty removes everything on one file system below dir: the initramfs, to give its memory back. It doesn't touch what is
// mounted there.
func empty(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	device, err := deviceOf(root, ".")
	if err != nil {
		return err
	}
	var all []error
	var dirs []string
	err = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			all = append(all, err)
			return nil
		}
		if path == "." {
			return nil
		}
		if !d.IsDir() {
			all = append(all, root.Remove(path))
			return nil
		}
		if dev, err := deviceOf(root, path); err != nil || dev != device {
			return filepath.SkipDir
		}
		dirs = append(dirs, path)
		return nil
	})
	for i := len(dirs) - 1; i >= 0; i-- {
		_ = root.Remove(dirs[i]) // mount points stay
	}
	return errors.Join(append(all, err)...)
}

func deviceOf(root *os.Root, path string) (uint64, error) {
	info, err := root.Lstat(path)
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("%s: no device known", path)
	}
	return st.Dev, nil
}
