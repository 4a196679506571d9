package flash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/slipway-os/slipway/builder/blockmap"
	"github.com/slipway-os/slipway/images/bootspec"
)

// mapImage lays a block map beside an image, and packs it; the manifest lists all.
func mapImage(t testing.TB, path string) (packed string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	m, err := blockmap.Make(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+bootspec.ExtBlockMap, m.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	z.ResetContentSize(&b, info.Size())
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	packed = path + bootspec.ExtZstd
	if err := os.WriteFile(packed, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	writeManifest(t, path, path+bootspec.ExtBlockMap, packed)
	return packed
}

// toFile flashes into a new file.
func toFile(t testing.TB, ctx context.Context, i *Image) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "target.raw")
	target, err := CreateFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	_, err = Write(ctx, Order{Image: i, Target: target, Config: node})
	return path, err
}

func TestEveryWayOfReadingGivesTheSame(t *testing.T) {
	image := makeImage(t, 512)
	packed := mapImage(t, image)
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(image))))
	t.Cleanup(server.Close)
	_, sum := digest(t, packed, 0)
	for name, r := range map[string]Reference{
		"raw with a map":            {Name: image},
		"packed with a map":         {Name: packed},
		"packed, digest given":      {Name: packed, SHA256: sum},
		"without an extension":      {Name: strings.TrimSuffix(image, bootspec.ExtDisk)},
		"folder and role":           {Name: filepath.Dir(image), Role: "worker"},
		"URL, raw":                  {Name: server.URL + "/" + filepath.Base(image)},
		"URL, packed":               {Name: server.URL + "/" + filepath.Base(packed)},
		"URL, without extension":    {Name: server.URL + "/" + base},
		"URL, packed, digest given": {Name: server.URL + "/" + filepath.Base(packed), SHA256: strings.ToUpper(sum)},
	} {
		i, err := Open(context.Background(), r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		path, err := toFile(t, context.Background(), i)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		wantImage(t, path, image)
		wantNode(t, path, *node)
	}
}

// TestChangedBytesAreFound: bytes that change under an unchanged map, manifest or digest are found in each way of
// reading, and nothing is left.
func TestChangedBytesAreFound(t *testing.T) {
	image := makeImage(t, 512)
	packed := mapImage(t, image)
	_, sum := digest(t, packed, 0)
	info, _ := os.Stat(packed)
	for name, c := range map[string]struct {
		r     Reference
		spoil string
		at    int64
	}{
		"raw, in a range":      {Reference{Name: image}, image, 7 * mib},
		"packed, in a range":   {Reference{Name: packed}, packed, info.Size() / 2},
		"packed, digest given": {Reference{Name: packed, SHA256: sum}, packed, info.Size() - 1000},
		"the map":              {Reference{Name: image}, image + bootspec.ExtBlockMap, 300},
	} {
		i, err := Open(context.Background(), c.r)
		if name != "the map" && err != nil {
			t.Fatal(err)
		}
		if err := overwriteByte(c.spoil, c.at); err != nil {
			t.Fatal(err)
		}
		if name == "the map" {
			_, err = Open(context.Background(), c.r)
		} else {
			_, err = toFile(t, context.Background(), i)
		}
		if !errors.Is(err, ErrDigest) {
			t.Errorf("%s: got %v", name, err)
		}
		if err := overwriteByte(c.spoil, c.at); err != nil { // as it was
			t.Fatal(err)
		}
	}
}

func TestCutImageIsFound(t *testing.T) {
	image := makeImage(t, 512)
	packed := mapImage(t, image)
	for _, path := range []string{image, packed} {
		_, sum := digest(t, path, 0)
		info, _ := os.Stat(path)
		if err := os.Truncate(path, info.Size()-5000); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(context.Background(), Reference{Name: path}); !errors.Is(err, ErrDigest) || !strings.Contains(err.Error(), "copy it again") {
			t.Errorf("with its manifest: %v", err)
		}
		i, err := Open(context.Background(), Reference{Name: path, SHA256: sum})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := toFile(t, context.Background(), i); !errors.Is(err, ErrDigest) {
			t.Errorf("with its digest: %v", err)
		}
	}
}

