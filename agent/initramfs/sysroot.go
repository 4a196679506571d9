package initramfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

// sysroot is where the root file system is mounted.
const sysroot = "/sysroot"

// overlays is where /etc's changes are kept: in memory, below /run.
const overlays = bootspec.RunDirectory + "/overlay"

// varInMemory is /var where no state is kept. Containers' file systems and the kubelet's volumes live there: no limits on
// what a file is or does.
func varInMemory() mount { return mount{"tmpfs", "/var", "tmpfs", 0, "mode=0755,size=75%"} }

// writable folders live in memory, with the image's content copied in. /tmp is systemd's (tmp.mount).
func writable() []mount {
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	return []mount{
		{"tmpfs", "/home", "tmpfs", flags, "mode=0755"},
		{"tmpfs", "/root", "tmpfs", flags, "mode=0700"},
		{"tmpfs", "/opt", "tmpfs", 0, "mode=0755"},
		{"tmpfs", "/srv", "tmpfs", flags, "mode=0755"},
	}
}

// mountRoot mounts the root image with /etc and the other writable folders over it; /var comes with the storage.
func (b *boot) mountRoot(context.Context) error {
	if err := (mount{b.device, sysroot, "squashfs", unix.MS_RDONLY, ""}).do(); err != nil {
		return fmt.Errorf("%w: if the kernel says that verity found a block corrupted, the image is damaged", err)
	}
	if err := overlay("/etc"); err != nil {
		return err
	}
	for _, m := range writable() {
		if err := fill(m); err != nil {
			return err
		}
	}
	b.log.Info("root file system is mounted", "release", releaseName())
	return nil
}

// overlay makes a folder of the image writable: changes go to memory.
func overlay(folder string) error {
	lower := sysroot + folder
	upper, work := overlays+folder+"/upper", overlays+folder+"/work"
	for _, dir := range []string{upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot make %s writable: %w", folder, err)
		}
	}
	// Only root may look below: the upper folder holds a node's keys without the folders' own protection.
	if err := os.Chmod(overlays, 0o700); err != nil {
		return fmt.Errorf("cannot make %s writable: %w", folder, err)
	}
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)
	return mount{"overlay", lower, "overlay", 0, data}.do()
}

// fill mounts a tmpfs over a folder of the image and copies the folder's content into it. An image without the folder has
// no use for it.
func fill(m mount) error {
	folder := m.target
	m.target = sysroot + folder
	before, err := os.Open(m.target) // stays the image's folder when something is mounted over it
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer before.Close()
	if err := m.do(); err != nil {
		return err
	}
	return copyBelow(before, folder)
}

// copyBelow copies a folder of the image into what was mounted over it.
func copyBelow(image *os.File, folder string) error {
	if err := copyTree(fmt.Sprintf("/proc/self/fd/%d", image.Fd()), sysroot+folder); err != nil {
		return fmt.Errorf("cannot copy what the image has in %s: %w", folder, err)
	}
	return nil
}

// copyTree copies folders, files and links with modes and owners; what is there already stays as it is. from itself must be
// a folder and is followed.
func copyTree(from, to string) error {
	root, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer root.Close()
	src, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer src.Close()
	return fs.WalkDir(src.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return copyEntry(src, root, path, info)
	})
}

func copyEntry(src, dst *os.Root, path string, info fs.FileInfo) error {
	var err error
	switch info.Mode().Type() {
	case fs.ModeDir:
		err = dst.Mkdir(path, 0o700)
	case fs.ModeSymlink:
		var target string
		if target, err = src.Readlink(path); err == nil {
			err = dst.Symlink(target, path)
		}
	case 0:
		err = copyFile(src, dst, path)
	default:
		return nil // devices and sockets have no place in an image's /var
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return own(dst, path, info)
}

// own gives a copy the owner and the mode of its source.
func own(dst *os.Root, path string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: no owner known", path)
	}
	if err := dst.Lchown(path, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if info.Mode().Type() == fs.ModeSymlink {
		return nil
	}
	return dst.Chmod(path, info.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky))
}

// copyFile copies a file that is not there yet; it appears whole.
func copyFile(src, dst *os.Root, path string) error {
	if _, err := dst.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return cmp.Or(err, fs.ErrExist)
	}
	in, err := src.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	beside := path + ".slipway-new"
	out, err := dst.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return err
	}
	return dst.Rename(beside, path)
}

// releaseName is the image's own name, for the log.
func releaseName() string {
	data, err := os.ReadFile(filepath.Join(sysroot, bootspec.ImageRelease))
	if err != nil {
		return "unnamed"
	}
	return strings.Join(strings.Fields(string(data)), " ")
}
