// Package renewal gives a running node a newer configuration of its own: new certificates and keys, and what the cluster
// document says now, as far as that needs no reboot.
//
// Everything that can be wrong is found before the first file changes. It writes files and, on a medium, the configuration for
// the next boot; which units read the files again is the caller's matter.
package renewal

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Plan is a renewal that was found to be right.
type Plan struct {
	Files []string  // that change, in order
	Later []string  // that would change, and count from the next boot on
	Until time.Time // when the first of the new certificates ends

	root     string
	contents map[string]content
}

// content is a file of the configuration.
type content struct {
	data []byte
	mode fs.FileMode
}

// Check reads an Ignition configuration for the node whose files are below root ("/" but for tests) and compares it with them.
// An error says what is wrong with it; nothing was changed.
func Check(root string, document []byte, now time.Time) (*Plan, error) {
	fail := func(err error) (*Plan, error) { return nil, fmt.Errorf("cannot renew this node: %w", err) }
	contents, err := read(document)
	if err != nil {
		return fail(err)
	}
	p := &Plan{root: root, contents: contents}
	if err := p.sameNode(); err != nil {
		return fail(err)
	}
	if err := p.knownAuthorities(); err != nil {
		return fail(err)
	}
	if p.Until, err = certificates(contents, now); err != nil {
		return fail(err)
	}
	for path, c := range contents {
		old, err := os.ReadFile(p.at(path))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fail(err)
		}
		switch {
		case err == nil && bytes.Equal(old, c.data):
		case ours(path):
			p.Files = append(p.Files, path)
		default:
			p.Later = append(p.Later, path)
		}
	}
	slices.Sort(p.Files)
	slices.Sort(p.Later)
	return p, nil
}

func (p *Plan) at(path string) string { return filepath.Join(p.root, path) }

// ours tells whether a file of the configuration is replaced in the running system. The other files are the user's own, and
// nobody knows who reads them when.
func ours(path string) bool {
	return strings.HasPrefix(path, bootspec.KubeconfigDirectory+"/") || strings.HasPrefix(path, filepath.Dir(bootspec.NodeDocument)+"/") || path == "/etc/hosts"
}

// dataURL is how the builder writes contents.
const dataURL = "data:;base64,"

// read takes the files out of a configuration that the builder made. Files that users added in other forms are not read.
func read(document []byte) (map[string]content, error) {
	var config struct {
		Ignition struct{ Version string }
		Storage  struct {
			Files []struct {
				Path     string
				Mode     *uint32
				Contents struct{ Source, Compression *string }
			}
		}
	}
	if err := json.Unmarshal(document, &config); err != nil {
		return nil, fmt.Errorf("it is no Ignition configuration: %w", err)
	}
	if !strings.HasPrefix(config.Ignition.Version, "3.") {
		return nil, fmt.Errorf("it is no Ignition configuration of version 3 (%.20q)", config.Ignition.Version)
	}
	contents := map[string]content{}
	for _, f := range config.Storage.Files {
		if f.Contents.Source == nil || !strings.HasPrefix(*f.Contents.Source, dataURL) || f.Contents.Compression != nil && *f.Contents.Compression != "" {
			continue
		}
		if !filepath.IsAbs(f.Path) || filepath.Clean(f.Path) != f.Path {
			return nil, fmt.Errorf("%.100q is not the path of a file", f.Path)
		}
		data, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(*f.Contents.Source, dataURL))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Path, err)
		}
		c := content{data: data, mode: 0o600}
		if f.Mode != nil {
			c.mode = fs.FileMode(*f.Mode).Perm()
		}
		contents[f.Path] = c
	}
	return contents, nil
}

// sameNode wants the configuration to be this node's, and to differ in nothing that takes a reboot.
func (p *Plan) sameNode() error {
	newer, ok := p.contents[bootspec.NodeDocument]
	if !ok {
		return fmt.Errorf("the configuration has no %s", bootspec.NodeDocument)
	}
	data, err := os.ReadFile(p.at(bootspec.NodeDocument))
	if err != nil {
		return err
	}
	is, err := bootspec.ParseNode(data)
	if err != nil {
		return fmt.Errorf("%s: %w", bootspec.NodeDocument, err)
	}
	becomes, err := bootspec.ParseNode(newer.data)
	if err != nil {
		return fmt.Errorf("%s of the configuration: %w", bootspec.NodeDocument, err)
	}
	if is.Cluster != becomes.Cluster || is.Name != becomes.Name || is.Role != becomes.Role {
		return fmt.Errorf("the configuration is of %s %s of cluster %s, and this is %s %s of cluster %s",
			becomes.Role, becomes.Name, becomes.Cluster, is.Role, is.Name, is.Cluster)
	}
	for _, part := range []struct {
		name     string
		old, new any
	}{
		{"network", is.Network, becomes.Network}, {"storage", is.Storage, becomes.Storage}, {"install", is.Install, becomes.Install},
	} {
		if !reflect.DeepEqual(part.old, part.new) {
			return fmt.Errorf("its %s has changed in the cluster document: that takes a reboot with the new configuration", part.name)
		}
	}
	return nil
}

// Write replaces the files: all new ones are written beside the old ones first, then each takes its place.
func (p *Plan) Write() (err error) {
	var beside []string
	defer func() {
		for _, path := range beside {
			_ = os.Remove(path)
		}
		if err != nil {
			err = fmt.Errorf("cannot renew this node: %w", err)
		}
	}()
	for _, path := range p.Files {
		name := p.at(path) + ".renewal"
		beside = append(beside, name)
		if err := p.beside(name, p.contents[path], p.at(path)); err != nil {
			return err
		}
	}
	for i, path := range p.Files {
		if err := os.Rename(beside[i], p.at(path)); err != nil {
			return err
		}
	}
	return p.forget()
}

// beside writes a file with the owner of the one whose place it takes.
func (p *Plan) beside(name string, c content, old string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	_ = os.Remove(name) // what a cut left
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, c.mode)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Chmod(c.mode); err != nil {
		return err
	}
	if st, err := os.Stat(old); err == nil {
		if owner, ok := st.Sys().(*syscall.Stat_t); ok {
			if err := f.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
				return err
			}
		}
	}
	if _, err := f.Write(c.data); err != nil {
		return err
	}
	return f.Sync()
}

// Keep writes the configuration to the configuration place that the node's came from (a block device), for the next boot. The
// one before stays there until this one is whole.
func Keep(device string, document []byte) error {
	f, err := os.OpenFile(device, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		return fmt.Errorf("cannot keep the configuration for the next boot: %w", err)
	}
	defer f.Close()
	c, err := bootspec.ReadConfig(f)
	if err != nil {
		return fmt.Errorf("cannot keep the configuration for the next boot: %w", err)
	}
	c.Document = document
	if err := bootspec.WriteConfig(f, c, f.Sync); err != nil {
		return fmt.Errorf("cannot keep the configuration for the next boot: %w", err)
	}
	return nil
}
