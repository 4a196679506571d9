package initramfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"github.com/slipway-os/slipway/agent/install"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/disk"
	"github.com/slipway-os/slipway/images/manifest"
)

// mediumUKI reads the unified kernel image of this image from the medium's ESP.
func (b *boot) mediumUKI() ([]byte, error) {
	esp, ok := b.medium.Disk.Partition(bootspec.LabelESP)
	if !ok {
		return nil, errors.New("the medium has no ESP")
	}
	f, err := os.Open(b.medium.Drive.Path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the medium's ESP: %w", err)
	}
	defer f.Close()
	for _, file := range b.medium.Disk.Files {
		image, _, ok := bootspec.ParseBootEntry(path.Base(file.Path))
		if !ok || image != b.root.Image {
			continue
		}
		content, size, err := disk.OpenBootFile(f, esp, file.Path)
		if err != nil {
			return nil, err
		}
		if size > install.MaxUKI {
			return nil, fmt.Errorf("%s on the medium's ESP has %d bytes", file.Path, size)
		}
		data, err := io.ReadAll(io.LimitReader(content, size))
		if err != nil {
			return nil, fmt.Errorf("cannot read %s of the medium's ESP: %w", file.Path, err)
		}
		return data, nil
	}
	return nil, fmt.Errorf("the medium's ESP has no unified kernel image of %s", b.root.Image)
}

// serverUKI fetches it from the boot server, as big and with the digest that the manifest says. Where the image pins release keys, one
// of them must have signed both.
func (b *boot) serverUKI(ctx context.Context) ([]byte, error) {
	base, name := b.secure.URL+bootspec.RouteArtifacts, b.root.Image+bootspec.ExtManifest
	text, err := b.get(ctx, base+name, manifest.MaxSize)
	if err != nil {
		return nil, err
	}
	m, err := manifest.Decode(text)
	if err != nil {
		return nil, fmt.Errorf("cannot use the boot server's manifest: %w", err)
	}
	if is := bootspec.ArtifactBase(m.Role, m.Version, m.Arch); is != b.root.Image {
		return nil, fmt.Errorf("cannot use the boot server's manifest: it is of image %s", is)
	}
	signed, err := b.signedRelease(ctx, m.Version)
	if err != nil {
		return nil, err
	}
	if err := signed.vouch(name, text); err != nil {
		return nil, err
	}
	uki, ok := m.Artifact(manifest.KindUKI)
	if !ok || uki.Size > install.MaxUKI {
		return nil, errors.New("the boot server's manifest names no unified kernel image that can be installed")
	}
	data, err := b.get(ctx, base+uki.Name, uki.Size)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	if got := hex.EncodeToString(sum[:]); got != uki.SHA256 || int64(len(data)) != uki.Size {
		return nil, fmt.Errorf("SHA-256 of %s from the boot server is %s (%d bytes), its manifest says %s (%d bytes)", uki.Name, got, len(data), uki.SHA256, uki.Size)
	}
	if err := signed.vouch(uki.Name, data); err != nil {
		return nil, err
	}
	b.vouched = signed.words()
	return data, nil
}

// getTries is how often something is asked of the boot server.
const getTries = 5

// get fetches at most limit bytes into memory, over TLS. A transfer that fails is tried again a few times, unless the server says that
// it has nothing else.
func (b *boot) get(ctx context.Context, address string, limit int64) ([]byte, error) {
	for try, pause := 1, time.Second; ; try, pause = try+1, 2*pause {
		data, _, again, err := getOnce(ctx, b.claimant, address, limit, 5*time.Minute)
		if err == nil {
			return data, nil
		}
		if !again || try == getTries || ctx.Err() != nil {
			return nil, fmt.Errorf("cannot fetch %s: %w", address, err)
		}
		b.log.Warn("cannot fetch from the boot server, trying again", "address", address, "cause", err, "in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}
