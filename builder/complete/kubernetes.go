package complete

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// manifestFolders are where an image has documents of Kubernetes: its configuration, static pods, add-ons.
var manifestFolders = []string{"etc", "usr/share/slipway"}

// checkManifests notes the container images of all documents of Kubernetes in the image. A node pulls nothing, so all must be
// in it.
func (c *checker) checkManifests() error {
	for _, e := range c.Root.All() {
		if e.Type != rootfs.Regular || !slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(e.Path)) || !below(e.Path, manifestFolders) {
			continue
		}
		text, err := c.text(e)
		if err != nil {
			return err
		}
		if err := c.manifest(e, text); err != nil {
			return fmt.Errorf("cannot read /%s of %s: %w", e.Path, e.Origin, err)
		}
	}
	return nil
}

func (c *checker) manifest(e *rootfs.Entry, text string) error {
	d := yaml.NewDecoder(strings.NewReader(text))
	for {
		var document any
		err := d.Decode(&document)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		fields, ok := document.(map[string]any)
		if !ok || fields["apiVersion"] == nil || fields["kind"] == nil {
			continue
		}
		if pods, ok := fields["staticPodPath"].(string); ok {
			c.refer(File, e, "staticPodPath names", pods, c.exists(pods))
		}
		c.podImages(e, document)
	}
}

// podImages finds pods wherever they are in a document: what has containers.
func (c *checker) podImages(e *rootfs.Entry, node any) {
	switch node := node.(type) {
	case []any:
		for _, n := range node {
			c.podImages(e, n)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(node)) {
			list, ok := node[key].([]any)
			if ok && slices.Contains([]string{"containers", "initContainers", "ephemeralContainers"}, key) {
				for _, container := range list {
					if fields, ok := container.(map[string]any); ok {
						if image, ok := fields["image"].(string); ok {
							c.container(e, "has a pod of", image)
						}
					}
				}
			}
			c.podImages(e, node[key])
		}
	}
}

// container notes a container image by its reference.
func (c *checker) container(e *rootfs.Entry, how, reference string) {
	v := verdict{}
	if !slices.ContainsFunc(c.Containers, func(i Container) bool { return i.Reference == reference }) {
		v = missing("add it to `containerImages` in definition.yaml and in the role, or correct the reference")
		if len(c.Containers) > 0 {
			var have []string
			for _, i := range c.Containers {
				have = append(have, i.Reference)
			}
			v.why += " (it has " + strings.Join(have, ", ") + ")"
		}
	}
	c.refer(ContainerImage, e, how, reference, v)
}
