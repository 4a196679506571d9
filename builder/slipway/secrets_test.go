package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/bootspec/securetest"
	"github.com/slipway-os/slipway/images/manifest"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// inside marks the process that runs in a network namespace of its own.
const inside = "SLIPWAY_TEST_NAMESPACE"

// TestMain runs the tests in a process with a network namespace of its own, where the boot server has its ports.
func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // for Pdeathsig
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot run the tests in a network namespace:", err)
		os.Exit(1)
	}
}

// written is what a program says, while it runs.
type written struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *written) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *written) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// secrets are what must be found nowhere: words in every form that they could be written in, and what they are.
type secrets map[string]string

// add adds a secret's bytes: as they are, in hexadecimal digits, and in base64 wherever they begin in a longer text.
func (s secrets) add(name string, secret []byte) {
	s[string(secret)] = name
	s[hex.EncodeToString(secret)] = name
	s[strings.ToUpper(hex.EncodeToString(secret))] = name
	for shift := range 3 {
		text := base64.StdEncoding.EncodeToString(append(make([]byte, shift), secret...))
		s[strings.TrimRight(text[4:], "=")[:len(text)-10]] = name // its first and last digits depend on the neighbours
	}
}

// addText adds the lines of a text file with keys: PEM's, or one of base64.
func (s secrets) addText(name string, text []byte) {
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if len(line) >= 24 && !strings.HasPrefix(line, "-----") {
			s.add(name, []byte(line))
		}
	}
	if block, _ := pem.Decode(text); block != nil {
		s.add(name, block.Bytes)
	}
	if raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text))); err == nil && len(raw) >= 16 {
		s.add(name, raw)
	}
}

// found names the secrets in a text.
func (s secrets) found(text string) []string {
	seen := map[string]bool{}
	var names []string
	for needle, name := range s {
		if strings.Contains(text, needle) && !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}

// privateFiles adds the keys in an Ignition configuration: files that only root may read.
func (s secrets) privateFiles(t *testing.T, node, config string) (count int) {
	t.Helper()
	var document struct {
		Storage struct {
			Files []struct {
				Path     string
				Mode     int
				Contents struct{ Source string }
			}
		}
	}
	if err := json.Unmarshal([]byte(config), &document); err != nil {
		t.Fatal(err)
	}
	for _, f := range document.Storage.Files {
		_, encoded, ok := strings.Cut(f.Contents.Source, ";base64,")
		if f.Mode != 0o600 || !ok {
			continue
		}
		text, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			t.Fatal(err)
		}
		name := node + ":" + f.Path
		switch {
		case strings.HasSuffix(f.Path, ".key"):
			s.addText(name, text)
		case strings.HasSuffix(f.Path, ".conf"):
			_, key, found := strings.Cut(string(text), "client-key-data: ")
			if !found {
				t.Errorf("%s has no key", name)
			}
			key, _, _ = strings.Cut(key, "\n")
			whole, err := base64.StdEncoding.DecodeString(key)
			if err != nil {
				t.Fatal(err)
			}
			s.add(name, []byte(key))
			s.addText(name, whole)
		default:
			continue
		}
		count++
	}
	return count
}

// identity adds the keys of an identity that is encrypted, and names them.
func (s secrets) identity(t *testing.T, file string, lock age.Identity) (names []string) {
	t.Helper()
	sealed, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer sealed.Close()
	text, err := age.Decrypt(sealed, lock)
	if err != nil {
		t.Fatal(err)
	}
	var keys struct{ Files map[string]string }
	if err := json.NewDecoder(text).Decode(&keys); err != nil {
		t.Fatal(err)
	}
	for name, text := range keys.Files {
		s.addText(name, []byte(text))
		names = append(names, name)
	}
	return names
}