// cutter is a web server whose answers break off after so many bytes, and that keeps nothing of them up.
type cutter struct {
	files http.Handler
	after int
	asked []string // ranges
	close func()
	etag  func() string
}

func (c *cutter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, bootspec.ExtDisk) {
		c.files.ServeHTTP(w, r)
		return
	}
	c.asked = append(c.asked, r.Header.Get("Range"))
	w.Header().Set("ETag", strconv.Quote(c.etag()))
	c.files.ServeHTTP(&short{w, c.after}, r)
}

type short struct {
	http.ResponseWriter
	left int
}

func (s *short) Write(p []byte) (int, error) {
	if len(p) > s.left {
		s.ResponseWriter.Write(p[:s.left])
		s.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler) // the connection goes
	}
	s.left -= len(p)
	return s.ResponseWriter.Write(p)
}

func serveCut(t *testing.T, image string, after int, etag func() string) (*cutter, *Image) {
	t.Helper()
	c := &cutter{files: http.FileServer(http.Dir(filepath.Dir(image))), after: after, etag: etag}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	c.close = server.Close
	i := opened(t, server.URL+"/"+filepath.Base(image))
	i.shelf.(*site).pause = time.Millisecond
	c.asked = nil
	return c, i
}

func TestDownloadThatBreaksOffIsResumed(t *testing.T) {
	image := makeImage(t, 512)
	c, i := serveCut(t, image, 9*mib+17, func() string { return "1" })
	path, err := toFile(t, context.Background(), i)
	if err != nil {
		t.Fatal(err)
	}
	c.close()
	wantImage(t, path, image)
	if len(c.asked) != 5 || c.asked[0] != "" {
		t.Errorf("it asked for %q", c.asked)
	}
	for n, asked := range c.asked[1:] {
		if from, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(asked, "bytes="), "-")); err != nil || from > (n+1)*(9*mib+17) || from < n*9*mib {
			t.Errorf("it asked for %q", c.asked)
		}
	}
}

func TestDownloadIsGivenUp(t *testing.T) {
	image := makeImage(t, 512)
	n := 0
	for want, after := range map[string]func() string{
		"broke off at byte 0 of 41943040": func() string { return "1" },
		"another file there now":          func() string { n++; return fmt.Sprint(n) },
	} {
		size := 0
		if strings.Contains(want, "another") {
			size = 5 * mib
		}
		_, i := serveCut(t, image, size, after)
		if _, err := toFile(t, context.Background(), i); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestMapSavesDownloads(t *testing.T) {
	image := makeImage(t, 512)
	mapImage(t, image)
	var sent atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.FileServer(http.Dir(filepath.Dir(image))).ServeHTTP(&counting{w, &sent}, r)
	}))
	t.Cleanup(server.Close)
	if _, err := toFile(t, context.Background(), opened(t, server.URL+"/"+filepath.Base(image))); err != nil {
		t.Fatal(err)
	}
	server.Close() // and its goroutines
	if sent.Load() > imageSize*3/4 {
		t.Errorf("%d bytes were sent of an image of %d that is mostly holes", sent.Load(), imageSize)
	}
}

type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func TestReferencesThatAreWrong(t *testing.T) {
	image := makeImage(t, 512)
	dir := filepath.Dir(image)
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	other := filepath.Join(dir, base+bootspec.ExtISO)
	if err := os.WriteFile(other, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, r := range map[string]Reference{
		"no such file":                 {Name: filepath.Join(dir, "missing.disk.raw")},
		"does not list":                {Name: other},
		"name an image in it":          {Name: dir},
		"bake it":                      {Name: dir, Role: "control-plane"},
		"sectors of 4096":              {Name: dir, Role: "worker", SectorSize: 4096},
		"is no SHA-256 value":          {Name: image, SHA256: "12"},
		"names no file":                {Name: server.URL + "/"},
		"there is no manifest missing": {Name: server.URL + "/missing.disk.raw"},
		"does not end with":            {Name: filepath.Join(dir, base+".json"), SHA256: strings.Repeat("a", 64)},
	} {
		if _, err := Open(context.Background(), r); err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, ErrImage) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	secret := strings.Replace(server.URL, "//", "//user:secret@", 1) + "/missing.disk.raw"
	if _, err := Open(context.Background(), Reference{Name: secret}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a password is told: %v", err)
	}
}
