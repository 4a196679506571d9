package netboot

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-os/slipway/builder/kv"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/bootspec/securetest"
)

// claimant is a key that a machine has made, with its certificate.
func claimant(t testing.TB) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// fingerprintOf is that of a claimant's key.
func fingerprintOf(t testing.TB, own *tls.Certificate) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&own.PrivateKey.(*ecdsa.PrivateKey).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return bootspec.Fingerprint(der)
}

// claimantFile is one as a file for curl.
func claimantFile(t *testing.T) string {
	t.Helper()
	c := claimant(t)
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	must(t, err)
	file := filepath.Join(t.TempDir(), "claimant.pem")
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	must(t, os.WriteFile(file, text, 0o600))
	return file
}

// secureLoopback serves a serving's TLS side, and returns a claim: from an address, with a key (nil: none) and a JSON body.
func (s *serving) secureLoopback() func(from string, own *tls.Certificate, body string) (int, string) {
	ask := s.secureAsk()
	return func(from string, own *tls.Certificate, body string) (int, string) {
		return ask(bootspec.RouteClaim, from, own, body)
	}
}

// secureLoopbackAt is secureLoopback for another route.
func (s *serving) secureLoopbackAt(route string) func(from string, own *tls.Certificate, body string) (int, string) {
	ask := s.secureAsk()
	return func(from string, own *tls.Certificate, body string) (int, string) { return ask(route, from, own, body) }
}

// secureAsk is secureLoopback for any route.
func (s *serving) secureAsk() func(route, from string, own *tls.Certificate, body string) (int, string) {
	authority, own := securetest.Certificate(s.t)
	server := httptest.NewUnstartedServer(s.secureRoutes())
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server.TLS = tlsConfig(func() (*tls.Certificate, error) { return own, nil })
	server.StartTLS()
	s.t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	var err error
	_, s.tpms.authority, err = bootspec.Secure{Authority: string(authority)}.Trust(nil)
	must(s.t, err)
	return func(route, from string, own *tls.Certificate, body string) (int, string) {
		s.t.Helper()
		config := &tls.Config{RootCAs: roots, ServerName: bootspec.SecureName}
		if own != nil {
			config.Certificates = []tls.Certificate{*own}
		}
		dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: config, DisableKeepAlives: true}}
		answer, err := client.Post(server.URL+route, "application/json", strings.NewReader(body))
		if err != nil {
			s.t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			s.t.Fatal(err)
		}
		return answer.StatusCode, string(text)
	}
}

func claimOf(mac, uuid, serial string) string {
	text, _ := json.Marshal(bootspec.Claim{Version: bootspec.ClaimVersion, MAC: mac, UUID: uuid, Serial: serial})
	return string(text)
}

const cpMAC, cpUUID = "52:54:00:00:00:11", "4c4c4544-0042-3010-8051-b4c04f4e3132"

// TestConfigIsClaimedOnce: the first machine with the MAC address at the address gets it, also when it boots again; another machine that
// has both doesn't, until an operator arms the node, and that is shouted. Nothing secret and nothing that binds is in log and states.
func TestConfigIsClaimedOnce(t *testing.T) {
	s := serveLoopback(t)
	claim := s.secureLoopback()
	first, later, thief := claimant(t), claimant(t), claimant(t)
	good := claimOf(cpMAC, cpUUID, "ABC-SERIAL")
	for _, c := range []struct {
		what, from string
		own        *tls.Certificate
		body       string
		status     int
		says       string
	}{
		{"a stranger's address", strangerAddress, first, good, 403, "no configuration for this machine at this address"},
		{"another node's address", workerAddress, first, good, 403, "no configuration for this machine at this address"},
		{"a MAC address of nobody", cpAddress, first, claimOf("52:54:00:00:00:99", cpUUID, "x"), 403, "no configuration"},
		{"no key", cpAddress, nil, good, 401, "needs a certificate"},
		{"another version", cpAddress, first, strings.Replace(good, `"version":1`, `"version":2`, 1), 400, "the image speaks version 2 of the claim"},
		{"no JSON", cpAddress, first, "x", 400, "cannot read claim"},
		{"the first machine", cpAddress, first, good, 200, secret + " of cp-1"},
		{"the same boot again", cpAddress, first, good, 200, secret + " of cp-1"},
		{"the same machine's next boot", cpAddress, later, claimOf(strings.ToUpper(cpMAC), strings.ToUpper(cpUUID), "ABC-SERIAL"), 200, secret + " of cp-1"},
		{"another UUID", cpAddress, thief, claimOf(cpMAC, "11111111-0042-3010-8051-b4c04f4e3132", "ABC-SERIAL"), 403, "slipway arm cp-1"},
		{"another serial number", cpAddress, thief, claimOf(cpMAC, cpUUID, "guessed"), 403, "slipway arm cp-1"},
	} {
		status, text := claim(c.from, c.own, c.body)
		if status != c.status || !strings.Contains(text, c.says) || status != 200 && strings.Contains(text, secret) || strings.Contains(text, "ABC-SERIAL") {
			t.Errorf("%s: %d %q", c.what, status, text)
		}
	}
	status := s.states.all()[0]
	if c := status.Claim; c == nil || c.Refused != 2 || c.RefusedFrom != cpAddress || c.From != cpAddress || status.State != "config claimed" {
		t.Errorf("the states have %+v of %s", c, status.State)
	}
	_, _, nodes := s.ask(strangerAddress, "GET /v1/nodes")
	log := s.log.String()
	if all := log + nodes; strings.Contains(all, secret) || strings.Contains(all, "ABC-SERIAL") || strings.Contains(strings.ToLower(all), cpUUID) {
		t.Errorf("what must not be there is in the log or in the states:\n%s", all)
	}
	if strings.Count(log, "CLAIM REFUSED") != 2 || strings.Count(log, "configuration sent") != 3 {
		t.Errorf("log:\n%s", log)
	}
	must(t, s.claims.arm("cp-1"))
	if code, text := claim(cpAddress, thief, claimOf(cpMAC, cpUUID, "new board")); code != 200 {
		t.Errorf("armed: %d %s", code, text)
	}
	if code, _ := claim(cpAddress, claimant(t), good); code != 403 {
		t.Errorf("the machine of before, after another was let in: %d", code)
	}
	record, _, err := readClaims(s.claims.store, "cp-1")
	if err != nil || record.Armed || record.Bound.Serial != "new board" || len(record.Recent) != 4 || record.Recent[2].Key == record.Recent[0].Key || record.Recent[0].From.String() != cpAddress {
		t.Errorf("kept: %+v, %v", record, err)
	}
	if code, _, text := s.ask(cpAddress, "GET /v1/config?mac="+cpMAC); code != http.StatusUpgradeRequired || !strings.Contains(text, "bake it anew") {
		t.Errorf("an image of before: %d %s", code, text)
	}
}