// served makes what a boot server serves for a role.
func served(dir, role string) error {
	base := bootspec.ArtifactBase(role, "0.1.0", "amd64")
	m := &manifest.Manifest{
		APIVersion: manifest.Version, Kind: manifest.Kind, Role: role, Version: "0.1.0", Arch: "amd64",
		Plan: strings.Repeat("a", 64), Root: manifest.Root{Hash: strings.Repeat("b", 64), Data: 4096},
	}
	for kind, extension := range map[string]string{manifest.KindUKI: bootspec.ExtUKI, manifest.KindRoot: bootspec.ExtRoot} {
		content := []byte(strings.Repeat(kind, 1000))
		if err := os.WriteFile(filepath.Join(dir, base+extension), content, 0o644); err != nil {
			return err
		}
		m.Artifacts = append(m.Artifacts, manifest.Artifact{Name: base + extension, Kind: kind, Size: int64(len(content)), SHA256: bootspec.Fingerprint(content)})
	}
	return os.WriteFile(filepath.Join(dir, base+bootspec.ExtManifest), m.Encode(), 0o644)
}

// TestNothingSecretIsServed: a boot server with a real identity and configurations that were claimed; whatever it tells or serves to
// anyone, keeps, logs or says over its socket has no key of the identity and none of the nodes, in any form.
func TestNothingSecretIsServed(t *testing.T) {
	if os.Getenv(inside) == "" {
		t.Skip("a network namespace needs root")
	}
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	shell := func(words string) {
		t.Helper()
		fields := strings.Fields(words)
		if out, err := exec.Command(fields[0], fields[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", words, err, out)
		}
	}
	// cp-1's and worker-1's addresses are here too, so that they can ask from them.
	for _, words := range []string{"ip link set lo up", "ip link add br0 type bridge", "ip addr add 10.1.0.1/24 dev br0", "ip addr add 10.1.0.11/24 dev br0",
		"ip addr add 10.1.0.21/24 dev br0", "ip link set br0 up"} {
		shell(words)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "br0").Run() })
	if err := errors.Join(os.WriteFile(file("lab.yaml"), cluster.Lab(), 0o600), os.Mkdir(file("images"), 0o755),
		served(file("images"), "control-plane"), served(file("images"), "worker")); err != nil {
		t.Fatal(err)
	}
	said := &written{}
	a := &app{in: strings.NewReader(""), out: said, words: said, env: func(string) string { return "" }}
	slipway := func(words ...string) string {
		t.Helper()
		out := &written{}
		if code := run(t.Context(), &app{in: strings.NewReader(""), out: out, words: out, env: a.env}, words); code != 0 {
			t.Fatalf("slipway %s: %d: %s", words, code, out)
		}
		return out.String()
	}
	lock, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file("lock"), []byte(lock.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	slipway("identity", "--cluster", file("lab.yaml"), "--encrypt-to", file("lock"))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, a, []string{"serve", "--cluster", file("lab.yaml"), "--artifacts", file("images"), "--interface", "br0", "--state", file("states"), "--verbose", "--identity-key", file("lock")})
	}()
	defer func() { stop(); <-ended }()
	const base = "http://10.1.0.1:8080"
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if answer, err := http.Get(base + bootspec.RouteHealth); err == nil {
			answer.Body.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the boot server doesn't come up: %s", said)
		}
	}

	hidden := secrets{}
	hidden.addText("the identity's own key", []byte(lock.String()))
	keys := hidden.identity(t, file("identity/keys.age"), lock)
	if len(keys) != 6 {
		t.Fatalf("keys of the identity: %s", keys)
	}

	// Two nodes claim, and another machine tries. What they got are secrets too; that the search finds them there shows that it can.
	get := func(url string) string {
		t.Helper()
		answer, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(answer.Header) + string(text)
	}
	_, body, _ := strings.Cut(get(base+bootspec.RouteSecure), "]]")
	body = body[strings.Index(body, "{"):]
	over, err := bootspec.ParseSecure([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	roots, _, err := over.Trust(nil)
	if err != nil {
		t.Fatal(err)
	}
	claim := func(mac, from, serial string) (int, string) {
		t.Helper()
		_, own := securetest.Certificate(t)
		text, _ := json.Marshal(bootspec.Claim{Version: bootspec.ClaimVersion, MAC: mac, UUID: "u", Serial: serial})
		dialer := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialer.DialContext,
			TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: bootspec.SecureName, Certificates: []tls.Certificate{*own}}}}
		answer, err := client.Post(over.URL+bootspec.RouteClaim, "application/json", bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		config, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(config)
	}
	for _, n := range []struct {
		name, mac, from string
		keys            int
	}{{"cp-1", "52:54:00:00:00:11", "10.1.0.11", 12}, {"worker-1", "52:54:00:00:00:21", "10.1.0.21", 4}} {
		code, config := claim(n.mac, n.from, "HIDDEN-SERIAL-1")
		if code != http.StatusOK {
			t.Fatalf("%s: %d %s", n.name, code, config)
		}
		if count := hidden.privateFiles(t, n.name, config); count < n.keys {
			t.Errorf("only %d keys in the configuration of %s", count, n.name)
		}
		if n.name == "cp-1" && (len(hidden.found(config)) == 0 || !strings.Contains(strings.Join(hidden.found(config), " "), "ca.key")) {
			t.Errorf("the search doesn't find keys where they are: %s", hidden.found(config))
		}
	}
	surfaces := map[string]string{}
	code, refused := claim("52:54:00:00:00:21", "10.1.0.21", "another")
	if code != http.StatusForbidden {
		t.Errorf("another machine: %d", code)
	}
	surfaces["a refused claim"] = refused

	// All that is served without TLS.
	files, err := os.ReadDir(file("images"))
	if err != nil {
		t.Fatal(err)
	}
	routes := []string{"/", "/rack", "/metrics", "/dashboard.js", bootspec.RouteNodes, bootspec.RouteWarnings, bootspec.RouteSecure, bootspec.RouteConfig, bootspec.RouteConfig + "?mac=52:54:00:00:00:11", bootspec.RouteClaim}
	names := []string{"states/state.db", "state.db", "nodes.json", "../states/state.db"}
	for _, f := range files {
		names = append(names, f.Name())
		routes = append(routes, "/ipxe/"+strings.TrimSuffix(f.Name(), ".efi")+"/boot.ipxe")
	}
	for _, key := range keys {
		names = append(names, key, "../identity/"+key, file("identity/"+key))
	}
	for _, name := range names {
		routes = append(routes, bootspec.RouteArtifacts+strings.ReplaceAll(name, "/", "%2f"))
	}
	for _, route := range routes {
		surfaces["GET "+route] = get(base + route)
	}
	if _, err := exec.LookPath("curl"); err == nil {
		for _, name := range names {
			out, _ := exec.Command("curl", "-sS", "-m", "10", "--path-as-is", "tftp://10.1.0.1/"+name).CombinedOutput()
			surfaces["TFTP "+name] = string(out)
		}
	}
	// What people are told, and what is kept.
	state := []string{"--cluster", file("lab.yaml"), "--state", file("states")}
	for _, words := range []string{"explain cp-1", "claims", "claims --output json", "boot worker-1 network", "arm worker-1", "status --server " + base} {
		with := state
		if strings.HasPrefix(words, "status") {
			with = nil
		}
		surfaces["slipway "+words] = slipway(append(strings.Fields(words), with...)...)
	}
	for _, folder := range []string{"states", "identity"} {
		kept, err := os.ReadDir(file(folder))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range kept {
			if !e.Type().IsRegular() {
				continue
			}
			text, err := os.ReadFile(file(folder + "/" + e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			surfaces[e.Name()] = string(text)
		}
	}
	for _, want := range []string{"state.db", "keys.age", "ca.crt"} {
		if surfaces[want] == "" {
			t.Errorf("%s was not searched", want)
		}
	}
	surfaces["the log"] = said.String()
	for _, want := range []string{"configuration sent", "CLAIM REFUSED"} {
		if !strings.Contains(surfaces["the log"], want) {
			t.Errorf("the log doesn't say %q:\n%s", want, said)
		}
	}
	for where, text := range surfaces {
		if names := hidden.found(text); len(names) > 0 {
			t.Errorf("%s has %s", where, strings.Join(names, ", "))
		}
		// What binds a node to its machine is for the operator alone.
		private := strings.HasPrefix(where, "slipway claims") || where == "state.db"
		if strings.Contains(text, "HIDDEN-SERIAL-1") != private {
			t.Errorf("%s: tells the serial number of a claimant: %v", where, !private)
		}
	}
	if len(surfaces) < 40 {
		t.Errorf("only %d places were searched", len(surfaces))
	}
}
