package complete

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// containerdConfig is where containerd reads its configuration; its `imports` add files to it.
const containerdConfig = "etc/containerd/config.toml"

// Plugins of containerd's configuration (version 3 and later; before, one had both): which images it needs, and how it runs pods.
const (
	imagesPlugin  = "io.containerd.cri.v1.images"
	runtimePlugin = "io.containerd.cri.v1.runtime"
)

// containerdFile is what of containerd's configuration names something.
type containerdFile struct {
	Imports  []string
	Disabled []string `toml:"disabled_plugins"`
	Plugins  map[string]containerdPlugin
}

type containerdPlugin struct {
	SandboxImage string            `toml:"sandbox_image"` // before version 3
	Pinned       map[string]string `toml:"pinned_images"`
	CNI          struct {
		BinDir  string   `toml:"bin_dir"`
		BinDirs []string `toml:"bin_dirs"`
		ConfDir string   `toml:"conf_dir"`
	} `toml:"cni"`
	Containerd struct {
		Default  string `toml:"default_runtime_name"`
		Runtimes map[string]struct {
			Type    string `toml:"runtime_type"`
			Path    string `toml:"runtime_path"`
			Options struct{ BinaryName string }
		}
	} `toml:"containerd"`
}

// checkRuntime notes what containerd's configuration names: the image of pods' sandboxes, shims, runtimes, folders of plugins; and
// the plugins that the pod network's configuration names.
func (c *checker) checkRuntime() error {
	plugins := []string{"/opt/cni/bin"} // containerd's default
	if e, ok := c.Root.Resolve(containerdConfig); ok && e.Type == rootfs.Regular {
		files, err := c.containerdFiles(e)
		if err != nil {
			return err
		}
		if named := c.containerd(e, files); len(named) > 0 {
			plugins = named
		}
	}
	return c.network(plugins)
}

// containerdFiles are the configuration and those it imports that are in the image.
func (c *checker) containerdFiles(main *rootfs.Entry) (map[*rootfs.Entry]containerdFile, error) {
	files := map[*rootfs.Entry]containerdFile{}
	queue := []*rootfs.Entry{main}
	for len(queue) > 0 {
		e := queue[0]
		queue = queue[1:]
		if _, seen := files[e]; seen {
			continue
		}
		text, err := c.text(e)
		if err != nil {
			return nil, err
		}
		var f containerdFile
		if err := toml.Unmarshal([]byte(text), &f); err != nil {
			return nil, fmt.Errorf("cannot read /%s of %s: %w", e.Path, e.Origin, err)
		}
		files[e] = f
		for _, pattern := range f.Imports {
			pattern = strings.TrimPrefix(path.Clean(pattern), "/")
			for _, found := range c.in(path.Dir(pattern)) {
				if found.Type == rootfs.Regular && matches(pattern, found.Path) {
					queue = append(queue, found)
				}
			}
		}
	}
	return files, nil
}

// containerd notes what the files name, and tells the folders of the pod network's plugins.
func (c *checker) containerd(main *rootfs.Entry, files map[*rootfs.Entry]containerdFile) (folders []string) {
	sandbox := slices.Contains(files[main].Disabled, imagesPlugin)
	for e, f := range files {
		for _, p := range f.Plugins {
			for _, image := range []string{p.SandboxImage, p.Pinned["sandbox"]} {
				if image != "" {
					sandbox = true
					c.container(e, "makes pods' sandboxes of", image)
				}
			}
			folders = append(folders, p.CNI.BinDirs...)
			if p.CNI.BinDir != "" {
				folders = append(folders, p.CNI.BinDir)
			}
			if p.CNI.ConfDir != "" {
				c.refer(File, e, "conf_dir names", p.CNI.ConfDir, c.exists(p.CNI.ConfDir))
			}
			c.runtimes(e, p)
		}
	}
	for _, folder := range folders {
		c.refer(File, main, "has plugins in", folder, c.exists(folder))
	}
	if !sandbox {
		c.refer(ContainerImage, main, "makes pods' sandboxes of", "containerd's own choice", missing("name an image of the definition: pinned_images of plugin "+imagesPlugin+", sandbox"))
	}
	return folders
}

func (c *checker) runtimes(e *rootfs.Entry, p containerdPlugin) {
	list := p.Containerd.Runtimes
	if name := p.Containerd.Default; name != "" {
		v := verdict{}
		if _, ok := list[name]; !ok {
			v = verdict{"the configuration doesn't describe", "add [plugins.\"" + runtimePlugin + "\".containerd.runtimes." + name + "]"}
		}
		c.refer(Plugin, e, "by default runs pods with", name, v)
	}
	for name, r := range list {
		shim := r.Path
		if shim == "" && r.Type != "" {
			shim = shimName(r.Type)
		}
		if shim != "" {
			c.refer(Program, e, "runtime "+name+" is started by", shim, program(c.Root, shim, searchPath))
		}
		if r.Options.BinaryName != "" {
			c.refer(Program, e, "runtime "+name+" runs", r.Options.BinaryName, program(c.Root, r.Options.BinaryName, searchPath))
		}
	}
}

// shimName is the program for a runtime's type, which may be a path: containerd-shim-runc-v2 for io.containerd.runc.v2.
func shimName(kind string) string {
	parts := strings.Split(kind, ".")
	if strings.HasPrefix(kind, "/") || len(parts) < 2 {
		return kind
	}
	return "containerd-shim-" + strings.Join(parts[len(parts)-2:], "-")
}

// network notes the plugins that configurations of the pod network in the image name (CNI specification 1.1, section 1). Those
// that are written at boot are not here: their plugins are declared by who writes them (Runs).
func (c *checker) network(folders []string) error {
	for i := range folders {
		folders[i] = strings.TrimPrefix(folders[i], "/")
	}
	type plugin struct {
		Type string
		IPAM struct{ Type string }
	}
	for _, e := range c.files([]string{".conf", ".conflist", ".json"}, "etc/cni/net.d") {
		text, err := c.text(e)
		if err != nil {
			return err
		}
		var config struct {
			plugin
			Plugins []plugin
		}
		if err := json.Unmarshal([]byte(text), &config); err != nil {
			return fmt.Errorf("cannot read /%s of %s: %w", e.Path, e.Origin, err)
		}
		for _, p := range append(config.Plugins, config.plugin) {
			for _, name := range []string{p.Type, p.IPAM.Type} {
				if name != "" {
					c.refer(Plugin, e, "has pods' network made by", name, program(c.Root, name, folders))
				}
			}
		}
	}
	return nil
}
