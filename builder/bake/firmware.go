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
	b.firmware = nil
	if len(b.Plan.Firmware) == 0 {
		return nil
	}
	b.firmware = map[string]bool{}
	files := firmwareFiles(b.layers)
	for p := range files {
		if !b.Plan.TakesFirmware(p) {
			continue
		}
		for hops := 0; hops < 10; hops++ {
			b.firmware[p] = true
			e, ok := files[p]
			if !ok || e.Type != rootfs.Symlink {
				break
			}
			if p = path.Join(path.Dir(p), e.Link); path.IsAbs(e.Link) {
				p = below(e.Link)
			}
		}
	}
	for _, pattern := range b.Plan.Firmware {
		if strings.HasPrefix(pattern, "!") {
			continue
		}
		one := plan.Plan{Firmware: []string{pattern}}
		found := false
		for p := range files {
			found = found || one.TakesFirmware(p)
		}
		if !found {
			return fmt.Errorf("firmware %q: no package has such a file below %s", pattern, plan.FirmwareFolder)
		}
	}
	return nil
}

// firmwareFiles are the packages' files and links of firmware, by their paths below its folder.
func firmwareFiles(layers []*layer.Layer) map[string]rootfs.Entry {
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
	return b.firmware != nil && below(p) != "" && !b.firmware[below(p)]
}
