package bake

import (
	"fmt"
	"path"
	"strings"

	"github.com/slipway-os/slipway/builder/layer"
	"github.com/slipway-os/slipway/builder/plan"
	"github.com/slipway-os/slipway/builder/rootfs"
)

// chooseFirmware chooses the firmware files that the definition's patterns name, and, where one of them is a link, the file it
// leads to. A pattern that names nothing is an error: it is a typing error, or its package isn't there.
func (b *baker) chooseFirmware() error {
	b.firmwareFiles = nil
	if len(b.Plan.FirmwareFiles) == 0 {
		return nil
	}
	b.firmwareFiles = map[string]bool{}
	files := packagesFirmware(b.layers)
	for p := range files {
		if !b.Plan.TakesFirmware(p) {
			continue
		}
		for hops := 0; hops < 10; hops++ {
			b.firmwareFiles[p] = true
			e, ok := files[p]
			if !ok || e.Type != rootfs.Symlink {
				break
			}
			if p = path.Join(path.Dir(p), e.Link); path.IsAbs(e.Link) {
				p = below(e.Link)
			}
		}
	}
	for _, pattern := range b.Plan.FirmwareFiles {
		if strings.HasPrefix(pattern, "!") {
			continue
		}
		one := plan.Plan{FirmwareFiles: []string{pattern}}
		found := false
		for p := range files {
			found = found || one.TakesFirmware(p)
		}
		if !found {
			return fmt.Errorf("firmwareFiles %q: no package has such a file below %s", pattern, plan.FirmwareFolder)
		}
	}
	return nil
}

// packagesFirmware are the packages' files and links of firmware, by their paths below its folder.
func packagesFirmware(layers []*layer.Layer) map[string]rootfs.Entry {
	files := map[string]rootfs.Entry{}
	for _, l := range layers {
		for _, e := range l.Entries {
			if p := below(e.Path); p != "" && e.Type != rootfs.Directory {
				files[p] = e
			}
		}
	}
	return files
}

// below is a path below the folder of firmware, which older packages have in lib; "" if it is not there.
func below(p string) string {
	p = strings.TrimPrefix(p, "/")
	if !strings.HasPrefix(p, "usr/") {
		p = "usr/" + p
	}
	rest, ok := strings.CutPrefix(p, plan.FirmwareFolder)
	if !ok {
		return ""
	}
	return rest
}

// firmwareLeftOut says whether a package's path is of firmware that the definition doesn't name. Folders come with what is in them.
func (b *baker) firmwareLeftOut(p string) bool {
	return b.firmwareFiles != nil && below(p) != "" && !b.firmwareFiles[below(p)]
}
