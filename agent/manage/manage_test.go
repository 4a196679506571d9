package manage

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

// FuzzJournal: whatever a client asks for, journalctl gets no option but ours.
func FuzzJournal(f *testing.F) {
	f.Add("etcd.service", "60", "1")
	f.Add("--file=/etc/shadow", "", "")
	f.Add("a\n--file=x", "-1", "2")
	f.Fuzz(func(t *testing.T, unit, since, follow string) {
		args, err := journal(unit, since, follow)
		if err != nil {
			return
		}
		for _, a := range args {
			name, value, _ := strings.Cut(a, "=")
			switch name {
			case "--boot", "--no-pager", "--quiet", "--output", "--follow", "--lines":
			case "--unit", "--since":
				if strings.ContainsAny(value, " \n\x00/*?[") {
					t.Errorf("%q", a)
				}
			default:
				t.Errorf("%q", a)
			}
		}
	})
}

// TestJournalctlTakesIt: the real program knows all options.
func TestJournalctlTakesIt(t *testing.T) {
	if _, err := exec.LookPath("journalctl"); err != nil {
		t.Skip("there is no journalctl")
	}
	args, err := journal("etcd.service", "60", "")
	if err != nil {
		t.Fatal(err)
	}
	if args[0] != "--boot" {
		t.Fatalf("%q", args)
	}
	// The boot of an empty folder is none.
	if out, err := exec.Command("journalctl", append(args[1:], "--directory="+t.TempDir())...).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func piece(left int, blob string) string {
	return fmt.Sprintf(`{"result":{"remaining_bytes":"%d","blob":%q}}`, left, base64.StdEncoding.EncodeToString([]byte(blob))) + "\n"
}

// TestUnwrap: a snapshot is whole, or it is an error.
func TestUnwrap(t *testing.T) {
	for _, tt := range []struct{ name, stream, want, err string }{
		{"whole", piece(3, "abc") + piece(0, "def") + piece(0, "sum"), "abcdefsum", ""},
		{"breaks off", piece(3, "abc"), "abc", "breaks off"},
		{"nothing", "", "", "breaks off"},
		{"refused", `{"error":{"code":14,"message":"no leader"}}`, "", "no leader"},
		{"no JSON", piece(3, "abc") + "<html>", "abc", "etcd's answer is wrong"},
		{"endless line", strings.Repeat("x", maxPiece+1), "", "etcd's answer is wrong"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got bytes.Buffer
			err := unwrap(&got, strings.NewReader(tt.stream))
			if got.String() != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q, %v", got.String(), err)
			}
		})
	}
}

func FuzzUnwrap(f *testing.F) {
	f.Add([]byte(piece(3, "abc") + piece(0, "def")))
	f.Add([]byte(`{"error":{}}`))
	f.Fuzz(func(t *testing.T, stream []byte) {
		var got bytes.Buffer
		_ = unwrap(&got, bytes.NewReader(stream))
		if got.Len() > len(stream) {
			t.Errorf("%d bytes of %d", got.Len(), len(stream))
		}
	})
}

func FuzzNotAfter(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAo=\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("client-certificate-data: LS0tLS1CRUdJTg=="))
	f.Fuzz(func(t *testing.T, data []byte) {
		if until, err := notAfter(data); err == nil && until.IsZero() {
			t.Error("no date and no error")
		}
	})
}

func FuzzMetrics(f *testing.F) {
	f.Add([]byte("# HELP x\netcd_server_has_leader 1\netcd_mvcc_db_total_size_in_bytes 2.4576e+07\n"))
	f.Fuzz(func(t *testing.T, metrics []byte) { readMetrics(&bootspec.EtcdStatus{}, metrics) })
}

func TestMetrics(t *testing.T) {
	var e bootspec.EtcdStatus
	readMetrics(&e, []byte("# HELP x y\netcd_server_has_leader 1\netcd_server_is_leader 0\netcd_mvcc_db_total_size_in_bytes 2.4576e+07\nx{a=\"b\"} 3\n"))
	if want := (bootspec.EtcdStatus{HasLeader: true, Size: 24576000}); e != want {
		t.Errorf("%+v", e)
	}
}
