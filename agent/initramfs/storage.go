package initramfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/agent/drives"
	"github.com/slipway-os/slipway/agent/media"
	"github.com/slipway-os/slipway/agent/modules"
	"github.com/slipway-os/slipway/agent/provision"
	"github.com/slipway-os/slipway/agent/storage"
	"github.com/slipway-os/slipway/images/bootspec"
)

// driveLimit is how long a drive that the node document names is waited for.
const driveLimit = 30 * time.Second

// volumePrefix begins the label of a volume's partition.
const volumePrefix = "slipway-data-"

// mountStorage mounts what the node keeps, as its document says: its state as /var, and its volumes. What cannot be had as
// the document says it stops the boot: a node that silently forgets is worse than one that does not start.
func (b *boot) mountStorage(ctx context.Context) error {
	node, err := provision.NodeDocument(b.config)
	if err != nil {
		return stopError{err}
	}
	if node.Storage == nil {
		node.Storage = &bootspec.Storage{}
	}
	if err := b.mountState(ctx, node); err != nil {
		return err
	}
	for _, v := range node.Storage.Data {
		if err := b.mountVolume(ctx, v); err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	return nil
}

func (b *boot) tools() storage.Tools { return storage.Tools{Root: sysroot, Log: b.log} }

// mountState mounts /var, from the state partition or from memory.
func (b *boot) mountState(ctx context.Context, node bootspec.Node) error {
	device, err := b.stateDevice(ctx, node.Storage.State)
	if err != nil {
		return err
	}
	if device == "" {
		return fill(varInMemory())
	}
	state := storage.FileSystem{Device: device, Label: bootspec.LabelState, Format: storage.FormatExt4}
	b.loadFileSystem(state.Format)
	if err := b.tools().Prepare(ctx, state); err != nil {
		return stopError{err}
	}
	before, err := os.Open(sysroot + "/var") // stays the image's folder when something is mounted over it
	if err != nil {
		return err
	}
	defer before.Close()
	if err := b.tools().Mount(state, stateFolder, 0); err != nil {
		return err
	}
	folder, err := nodeFolder(stateFolder, node)
	if err == nil {
		err = b.forget(stateFolder, folder)
	}
	if err != nil {
		return stopError{fmt.Errorf("state on %s: %w", device, err)}
	}
	if err := unix.Mount(folder, sysroot+"/var", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot mount %s at /var: %w", folder, err)
	}
	if err := copyBelow(before, "/var"); err != nil {
		return err
	}
	b.log.Info("state is mounted at /var", "device", device, "folder", strings.TrimPrefix(folder, stateFolder+"/"))
	return nil
}

// stateDevice is the block device of the state; empty: the state is kept in memory.
func (b *boot) stateDevice(ctx context.Context, match *bootspec.DiskMatch) (string, error) {
	p, ok := b.statePartition()
	if match != nil {
		d, err := b.chooseDrive(ctx, *match)
		if err != nil {
			return "", fmt.Errorf("the state's drive: %w", err)
		}
		if b.medium == nil || d.Name != b.medium.Drive.Name {
			device, err := media.Place(d, bootspec.LabelState, 0, "")
			if err != nil {
				return "", stopError{fmt.Errorf("the state's drive: %w: choose another, or wipe it if nobody needs that", err)}
			}
			return device, nil
		}
	}
	if !ok {
		if b.medium != nil {
			b.log.Info("the medium cannot be written or is too small: the state is kept in memory")
		}
		return "", nil
	}
	return b.medium.Device(p, true)
}

// chooseDrive finds the drive that a document means, and shows why if it is none. Drives may need drivers that others do not.
func (b *boot) chooseDrive(ctx context.Context, match bootspec.DiskMatch) (drives.Drive, error) {
	ctx, cancel := context.WithTimeout(ctx, driveLimit)
	defer cancel()
	for {
		b.moreModules()
		look, stop := context.WithTimeout(ctx, time.Second)
		d, table, err := drives.Await(look, "/sys", match, nil)
		stop()
		if errors.Is(err, drives.ErrNone) && ctx.Err() == nil && match != (bootspec.DiskMatch{}) {
			continue
		}
		if err != nil {
			for _, line := range table.Lines() {
				b.log.Warn(line)
			}
		}
		return d, err
	}
}

// mountVolume makes a volume if it isn't there, and mounts it.
func (b *boot) mountVolume(ctx context.Context, v bootspec.Volume) error {
	if err := checkMount(v.Mount); err != nil {
		return stopError{err}
	}
	d, err := b.chooseDrive(ctx, v.Disk)
	if err != nil {
		return err
	}
	if b.medium != nil && d.Name == b.medium.Drive.Name {
		return stopError{fmt.Errorf("%s is the drive this machine boots from, and all that is free there is the state's: choose another", d.Path)}
	}
	device, err := media.Place(d, volumePrefix+v.Name, v.Size, v.Overwrite)
	if err != nil {
		return stopError{err}
	}
	fs := storage.FileSystem{Device: device, Label: v.Name, Format: cmp.Or(v.Format, storage.FormatExt4)}
	b.loadFileSystem(fs.Format)
	if err := b.tools().Prepare(ctx, fs); err != nil {
		return stopError{err}
	}
	if err := b.tools().Mount(fs, sysroot+v.Mount, unix.MS_NODEV); err != nil {
		return err
	}
	b.log.Info("volume is mounted", "name", v.Name, "device", device, "at", v.Mount)
	return nil
}

// checkMount wants a folder below one that can be written.
func checkMount(path string) error {
	for _, top := range []string{"/var/", "/srv/", "/opt/", "/home/"} {
		if strings.HasPrefix(path, top) && path == filepath.Clean(path) {
			return nil
		}
	}
	return fmt.Errorf("it cannot be mounted at %q: only below /var, /srv, /opt and /home", path)
}

// stateFolder is where the state's file system is mounted.
const stateFolder = bootspec.RunDirectory + "/state"

// nodeFolder makes a node's folder in the state, CLUSTER/NODE: another node's identity, its part of etcd and its containers
// are not this node's, and a medium may get another node's configuration.
func nodeFolder(state string, node bootspec.Node) (string, error) {
	for _, name := range []string{node.Cluster, node.Name} {
		if name == "" || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "/\x00") || name == "lost+found" {
			return "", fmt.Errorf("the node %q of cluster %q cannot have a folder of that name", node.Name, node.Cluster)
		}
	}
	root, err := os.OpenRoot(state)
	if err != nil {
		return "", err
	}
	defer root.Close()
	folder := filepath.Join(node.Cluster, node.Name)
	// Only root may look at what other nodes have left.
	if err := errors.Join(root.Chmod(".", 0o700), root.MkdirAll(folder, 0o755)); err != nil {
		return "", fmt.Errorf("cannot make the node's folder: %w", err)
	}
	return filepath.Join(state, folder), nil
}