func TestConfigGoesToTheMachineTheDocumentMeans(t *testing.T) {
	s := serveLoopback(t)
	claim := s.secureLoopback()
	s.site.Machines[0].UUID, s.site.Machines[0].Serial = "4C4C4544-0042-3010-8051-b4c04f4e3132", "ABC1"
	for _, c := range []struct {
		uuid, serial string
		status       int
	}{{"", "", 403}, {cpUUID, "XYZ9", 403}, {cpUUID, "ABC1", 200}} {
		if status, text := claim(cpAddress, claimant(t), claimOf(cpMAC, c.uuid, c.serial)); status != c.status || strings.Contains(text, "ABC1") {
			t.Errorf("%+v: %d %s", c, status, text)
		}
	}
}

// brokenStore can't keep anything.
type brokenStore struct{ memory }

func (*brokenStore) Begin(...kv.Change) <-chan error {
	ended := make(chan error, 1)
	ended <- errors.New("no space left on device")
	return ended
}

// TestClaimIsKeptBeforeItIsAnswered: no configuration without a record, and no record for what can't be made.
func TestClaimIsKeptBeforeItIsAnswered(t *testing.T) {
	s := serveLoopback(t)
	claim := s.secureLoopback()
	s.handler.config = func(string) ([]byte, error) { return nil, errors.New("the disk with the keys is gone") }
	if code, text := claim(cpAddress, claimant(t), claimOf(cpMAC, cpUUID, "1")); code != 500 || strings.Contains(text, "disk") {
		t.Errorf("%d %s", code, text)
	}
	if record, _, _ := readClaims(s.claims.store, "cp-1"); record.Bound != nil {
		t.Errorf("a claim that wasn't answered binds: %+v", record)
	}
	s.handler.config = func(string) ([]byte, error) { return []byte(secret), nil }
	s.claims.store = &brokenStore{}
	if code, text := claim(cpAddress, claimant(t), claimOf(cpMAC, cpUUID, "1")); code != 500 || strings.Contains(text, secret) {
		t.Errorf("%d %s", code, text)
	}
	if !strings.Contains(s.log.String(), "no space left on device") {
		t.Errorf("log:\n%s", s.log)
	}
}

