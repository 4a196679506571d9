package provision

import (
	"debug/elf"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// program is the real Ignition: SLIPWAY_IGNITION, or the component that was last built into the cache.
func program(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("Ignition sets owners: needs root")
	}
	if p := os.Getenv("SLIPWAY_IGNITION"); p != "" {
		return p
	}
	cache := os.Getenv("SLIPWAY_CACHE")
	if user, err := os.UserCacheDir(); err == nil && cache == "" {
		cache = filepath.Join(user, "slipway")
	}
	built, err := filepath.Glob(filepath.Join(cache, "components/*/*-ignition"))
	built = slices.DeleteFunc(built, foreign)
	if err != nil || len(built) == 0 {
		t.Skip("Ignition was not built yet (bake an image first), and SLIPWAY_IGNITION is not set")
	}
	return built[0]
}

// foreign tells of programs that are not for this machine's architecture.
func foreign(program string) bool {
	f, err := elf.Open(program)
	if err != nil {
		return true
	}
	defer f.Close()
	return f.Machine != map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
}

const secret = "s3cr3t-KEY-material-0123456789"

// config is a configuration with a secret file and one more entry in files.
func config(more string) []byte {
	data := "data:;base64," + base64.StdEncoding.EncodeToString([]byte(secret))
	return fmt.Appendf(nil, `{"ignition":{"version":"3.4.0"},"storage":{"files":[
		{"path":"/etc/kubernetes/pki/ca.key","mode":256,"contents":{"source":%q}}%s]},
		"systemd":{"units":[{"name":"x.service","enabled":true,"contents":"[Unit]\nDescription=%s\n"}]}}`, data, more, secret)
}

func apply(t *testing.T, c []byte) (root string, err error) {
	t.Helper()
	root = t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc/blocked"), 0o755); err != nil {
		t.Fatal(err)
	}
	i := Ignition{Program: program(t), Root: root, Scratch: filepath.Join(t.TempDir(), "ignition")}
	err = i.Apply(t.Context(), c)
	if _, serr := os.Stat(i.Scratch); !errors.Is(serr, os.ErrNotExist) {
		t.Errorf("the configuration is still in the scratch folder: %v", serr)
	}
	return root, err
}

func TestApply(t *testing.T) {
	root, err := apply(t, config(""))
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(root, "etc/kubernetes/pki/ca.key")
	data, err := os.ReadFile(key)
	if err != nil || string(data) != secret {
		t.Errorf("the file holds %q, %v", data, err)
	}
	if st, err := os.Stat(key); err == nil && st.Mode().Perm() != 0o400 {
		t.Errorf("its mode is %v", st.Mode())
	}
	if _, err := os.Stat(filepath.Join(root, "etc/systemd/system/x.service")); err != nil {
		t.Error(err)
	}
}

// TestFailureTellsWhatAndNoSecret makes the real Ignition fail in its stages and looks for the secret in what is told.
func TestFailureTellsWhatAndNoSecret(t *testing.T) {
	for name, c := range map[string]struct {
		config []byte
		want   []string
	}{
		"path not absolute": {config(`,{"path":"etc/x"}`), []string{"refused", "stage fetch", "$.storage.files.1.path", "path not absolute"}},
		"not JSON":          {append(config(""), '}'), []string{"refused", "stage fetch"}},
		"future version":    {[]byte(`{"ignition":{"version":"9.0.0"},"note":"` + secret + `"}`), []string{"refused", "unsupported config version"}},
		"file over folder":  {config(`,{"path":"/etc/blocked","contents":{"source":"data:,` + secret + `"}}`), []string{"failed to apply", "stage files", "failed at /etc/blocked: overwrite is false"}},
		"bad digest": {config(`,{"path":"/etc/y","contents":{"source":"data:,` + secret + `","verification":{"hash":"sha256-` + strings.Repeat("0", 64) + `"}}}`),
			[]string{"stage files", "failed writing file /etc/y"}},
	} {
		_, err := apply(t, c.config)
		var failed *Error
		if !errors.As(err, &failed) {
			t.Errorf("%s: error is %v", name, err)
			continue
		}
		t.Logf("%s: %v", name, err)
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q is not told", name, w)
			}
		}
		for i := 0; i+piece <= len(secret); i++ {
			for _, s := range []string{secret[i : i+piece], base64.StdEncoding.EncodeToString([]byte(secret))} {
				if strings.Contains(err.Error(), s) {
					t.Fatalf("%s: the secret is told", name)
				}
			}
		}
	}
}

func TestExplainKeepsSecrets(t *testing.T) {
	lines := []string{
		"CRITICAL : files: op(3): [failed]   writing file \"/sysroot/etc/" + secret + "\": no",
		"CRITICAL : error at $.storage, line 1 col 2: the value is s3cr3t- indeed",
		"INFO     : executing: \"usermod\" \"--password\" \"" + secret + "\"",
		"Full config:", `  "source": "data:,` + secret + `"`,
		"CRITICAL : files: op(4): [failed]   writing unit \"x.service\": read-only",
	}
	got := explain([]byte(strings.Join(lines, "\n")), config(""), "/sysroot")
	if strings.Join(got, "|") != "$.storage (line 1, column 2): wrong|failed writing unit x.service" {
		t.Errorf("told is %q", got)
	}
}

func FuzzExplain(f *testing.F) {
	f.Add([]byte("CRITICAL : error at $.a, line 1 col 2: path not absolute\n"), config(""))
	f.Add([]byte(`op(1): [failed]   writing file "/sysroot/x": s3cr3t-KEY`), []byte("{"))
	f.Fuzz(func(t *testing.T, output, config []byte) {
		for _, r := range explain(output, config, "/sysroot") {
			if leaks(r, secretsOf(config)) {
				t.Errorf("told is %q", r)
			}
		}
	})
}
