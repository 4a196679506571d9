package cli

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/ulikunitz/xz"
)

// signers has the key that a script's archives are signed with, by the file of its public half.
var (
	signersMu sync.Mutex // scripts run side by side
	signers   = map[string]*openpgp.Entity{}
)

// signedArchive makes a signed Debian archive of one suite, trixie: archive FOLDER KEY DATE PACKAGES. KEY is the file of the
// public key, made when it isn't there; DATE is like 2026-05-01T10:00:00Z; PACKAGES has lines like "base 1 lib (= 1), awk": name,
// version and what it depends on. Each package's file holds its name and version.
func signedArchive(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: archive folder key date packages")
	}
	folder, date := ts.MkAbs(args[0]), parseTime(ts, args[2])
	ts.Check(os.RemoveAll(filepath.Join(folder, "dists")))
	ts.Check(os.RemoveAll(filepath.Join(folder, "pool")))
	var list strings.Builder
	for line := range strings.Lines(ts.ReadFile(args[3])) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		content, file := words[0]+" "+words[1], "pool/"+words[0]+"_"+words[1]+"_amd64.deb"
		writeFile(ts, filepath.Join(folder, file), []byte(content))
		fmt.Fprintf(&list, "Package: %s\nVersion: %s\nArchitecture: amd64\nDepends: %s\nFilename: %s\nSize: %d\nSHA256: %x\n\n",
			words[0], words[1], strings.Join(words[2:], " "), file, len(content), sha256.Sum256([]byte(content)))
	}
	var packed bytes.Buffer
	z, err := xz.WriterConfig{DictCap: 1 << 16}.NewWriter(&packed)
	ts.Check(err)
	fmt.Fprint(z, list.String())
	ts.Check(z.Close())
	writeFile(ts, filepath.Join(folder, "dists/trixie/main/binary-amd64/Packages.xz"), packed.Bytes())
	var signed bytes.Buffer
	w, err := clearsign.Encode(&signed, signer(ts, ts.MkAbs(args[1])).PrivateKey, &packet.Config{Time: func() time.Time { return date }})
	ts.Check(err)
	fmt.Fprintf(w, "Suite: trixie\nDate: %s\nValid-Until: %s\nArchitectures: amd64\nComponents: main\nSHA256:\n %x %d main/binary-amd64/Packages.xz\n",
		date.Format(time.RFC1123), date.AddDate(0, 0, 7).Format(time.RFC1123), sha256.Sum256(packed.Bytes()), packed.Len())
	ts.Check(w.Close())
	writeFile(ts, filepath.Join(folder, "dists/trixie/InRelease"), signed.Bytes())
}

func parseTime(ts *testscript.TestScript, text string) time.Time {
	if text == "now" {
		return time.Now().UTC().Add(-time.Hour)
	}
	date, err := time.Parse(time.RFC3339, text)
	ts.Check(err)
	return date
}

func signer(ts *testscript.TestScript, file string) *openpgp.Entity {
	signersMu.Lock()
	defer signersMu.Unlock()
	if e := signers[file]; e != nil {
		return e
	}
	config := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) }}
	e, err := openpgp.NewEntity("test", "", "test@example.org", config)
	ts.Check(err)
	var key bytes.Buffer
	w, err := armor.Encode(&key, openpgp.PublicKeyType, nil)
	ts.Check(err)
	ts.Check(e.Serialize(w))
	ts.Check(w.Close())
	writeFile(ts, file, key.Bytes())
	signers[file] = e
	return e
}

func writeFile(ts *testscript.TestScript, file string, data []byte) {
	ts.Check(os.MkdirAll(filepath.Dir(file), 0o755))
	ts.Check(os.WriteFile(file, data, 0o644))
}
