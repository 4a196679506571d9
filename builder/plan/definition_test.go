package plan

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

func shippedDefinition(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("../../images/definition.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// loadText is a definition of one document.
func loadText(name string, data []byte) (*Definition, error) {
	return LoadDefinition(fstest.MapFS{name: {Data: data}}, name, "")
}

func TestShippedDefinition(t *testing.T) {
	def, err := loadText("definition.yaml", shippedDefinition(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range def.Archives {
		for _, key := range a.Keys {
			if _, err := os.Stat("../../images/keys/" + key); err != nil {
				t.Errorf("key of %s %s: %v", a.Name, a.Suite, err)
			}
		}
	}
}

func TestBadDefinitions(t *testing.T) {
	good := string(shippedDefinition(t))
	for change, want := range map[[2]string]string{
		{"kind: Image", "kind: Picture"}:                                                                   `kind: unknown kind "Picture" (use Image)`,
		{"version: 0.1.0", "version: 1"}:                                                                   "version: ",
		{"packages:", "pakages:"}:                                                                          "pakages",
		{"  - base-files", "  - base-files\n  - base-files"}:                                               `packages[1]: "base-files" is in the list twice`,
		{"  - awk", "  - udev"}:                                                                            "udev is in omit too",
		{"suite: trixie-updates", "suite: ../x"}:                                                           `archives[1].suite: "../x" is not a suite`,
		{"level: 6", "level: 30"}:                                                                          "compression.level: 30 is no level (1 (fast) to 22 (small))",
		{"blockSize: 1048576", "blockSize: 1000000"}:                                                       "compression.blockSize: ",
		{"  - panic=30", "  - panic=30 quiet"}:                                                             "kernelArguments[",
		{"  - boot\n", "  - /boot\n"}:                                                                      `"/boot" is not a clean relative path`,
		{"  - drivers/gpu\n", "  - drivers/[gpu\n"}:                                                        `"drivers/[gpu": syntax error`,
		{"entrypoint: [/coredns]", "entrypoint: [coredns]"}:                                                "containerImages[1].entrypoint: ",
		{"user: 65535:65535", "user: nobody"}:                                                              `containerImages[2].user: "nobody" is not a numeric user`,
		{"slipway.local/pause:0.1.0", "slipway.local/pause"}:                                               "containerImages[2].reference: ",
		{"    to: [/usr/bin/bash]\n", ""}:                                                                  "absent[2].to: there is nothing",
		{"    to: [/usr/bin/bash]\n", "    to: [\"[\"]\n"}:                                                 `absent[2].to[0]: "[" is nothing that can be referred to`,
		{"from: usr/share/doc/libgcc-s1", "from: /usr/share/doc/libgcc-s1"}:                                "absent[11].from: \"/usr/share/doc/libgcc-s1\" is not a path without a slash at its beginning",
		{"from: usr/share/doc/libgcc-s1", "from: usr/lib/systemd/system/debug-shell.service"}:              "absent[11].from: usr/lib/systemd/system/debug-shell.service is in the list twice",
		{"    reason: there is no shell, on purpose\n", ""}:                                                "absent[2].reason: there is no reason",
		{"modules: [ptp_idt82p33, qat_c3xxx, ", "modules: [ptp_idt82p33, bnx2, "}:                          "firmware[2].modules[1]: bnx2 is in another entry too",
		{"modules: [bnx2, bnx2x, nfp, qed, qla2xxx]", "modules: [bnx2.ko]"}:                                `firmware[0].modules[0]: "bnx2.ko" is not a module's name`,
		{"    reason: cryptography and clock devices that nothing on a node uses\n", ""}:                   "firmware[2].reason: there is no reason",
		{"releaseLevel: 22", "releaseLevel: 23"}:                                                           "compression.releaseLevel: 23 is no level (1 (fast) to 22 (small))",
		{"keys: [debian-archive-trixie-automatic.asc, debian-archive-bookworm-automatic.asc]", "keys: []"}: "archives[1].keys: there are no keys",
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if bad == good {
			t.Errorf("%q is not in the definition", change[0])
			continue
		}
		_, err := loadText("definition.yaml", []byte(bad))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "definition.yaml:") {
			t.Errorf("%q: %v\nwant %q", change[1], err, want)
		}
	}
}

func TestDefinitionFaultsAllAtOnce(t *testing.T) {
	_, err := loadText("x.yaml", []byte("apiVersion: v9\nkind: Image\n"))
	for _, want := range []string{"x.yaml:1:13: apiVersion", "version", "archives", "kernel", "compression.level"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
}

func TestPatterns(t *testing.T) {
	patterns := []string{"boot", "usr/share/doc/*/*", "!usr/share/doc/*/copyright", "usr/lib/*/gconv", "etc/cron.*", "drivers/hid", "!drivers/hid/hid.ko*"}
	for name, want := range map[string]bool{
		"boot":                             true,
		"boot/vmlinuz":                     true,
		"bootx":                            false,
		"usr/boot":                         false,
		"usr/share/doc":                    false,
		"usr/share/doc/libc6":              false,
		"usr/share/doc/libc6/NEWS.gz":      true,
		"usr/share/doc/libc6/examples/x":   true,
		"usr/share/doc/libc6/copyright":    false,
		"usr/lib/x86_64-linux-gnu/gconv/x": true,
		"usr/lib/x86_64-linux-gnu/libc.so": false,
		"etc/cron.d":                       true,
		"etc/crontab":                      false,
		"drivers/hid/usbhid/usbhid.ko.xz":  true,
		"drivers/hid/hid.ko.xz":            false,
		"drivers/hid":                      true,
		"drivers":                          false,
		"":                                 false,
	} {
		if got := matches(patterns, name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
	if matches([]string{"a", "!a/b", "a/b/c"}, "a/b/d") || !matches([]string{"a", "!a/b", "a/b/c"}, "a/b/c/e") {
		t.Error("the last pattern that matches does not count")
	}
}

func FuzzDefinition(f *testing.F) {
	f.Add(shippedDefinition(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		def, err := loadText("x", data)
		if err == nil && (len(def.Archives) == 0 || def.Version == "") {
			t.Fatalf("accepted %+v", def)
		}
	})
}
