package signature

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// put is bytes at a place of a disk of 8 MiB of zeros; a negative place counts from its end.
type put struct {
	at   int64
	data string
}

const size = 8 << 20

func device(puts ...put) []byte {
	b := make([]byte, size)
	for _, p := range puts {
		if p.at < 0 {
			p.at += size
		}
		copy(b[p.at:], p.data)
	}
	return b
}

func mbr(entry string) []put {
	return []put{{446, entry}, {510, "\x55\xaa"}}
}

// TestFind has the marks that no program here makes; those of file systems with programs are in agent/install's tests.
func TestFind(t *testing.T) {
	magic := string(binary.LittleEndian.AppendUint64(nil, 0x00bab10c))
	foreign := string(binary.BigEndian.AppendUint64(nil, 0x00bab10c))
	linux := "\x00\x00\x02\x00\x83\x00\x00\x00" + "\x00\x08\x00\x00" + "\x00\x10\x00\x00" // from sector 2048, 4096 of them
	for _, tt := range []struct {
		name string
		puts []put
		want string
	}{
		{"nothing", nil, ""},
		{"nonsense", []put{{5000, "data"}}, "disk: unknown data "},
		{"nonsense behind", []put{{3 << 20, "data"}}, ""},
		{"LVM", []put{{512, "LABELONE"}, {512 + 24, "LVM2 001" + "abcdefghijklmnopqrstuvwxyz012345"}}, "disk: LVM2 abcdefghijklmnopqrstuvwxyz012345"},
		{"btrfs", []put{{0x10040, "_BHRfS_M"}}, "disk: btrfs 00000000000000000000000000000000"},
		{"XFS", []put{{0, "XFSB"}}, "disk: XFS 00000000000000000000000000000000"},
		{"RAID 1.2", []put{{4096, "\xfc\x4e\x2b\xa9"}}, "disk: RAID (mdadm 1.2) 00000000000000000000000000000000"},
		{"RAID 1.0", []put{{-8192, "\xfc\x4e\x2b\xa9"}}, "disk: RAID (mdadm 1.0) 00000000000000000000000000000000"},
		{"RAID 0.90", []put{{-65536, "\xfc\x4e\x2b\xa9"}}, "disk: RAID (mdadm 0.90) 00000000"},
		{"RAID of the firmware", []put{{-1024, "Intel Raid ISM Cfg Sig. 1.3"}}, "disk: RAID (Intel)"},
		{"ZFS", []put{{128<<10 + 5*1024, magic}}, "disk: ZFS"},
		{"ZFS from elsewhere, only at the end", []put{{-128 << 10, foreign}}, "disk: ZFS"},
		{"ISO", []put{{0x8001, "CD001"}, {0x8028, "DEBIAN 13 "}}, "disk: ISO 9660 DEBIAN 13"},
		{"VMFS", []put{{0x100000, "\x0d\xd0\x01\xc0"}}, "disk: VMFS"},
		{"MBR", append(mbr(linux), put{1<<20 + 0x438, "\x53\xef"}),
			"disk: partition table MBR 00000000 1:83; partition 1: ext2/3/4 00000000000000000000000000000000"},
		{"a boot sector that is no table", mbr("no partition here at all"), "disk: unknown data "},
		{"an entry beyond the end", mbr("\x80\x00\x00\x00\x07\x00\x00\x00\xff\xff\xff\x7f\xff\xff\xff\xff"), "disk: partition table MBR 00000000 1:07"},
		{"a name that would write over the terminal", []put{{0, "LUKS\xba\xbe"}, {168, "\x1b[2Jabc"}}, "disk: LUKS [2Jabc"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			marks, err := Find(bytes.NewReader(device(tt.puts...)), size)
			if err != nil {
				t.Fatal(err)
			}
			var words []string
			for _, m := range marks {
				words = append(words, m.String())
			}
			got := strings.Join(words, "; ")
			if strings.HasSuffix(tt.want, "unknown data ") && strings.HasPrefix(got, tt.want) {
				got = tt.want
			}
			if got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			if (ID(marks) == "") != (len(marks) == 0) || len(marks) > 0 && len(ID(marks)) != idLength {
				t.Errorf("id is %q", ID(marks))
			}
		})
	}
}

// TestIDIsOfTheContent: the same content has the same id, other content another.
func TestIDIsOfTheContent(t *testing.T) {
	id := func(puts ...put) string {
		marks, err := Find(bytes.NewReader(device(puts...)), size)
		if err != nil {
			t.Fatal(err)
		}
		return ID(marks)
	}
	seen := map[string]string{}
	for name, puts := range map[string][]put{
		"xfs":        {{0, "XFSB"}, {32, "one"}},
		"other xfs":  {{0, "XFSB"}, {32, "two"}},
		"data":       {{100, "data"}},
		"other data": {{100, "date"}},
	} {
		got := id(puts...)
		if other := seen[got]; other != "" || got != id(puts...) {
			t.Errorf("%s has the id of %s, or not always the same", name, other)
		}
		seen[got] = name
	}
}

// FuzzFind reads what anybody may have written.
func FuzzFind(f *testing.F) {
	f.Add([]byte("XFSB"), int64(0), []byte("EFI PART"), int64(512))
	f.Add([]byte("\x55\xaa"), int64(510), []byte("\x00\x00\x02\x00\x83\x00\x00\x00\x00\x08\x00\x00\x00\x10\x00\x00"), int64(446))
	f.Fuzz(func(t *testing.T, a []byte, at int64, b []byte, bt int64) {
		image := make([]byte, 2<<20)
		for _, p := range []struct {
			data []byte
			at   int64
		}{{a, at}, {b, bt}} {
			if p.at >= 0 && p.at < int64(len(image)) {
				copy(image[p.at:], p.data)
			}
		}
		marks, err := Find(bytes.NewReader(image), int64(len(image)))
		if err != nil {
			t.Fatal(err)
		}
		if dirty := len(bytes.Trim(image[:1<<20], "\x00")) > 0; dirty && len(marks) == 0 {
			t.Fatal("something is there and nothing was found")
		}
		for _, m := range marks {
			if strings.ContainsFunc(m.String(), func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Fatalf("%q is not for people", m)
			}
		}
	})
}
