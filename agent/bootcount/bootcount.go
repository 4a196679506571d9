// Package bootcount tells the boot loader that an image is good: the boot entry that still has to prove itself, with a
// counter in its file name, loses it (UAPI specification "Automatic Boot Assessment"). An entry that never loses it is
// given up after some boots, and the loader prefers the other slot's.
package bootcount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Bless mounts an ESP at a folder, which is made, and renames the entry of an image there. What was written so far, on
// any file system, is durable before. It returns the entry's new name; empty: it had no counter. Done twice it does nothing.
func Bless(device, folder, image string) (entry string, err error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", fmt.Errorf("cannot mark the boot entry as good: %w", err)
	}
	unix.Sync() // an image that lost what it wrote has not proved itself
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME
	if err := unix.Mount(device, folder, "vfat", flags, "umask=0077,errors=remount-ro"); err != nil {
		return "", fmt.Errorf("cannot mark the boot entry as good: cannot mount the ESP %s: %w: it may be damaged", device, err)
	}
	defer func() {
		if uerr := unix.Unmount(folder, 0); uerr != nil && err == nil {
			err = fmt.Errorf("cannot unmount the ESP %s: %w", device, uerr)
		}
		_ = os.Remove(folder)
	}()
	return Rename(folder, image)
}

// Rename takes the counter off an image's boot entry below the folder of an ESP. Among several, the plain one is kept or
// comes to be, and counted ones of the same image go.
func Rename(esp, image string) (entry string, err error) {
	root, err := os.OpenRoot(esp)
	if err != nil {
		return "", fmt.Errorf("cannot mark the boot entry as good: %w", err)
	}
	defer root.Close()
	list, err := fs.ReadDir(root.FS(), bootspec.UKIDirectory)
	if err != nil {
		return "", fmt.Errorf("cannot mark the boot entry as good: %w", err)
	}
	var counted []string
	plain := false
	for _, e := range list {
		if name, count, ok := bootspec.ParseBootEntry(e.Name()); ok && name == image && !e.IsDir() {
			if plain = plain || !count.Counted; count.Counted {
				counted = append(counted, e.Name())
			}
		}
	}
	switch {
	case len(counted) == 0 && !plain:
		return "", fmt.Errorf("cannot mark the boot entry as good: there is none of %s in %s", image, bootspec.UKIDirectory)
	case len(counted) == 0:
		return "", nil
	}
	entry = image + bootspec.ExtUKI
	for _, name := range counted {
		if plain {
			err = errors.Join(err, root.Remove(filepath.Join(bootspec.UKIDirectory, name)))
			continue
		}
		err = errors.Join(err, root.Rename(filepath.Join(bootspec.UKIDirectory, name), filepath.Join(bootspec.UKIDirectory, entry)))
		plain = err == nil
	}
	if err = errors.Join(err, syncFolder(root)); err != nil {
		return "", fmt.Errorf("cannot mark the boot entry as good: %w", err)
	}
	return entry, nil
}

func syncFolder(root *os.Root) error {
	folder, err := root.Open(bootspec.UKIDirectory)
	if err != nil {
		return err
	}
	defer folder.Close()
	return unix.Syncfs(int(folder.Fd()))
}