func TestDecideClaim(t *testing.T) {
	at := someTime()
	asks := func(key, uuid, serial string) Claimed {
		return Claimed{Time: at, From: netip.MustParseAddr("10.1.0.11"), MAC: cpMAC, UUID: uuid, Serial: serial, Key: key}
	}
	bound := asks("a", "u", "s")
	elsewhere := bound
	elsewhere.MAC = "52:54:00:00:00:12"
	for _, c := range []struct {
		what   string
		policy ClaimPolicy
		record ClaimRecord
		asks   Claimed
		want   bool
	}{
		{"never claimed", ClaimOnce, ClaimRecord{Armed: true}, asks("b", "", ""), true},
		{"armed again", ClaimOnce, ClaimRecord{Armed: true, Bound: &bound}, asks("b", "x", "y"), true},
		{"the document has another machine now", ClaimOnce, ClaimRecord{Bound: &elsewhere}, asks("b", "x", "y"), true},
		{"the same key", ClaimOnce, ClaimRecord{Bound: &bound}, asks("a", "u", "s"), true},
		{"once, another boot", ClaimOnce, ClaimRecord{Bound: &bound}, asks("b", "u", "s"), false},
		{"the same machine", ClaimSameMachine, ClaimRecord{Bound: &bound}, asks("b", "U", "s"), true},
		{"another machine", ClaimSameMachine, ClaimRecord{Bound: &bound}, asks("b", "u", "t"), false},
		{"one that shows nothing", ClaimSameMachine, ClaimRecord{Bound: &bound}, asks("b", "", ""), false},
		{"no policy", "", ClaimRecord{Bound: &bound}, asks("b", "u", "t"), false},
	} {
		next, err := decideClaim(c.record, c.policy, c.asks)
		if (err == nil) != c.want || err != nil && !errors.Is(err, ErrClaimed) {
			t.Errorf("%s: %v", c.what, err)
		}
		if err == nil && (next.Armed || next.Bound == nil || next.Bound.MAC != cpMAC || next.Recent[len(next.Recent)-1] != c.asks) {
			t.Errorf("%s: %+v", c.what, next)
		}
	}
	record := ClaimRecord{Armed: true}
	for i := range 3 * maxClaims {
		record, _ = decideClaim(record, ClaimSameMachine, asks(fmt.Sprint(i), "u", "s"))
	}
	if len(record.Recent) != maxClaims || record.Bound.Key != "0" {
		t.Errorf("%d claims, bound to %s", len(record.Recent), record.Bound.Key)
	}
}

func TestAnonymousMachines(t *testing.T) {
	for serial, uuid := range map[string]string{"": "", "Default string": "00000000-0000-0000-0000-000000000000", " To Be Filled By O.E.M.": "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"} {
		if !(Claimed{UUID: uuid, Serial: serial}).anonymous() {
			t.Errorf("%q %q tell a machine", uuid, serial)
		}
	}
	if (Claimed{UUID: cpUUID}).anonymous() || (Claimed{Serial: "ABC1"}).anonymous() {
		t.Error("what tells a machine is not seen")
	}
}

// TestClaimsRace: of many machines that claim the same node at the same moment, one gets it.
func TestClaimsRace(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	must(t, err)
	defer root.Close()
	store, err := kv.OpenBolt(root, "state.db")
	must(t, err)
	defer store.Close()
	// Two servers on one store: the second one's lock is another.
	servers := []*claims{{store: store}, {store: store}}
	var group sync.WaitGroup
	var mu sync.Mutex
	granted := 0
	for i := range 16 {
		group.Go(func() {
			err := servers[i%2].claim("cp-1", Claimed{Time: someTime(), From: netip.MustParseAddr("10.1.0.11"), MAC: cpMAC, Serial: fmt.Sprint(i), Key: fmt.Sprint(i)})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				granted++
			} else if !errors.Is(err, ErrClaimed) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if granted != 1 {
		t.Errorf("%d machines have it", granted)
	}
}

// TestArm: by the folder, and through the socket of a server that runs.
func TestArm(t *testing.T) {
	network(t)
	config := configFor(t, &journal{})
	dir, site := config.StateDir, config.Site
	s, stop := run(t, config)
	must(t, s.claims.claim("cp-1", Claimed{MAC: cpMAC, Key: "a", Serial: "s"}))
	s.states.refused(cpMAC, "10.1.0.11")
	if w := s.Warnings(); len(w) != 1 || !strings.Contains(w[0].Text, "slipway arm cp-1") {
		t.Errorf("warnings: %+v", w)
	}
	armed := func(want bool) {
		t.Helper()
		all, err := Claims(t.Context(), dir, site)
		if err != nil || len(all) != 2 || all[0].Node != "cp-1" || all[0].Armed != want || all[0].Bound.Serial != "s" || !all[1].Armed || all[1].Bound != nil {
			t.Errorf("%+v, %v", all, err)
		}
	}
	armed(false)
	must(t, Arm(t.Context(), dir, site, "cp-1"))
	armed(true)
	if len(s.Warnings()) != 0 {
		t.Errorf("warnings: %+v", s.Warnings())
	}
	must(t, s.claims.claim("cp-1", Claimed{MAC: cpMAC, Key: "b", Serial: "s"}))
	stop()
	armed(false)
	must(t, Arm(t.Context(), dir, site, "cp-1"))
	armed(true)
	if err := Arm(t.Context(), dir, site, "cp-9"); err == nil || err.Error() != `cannot arm cp-9: cluster lab has no node "cp-9"` {
		t.Error(err)
	}
	stored, err := readStates(newEntries(t, newStore(t, dir)))
	if err != nil || len(stored) != 1 || stored[0].Claim == nil || !stored[0].Claim.Armed {
		t.Errorf("%+v, %v", stored, err)
	}
}
