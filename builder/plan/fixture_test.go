package plan

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/ulikunitz/xz"

	"github.com/slipway-os/slipway/builder/archive"
	"github.com/slipway-os/slipway/profiles/role"
)

// today is the clock of these tests.
var today = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// site is an images folder and a mirror of one suite beside it, both in a temporary folder.
type site struct {
	t      *testing.T
	dir    string
	entity *openpgp.Entity
}

const smallDefinition = `apiVersion: slipway.dev/v1alpha1
kind: Image
version: 1.2.3
archives:
  - {name: debian, suite: trixie, components: [main], keys: [test.asc]}
packages: [base]
omit: [debconf]
tools: [packer]
kernel: linux-image-{arch}
kernelArguments: [quiet]
initrd: {modules: [loop], components: [ignition]}
compression: {algorithm: zstd, level: 3, blockSize: 4096}
containerImages:
  - {name: pause, reference: "slipway.local/pause:1", component: pause, entrypoint: [/pause], user: "1:1"}
pruneModules: [sound]
exclude: [boot]
`

const smallArchive = `
	base 1.0 depends libbase (>= 1), debconf
	libbase 1.1
	extra 2.0
	packer 4.6 depends libpack
	libpack 1.0 depends debconf
	linux-image-amd64 6.2 depends linux-image-6.2-amd64 (= 6.2)
	linux-image-6.2-amd64 6.2 depends initramfs-tools`

func newSite(t *testing.T) *site {
	t.Helper()
	config := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return today.AddDate(-1, 0, 0) }}
	entity, err := openpgp.NewEntity("test", "", "test@example.org", config)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t, t.TempDir(), entity}
	var key bytes.Buffer
	w, err := armor.Encode(&key, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := entity.Serialize(w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	s.write("images/keys/test.asc", key.String())
	s.write("images/definition.yaml", smallDefinition)
	s.publish(smallArchive)
	return s
}

func (s *site) write(name, text string) {
	s.t.Helper()
	name = filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func sha(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// published is the date of the suite that publish makes.
var published = time.Date(2026, 5, 3, 9, 15, 44, 0, time.UTC)

// publish replaces the mirror's suite by packages in the notation of offer; each file holds its name and version.
func (s *site) publish(text string) { s.publishFor("amd64", text) }

func (s *site) publishFor(arch, text string) {
	s.t.Helper()
	s.publishSuite("debian", arch, published, text)
}

// publishAt makes a suite of a date in a folder of the mirror. Its index is good for a week.
func (s *site) publishAt(dir string, date time.Time, text string) {
	s.t.Helper()
	s.publishSuite(dir, "amd64", date, text)
}

func (s *site) publishSuite(dir, arch string, date time.Time, text string) {
	s.t.Helper()
	if err := os.RemoveAll(filepath.Join(s.dir, dir)); err != nil {
		s.t.Fatal(err)
	}
	var list strings.Builder
	for _, p := range offer(s.t, text) {
		content := p.Name + " " + p.Version
		file := fmt.Sprintf("pool/%s_%s_%s.deb", p.Name, p.Version, arch)
		s.write(dir+"/"+file, content)
		fmt.Fprintf(&list, "Package: %s\nVersion: %s\nArchitecture: %s\nDepends: %s\nProvides: %s\nConflicts: %s\nBreaks: %s\nFilename: %s\nSize: %d\nSHA256: %s\n\n",
			p.Name, p.Version, arch, p.Depends, p.Provides, p.Conflicts, p.Breaks, file, len(content), sha([]byte(content)))
	}
	var packed bytes.Buffer
	z, err := xz.WriterConfig{DictCap: 1 << 16}.NewWriter(&packed)
	if err != nil {
		s.t.Fatal(err)
	}
	fmt.Fprint(z, list.String())
	z.Close()
	s.write(dir+"/dists/trixie/main/binary-"+arch+"/Packages.xz", packed.String())
	s.signAt(dir, date, fmt.Sprintf("Suite: trixie\nDate: %s\nArchitectures: %s\nComponents: main\nSHA256:\n %s %d main/binary-%s/Packages.xz\n",
		date.Format("Mon, 02 Jan 2006 15:04:05 MST"), arch, sha(packed.Bytes()), packed.Len(), arch))
}

func (s *site) sign(text string) { s.signAt("debian", published, text) }

func (s *site) signAt(dir string, date time.Time, text string) {
	s.t.Helper()
	var signed bytes.Buffer
	w, err := clearsign.Encode(&signed, s.entity.PrivateKey, &packet.Config{Time: func() time.Time { return date.Add(time.Minute) }})
	if err != nil {
		s.t.Fatal(err)
	}
	fmt.Fprint(w, text)
	if err := w.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.write(dir+"/dists/trixie/InRelease", signed.String())
}

func mirrorChoice(s *site) archive.Choice { return archive.Choice{Flag: "file://" + s.dir} }

// open is the definition and the options to lock with.
func (s *site) open(roles ...*role.Role) (*Definition, Options) {
	s.t.Helper()
	images := filepath.Join(s.dir, "images")
	def, source, err := Open(images, DefinitionName, filepath.Join(s.dir, "cache"), mirrorChoice(s))
	if err != nil {
		s.t.Fatal(err)
	}
	return def, Options{Images: images, Roles: roles, Arches: []string{"amd64"}, Source: source, Now: today}
}