// forgotten is where a node's folder goes before it is deleted: a power cut in the middle leaves no half of a state.
const forgotten = ".forgotten"

// forget empties a node's folder when an operator has asked for that (bootspec.ResetMarker), and ends what an earlier boot has
// not come to the end of.
func (b *boot) forget(state, folder string) error {
	leaving := filepath.Join(state, forgotten)
	_, err := os.Lstat(filepath.Join(folder, bootspec.ResetMarker))
	if err == nil {
		b.log.Info("the state is forgotten: this node was reset", "folder", folder)
		err = errors.Join(os.RemoveAll(leaving), os.Rename(folder, leaving), os.Mkdir(folder, 0o755))
	} else if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err := errors.Join(err, os.RemoveAll(leaving)); err != nil {
		return fmt.Errorf("cannot forget the node's state: %w", err)
	}
	return nil
}

// loadFileSystem loads a file system's driver, from the root image if the initrd hasn't it.
func (b *boot) loadFileSystem(name string) {
	if b.loader.Load(name) == nil {
		return
	}
	loader, err := modules.NewLoader(filepath.Join(sysroot, "usr/lib/modules", kernelRelease()), b.log)
	if err == nil {
		err = loader.Load(name)
	}
	if err != nil {
		b.log.Debug(err.Error()) // built in; a mount tells
	}
}
