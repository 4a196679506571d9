package footprint

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/slipway-os/slipway/builder/internal/fixture"
	"github.com/slipway-os/slipway/builder/inventory"
	"github.com/slipway-os/slipway/builder/rootfs"
	"github.com/slipway-os/slipway/builder/uki"
	"github.com/slipway-os/slipway/images/manifest"
)

// noise is content that doesn't get smaller.
func noise(seed, n int) []byte {
	out := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range out {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		out[i] = byte(x)
	}
	return out
}

func tree(t testing.TB, files map[string][]byte, origins map[string]string) *rootfs.Tree {
	t.Helper()
	tree := rootfs.New()
	for p, content := range files {
		if err := tree.Add(rootfs.Entry{Path: p, Type: rootfs.Regular, Mode: 0o755, Content: rootfs.Inline(content), Origin: origins[p]}); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

const kernelFolder = "usr/lib/modules/6.12.1/kernel/"

// sample is an image of its own: an initrd with a large and a small file, and a root image with files of every class.
func sample(t testing.TB) (*manifest.Manifest, *inventory.Inventory, []byte) {
	t.Helper()
	initrd := tree(t, map[string][]byte{"init": noise(1, 300_000), kernelFolder + "a.ko": bytes.Repeat([]byte("a"), 200_000), kernelFolder + "net/b.ko": noise(2, 10)},
		map[string]string{"init": "component slipway-agent", kernelFolder + "a.ko": "package linux-image-6.12.1", kernelFolder + "net/b.ko": "package linux-image-6.12.1"})
	image, err := uki.Build(fixture.Stub(2), uki.Image{OSRelease: []byte("ID=x"), Cmdline: "quiet", Uname: "6.12.1", Kernel: noise(3, 100_000), Initrd: packed(t, initrd)})
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[string]int64{
		"usr/bin/kube": 900_000, "usr/bin/containerd": 300_000, "usr/bin/shim": 100_000, "usr/lib/libc.so": 40_000, "etc/hosts": 10,
		kernelFolder + "a.ko": 200_000, kernelFolder + "net/b.ko": 150_000, "usr/share/images/pause.tar": 50_000, "usr/lib/empty": 0,
	}
	origins := map[string]string{
		"usr/bin/kube": "component kube-worker", "usr/bin/containerd": "component containerd", "usr/bin/shim": "component containerd", "usr/lib/libc.so": "package libc6",
		"etc/hosts": "role worker", kernelFolder + "a.ko": "package linux-image-6.12.1", kernelFolder + "net/b.ko": "package linux-image-6.12.1",
		"usr/share/images/pause.tar": "container image pause", "usr/lib/empty": "package libc6",
	}
	files := map[string][]byte{}
	for p := range sizes {
		files[p] = []byte(p)
	}
	m := &manifest.Manifest{
		APIVersion: manifest.Version, Kind: manifest.Kind, Role: "worker", Version: "0.1.0", Arch: "amd64",
		Plan: strings.Repeat("a", 64), Root: manifest.Root{Hash: strings.Repeat("b", 64), Data: 1_800_000},
		Artifacts: []manifest.Artifact{
			{Name: "w.root", Kind: manifest.KindRoot, Size: 1_820_000, SHA256: strings.Repeat("c", 64)},
			{Name: "w.efi", Kind: manifest.KindUKI, Size: int64(len(image)), SHA256: strings.Repeat("d", 64)},
		},
	}
	return m, inventory.New(inventory.List(tree(t, files, origins), sizes), inventory.List(initrd, nil)), image
}

// packed is an initrd as a bake packs it.
func packed(t testing.TB, tree *rootfs.Tree) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, archive := range tree.CPIO(150_000) { // several
		z, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(archive.Write(z, 0), z.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func measured(t testing.TB, order Order) (*Node, *manifest.Manifest) {
	t.Helper()
	m, files, image := sample(t)
	n, err := Measure(m, files, image, order)
	if err != nil {
		t.Fatal(err)
	}
	return n, m
}

// check wants every node to be the sum of its children.
func check(t *testing.T, n *Node, at string) {
	t.Helper()
	at += "/" + n.Name
	if n.Bytes < 0 {
		t.Errorf("%s has %d bytes", at, n.Bytes)
	}
	sum := int64(0)
	for _, c := range n.Children {
		check(t, c, at)
		sum += c.Bytes
	}
	if len(n.Children) > 0 && sum != n.Bytes {
		t.Errorf("%s has %d bytes, its parts %d", at, n.Bytes, sum)
	}
}

func (n *Node) find(names ...string) *Node {
	for _, name := range names {
		var next *Node
		for _, c := range n.Children {
			if c.Name == name {
				next = c
			}
		}
		if next == nil {
			return &Node{}
		}
		n = next
	}
	return n
}

// TestSumIsTheArtifacts: every byte of both files is somewhere, in either order.
func TestSumIsTheArtifacts(t *testing.T) {
	for _, order := range []Order{ByOrigin, ByFolder} {
		n, m := measured(t, order)
		check(t, n, "")
		for name, kind := range map[string]string{"root image": manifest.KindRoot, "unified kernel image": manifest.KindUKI} {
			a, _ := m.Artifact(kind)
			if got := n.find(name).Bytes; got != a.Size {
				t.Errorf("%s: %s has %d bytes, the file %d", order, name, got, a.Size)
			}
		}
		if n.Cut(2).Bytes != n.Bytes || len(n.Cut(1).find("root image").Children) != 0 || len(n.Cut(0).find("root image").Children) == 0 {
			t.Errorf("%s: the tree is cut wrongly", order)
		}
	}
}

func TestParts(t *testing.T) {
	n, m := measured(t, ByOrigin)
	for _, c := range []struct {
		bytes int64
		path  []string
	}{
		{900_000, []string{"root image", "components", "kube-worker"}},
		{300_000, []string{"root image", "components", "containerd", "containerd"}},
		{350_000, []string{"root image", "kernel and its modules", "linux-image-6.12.1"}},
		{150_000, []string{"root image", "kernel and its modules", "linux-image-6.12.1", "net"}},
		{50_000, []string{"root image", "container images", "pause"}},
		{40_000, []string{"root image", "Debian packages", "libc6"}},
		{10, []string{"root image", "role and the image's own", "role worker"}},
		{m.Root.Data - 1_740_010, []string{"root image", "squashfs: inodes, folders, tables"}},
		{20_000, []string{"root image", "dm-verity tree"}},
		{100_000, []string{"unified kernel image", "kernel"}},
	} {
		if got := n.find(c.path...).Bytes; got != c.bytes {
			t.Errorf("%v has %d bytes, not %d", c.path, got, c.bytes)
		}
	}
	// Noise takes as many bytes as it has; what is always the same takes nearly none, though it is two thirds as long. They share a block.
	initrd := n.find("unified kernel image", "initrd")
	if got := initrd.find("components", "slipway-agent").Bytes; got < 270_000 || got > 301_000 {
		t.Errorf("/init of 300000 bytes of noise takes %d", got)
	}
	if got := initrd.find("kernel and its modules", "linux-image-6.12.1"); got.Bytes > 31_000 || got.Unpacked != 200_010 || got.Files != 2 {
		t.Errorf("%+v", got)
	}
	if n, _ := measured(t, ByFolder); n.find("root image", "usr", "bin").Bytes != 1_300_000 || n.find("unified kernel image", "initrd", "usr/lib/modules/6.12.1/kernel").Files != 2 {
		t.Error("folders are measured wrongly")
	}
}

// TestRealImages has the same of images that were baked, where there are some (make test bakes them before).
func TestRealImages(t *testing.T) {
	dir := os.Getenv("SLIPWAY_ARTIFACTS")
	if dir == "" {
		t.Skip("SLIPWAY_ARTIFACTS names no folder of images")
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	names, _ := filepath.Glob(filepath.Join(dir, "slipway-*.json"))
	for _, name := range names {
		if !manifest.IsName(filepath.Base(name)) {
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		m, err := manifest.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		n, err := Read(root, m, ByOrigin)
		if err != nil {
			t.Fatal(err)
		}
		check(t, n, "")
		a, _ := m.Artifact(manifest.KindRoot)
		if got := n.find("root image", "squashfs: inodes, folders, tables").Bytes; got <= 0 || got > a.Size/100 {
			t.Errorf("%s: squashfs takes %d bytes for itself", name, got)
		}
	}
}

func TestFaults(t *testing.T) {
	m, files, image := sample(t)
	parts, err := uki.Locate(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	spoiled := bytes.Clone(image)
	for _, p := range parts {
		if p.Name == ".initrd" {
			spoiled[p.At] ^= 1
		}
	}
	few := *m
	few.Root.Data = 1000
	for want, measure := range map[string]func() (*Node, error){
		"unified kernel image: not a PE32+ image":              func() (*Node, error) { return Measure(m, files, []byte("x"), ByOrigin) },
		"unified kernel image: initrd: cannot unpack it":       func() (*Node, error) { return Measure(m, files, spoiled, ByOrigin) },
		"root image: 1740010 bytes of files, 1000 of squashfs": func() (*Node, error) { return Measure(&few, files, image, ByOrigin) },
		"no compressed sizes":                                  func() (*Node, error) { return Measure(m, inventory.New(nil, files.Initrd), image, ByOrigin) },
	} {
		if _, err := measure(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := Read(root, m, ByOrigin); !errors.Is(err, ErrNoList) {
		t.Errorf("an image without a list of files: %v", err)
	}
}

func FuzzReadCPIO(f *testing.F) {
	var archive bytes.Buffer
	if err := tree(f, map[string][]byte{"init": []byte("x"), "usr/bin/y": nil}, nil).CPIO(1)[0].Write(&archive, 0); err != nil {
		f.Fatal(err)
	}
	f.Add(archive.Bytes())
	f.Add(archive.Bytes()[:200])
	f.Fuzz(func(t *testing.T, data []byte) {
		spans, err := readCPIO(data)
		if err != nil {
			return
		}
		at := int64(0)
		for _, s := range spans {
			if s.end < at || s.data < 0 {
				t.Fatalf("span %+v begins at %d", s, at)
			}
			at = s.end
		}
		if at != int64(len(data)) {
			t.Fatalf("spans end at %d of %d", at, len(data))
		}
		sum := int64(0)
		for _, part := range divide([]block{{int64(len(data)) / 3, 7}, {int64(len(data)), 11}}, spans) {
			sum += part
		}
		if sum != 18 {
			t.Fatalf("%d of 18 bytes are divided", sum)
		}
	})
}

func TestSquarify(t *testing.T) {
	area := rect{10, 20, 600, 400}
	list := []float64{6, 6, 4, 3, 2, 2, 1}
	covered := 0.0
	rects := squarify(list, area)
	for i, r := range rects {
		if got, want := r.w*r.h, list[i]*600*400/24; math.Abs(got-want) > 1e-6 {
			t.Errorf("%d has an area of %f, not %f", i, got, want)
		}
		if r.x < area.x-1e-9 || r.y < area.y-1e-9 || r.x+r.w > area.x+area.w+1e-9 || r.y+r.h > area.y+area.h+1e-9 {
			t.Errorf("%+v is not inside", r)
		}
		for _, o := range rects[:i] {
			if min(r.x+r.w, o.x+o.w)-max(r.x, o.x) > 1e-9 && min(r.y+r.h, o.y+o.h)-max(r.y, o.y) > 1e-9 {
				t.Errorf("%+v and %+v overlap", r, o)
			}
		}
		if ratio := max(r.w/r.h, r.h/r.w); ratio > 3 {
			t.Errorf("%+v is far from square", r)
		}
		covered += r.w * r.h
	}
	if math.Abs(covered-600*400) > 1e-6 {
		t.Errorf("%f of the area is covered", covered)
	}
}

// TestSVG: valid XML that brings nothing along, whose areas lie in each other and are in proportion to bytes.
func TestSVG(t *testing.T) {
	n, _ := measured(t, ByOrigin)
	n.Children[0].Children[0].Name = "evil <script>\x00&"
	n.Children[0].Children[0].Class = Mixed
	var picture, again bytes.Buffer
	if err := errors.Join(n.SVG(&picture), n.SVG(&again)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(picture.Bytes(), again.Bytes()) {
		t.Error("two pictures of one tree differ")
	}
	areas, words := readSVG(t, picture.Bytes())
	for _, want := range []string{"slipway-worker-0.1.0-amd64: where the bytes are", "kube-worker", "0.9 MB", "components", "container images"} {
		if !strings.Contains(words, want) {
			t.Errorf("the picture doesn't say %s", want)
		}
	}
	kube, containerd := areas["kube-worker"], areas["usr/bin/containerd"]
	if ratio := kube / containerd; ratio < 2.6 || ratio > 3.8 { // frames take some of it
		t.Errorf("900000 and 300000 bytes have areas of %.0f and %.0f", kube, containerd)
	}
}

// readSVG gives the areas of parts by the first word of their titles, and all text.
func readSVG(t *testing.T, picture []byte) (map[string]float64, string) {
	t.Helper()
	areas, words, last := map[string]float64{}, "", ""
	d := xml.NewDecoder(bytes.NewReader(picture))
	for {
		token, err := d.Token()
		if err == io.EOF {
			return areas, words
		}
		if err != nil {
			t.Fatalf("not XML: %v", err)
		}
		switch x := token.(type) {
		case xml.CharData:
			last = string(x)
			words += last + "\n"
		case xml.StartElement:
			at := map[string]float64{}
			for _, a := range x.Attr {
				if a.Name.Local == "href" || strings.HasPrefix(a.Name.Local, "on") || a.Name.Local == "style" {
					t.Errorf("<%s> has %s", x.Name.Local, a.Name.Local)
				}
				at[a.Name.Local], _ = strconv.ParseFloat(a.Value, 64)
			}
			switch x.Name.Local {
			case "svg", "title", "desc", "g", "text", "tspan":
			case "rect":
				if at["x"] < 0 || at["y"] < 0 || at["x"]+at["width"] > width || at["y"]+at["height"] > height {
					t.Errorf("%v lies outside", x.Attr)
				}
				name, _, _ := strings.Cut(last, ":")
				areas[name] = at["width"] * at["height"]
			default:
				t.Errorf("a picture has <%s>", x.Name.Local)
			}
		}
	}
}

// TestContrast: WCAG 2.2, success criterion 1.4.6, wants 7:1 for text.
func TestContrast(t *testing.T) {
	luminance := func(colour string) float64 {
		sum := 0.0
		for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
			v, err := strconv.ParseUint(colour[1+2*i:3+2*i], 16, 8)
			if err != nil {
				t.Fatal(err)
			}
			c := float64(v) / 255
			if c <= 0.04045 {
				c /= 12.92
			} else {
				c = math.Pow((c+0.055)/1.055, 2.4)
			}
			sum += weight * c
		}
		return sum
	}
	for class, ink := range inks {
		for _, colour := range []string{ink.frame, ink.fill} {
			if got := (luminance(colour) + 0.05) / (luminance("#111111") + 0.05); got < 7 {
				t.Errorf("%s: text on %s has a contrast of %.1f", class, colour, got)
			}
		}
	}
	if len(legend)+1 != len(inks) {
		t.Error("the legend lacks a class")
	}
}

func TestText(t *testing.T) {
	n, _ := measured(t, ByOrigin)
	var text strings.Builder
	if err := n.Cut(3).Text(&text); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("   0.9 MB %8s        kube-worker\n", percent(900_000, n.Bytes))
	if !strings.Contains(text.String(), want) || !strings.Contains(text.String(), " smaller\n") || strings.Contains(text.String(), "shim") {
		t.Errorf("no %q in\n%s", want, text.String())
	}
	encoded, err := json.Marshal(n.Cut(1))
	if err != nil || !strings.Contains(string(encoded), `"name":"root image","class":"mixed","bytes":1820000`) {
		t.Errorf("%s %v", encoded, err)
	}
}
