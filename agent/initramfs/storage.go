package initramfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	if err := b.tools().Mount(state, sysroot+"/var", 0); err != nil {
		return err
	}
	if err := claimState(sysroot+"/var", node.Cluster+"/"+node.Name); err != nil {
		return stopError{fmt.Errorf("state on %s: %w", device, err)}
	}
	if err := copyBelow(before, "/var"); err != nil {
		return err
	}
	b.log.Info("state is mounted at /var", "device", device)
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
			return stopping(media.Place(d, bootspec.LabelState, 0))
		}
	}
	if !ok {
		if b.medium != nil {
			b.log.Info("nothing can be written to the medium: the state is kept in memory")
		}
		return "", nil
	}
	return b.medium.Device(p, true)
}

// stopping makes an error one that another try would not mend.
func stopping(device string, err error) (string, error) {
	if err != nil {
		return "", stopError{err}
	}
	return device, nil
}

// chooseDrive finds the drive that a document means, and shows why if it is none.
func (b *boot) chooseDrive(ctx context.Context, match bootspec.DiskMatch) (drives.Drive, error) {
	ctx, cancel := context.WithTimeout(ctx, driveLimit)
	defer cancel()
	b.moreModules()
	d, table, err := drives.Await(ctx, "/sys", match, nil)
	if err != nil {
		for _, line := range table.Lines() {
			b.log.Warn(line)
		}
	}
	return d, err
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
	device, err := media.Place(d, volumePrefix+v.Name, v.Size)
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

// owner is the file on the state that says whose it is.
const owner = "lib/slipway/owner"

// claimState writes whose state it is, or checks it: another node's identity, its part of etcd and its containers are not
// this node's.
func claimState(folder, name string) error {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	was, err := root.ReadFile(owner)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.Join(root.MkdirAll(filepath.Dir(owner), 0o755), root.WriteFile(owner, []byte(name+"\n"), 0o644))
	case err != nil:
		return fmt.Errorf("cannot tell whose it is: %w", err)
	case strings.TrimSpace(string(was)) == "": // its writing was cut off
		return root.WriteFile(owner, []byte(name+"\n"), 0o644)
	case strings.TrimSpace(string(was)) != name:
		return fmt.Errorf("it is %q's, and this is %s: wipe that partition, or flash the whole medium again, to make it this node's",
			strings.TrimSpace(string(was[:min(len(was), 600)])), name)
	}
	return nil
}

// loadFileSystem loads a file system's driver from the root image: the initrd hasn't it.
func (b *boot) loadFileSystem(name string) {
	loader, err := modules.NewLoader(filepath.Join(sysroot, "usr/lib/modules", kernelRelease()), b.log)
	if err == nil {
		err = loader.Load(name)
	}
	if err != nil {
		b.log.Debug(err.Error()) // built in; a mount tells
	}
}
