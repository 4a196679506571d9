package pki_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/builder/pki"
)

// trusts says whether a certificate of a node counts for whoever has these authorities.
func trusts(t *testing.T, authorities, certificate []byte) bool {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authorities) {
		t.Fatal("no authority")
	}
	block, _ := pem.Decode(certificate)
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	_, err = parsed.Verify(x509.VerifyOptions{
		Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, CurrentTime: environment(1).Now,
	})
	return err == nil
}

// controlPlane is cp-1's files by their paths below the folder of certificates.
func controlPlane(t *testing.T, id *pki.Identity) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for name, f := range nodeFiles(t, id, "cp-1") {
		files[strings.TrimPrefix(name, "/etc/kubernetes/pki/")] = f.Data
	}
	return files
}

// public is a key's public half as it stands in sa.pub.
func public(t *testing.T, key []byte) string {
	t.Helper()
	block, _ := pem.Decode(key)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(parsed.(*ecdsa.PrivateKey).Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// TestRotate: between two neighbouring steps everybody trusts everybody, in the end nobody trusts what was there at the beginning, and every
// step is on disk.
func TestRotate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	if _, err := pki.Create(dir, lab(t), environment(1)); err != nil {
		t.Fatal(err)
	}
	pairs := []struct{ authority, certificate string }{
		{"ca.crt", "apiserver.crt"}, {"ca.crt", "manage.crt"}, {"etcd/ca.crt", "etcd/peer.crt"}, {"front-proxy-ca.crt", "front-proxy-client.crt"},
	}
	var history []map[string][]byte
	for round, want := range []pki.Step{"", pki.StepTrust, pki.StepIssue, pki.StepFinish, "", pki.StepTrust, pki.StepIssue, pki.StepFinish, ""} {
		id, err := pki.Load(dir)
		if err != nil {
			t.Fatalf("%d: %v", round, err)
		}
		var step pki.Step
		if id.Rotation != nil {
			step = id.Rotation.Step
		}
		if step != want {
			t.Fatalf("%d: step %q, want %q", round, step, want)
		}
		files := controlPlane(t, id)
		if len(history) > 0 {
			before := history[len(history)-1]
			for _, p := range pairs {
				if !trusts(t, files[p.authority], before[p.certificate]) || !trusts(t, before[p.authority], files[p.certificate]) {
					t.Errorf("%d: nodes of this step and of the one before don't trust each other: %s", round, p.certificate)
				}
			}
			if key := public(t, files["sa.key"]); !strings.Contains(string(before["sa.pub"]), key) || !strings.Contains(string(files["sa.pub"]), public(t, before["sa.key"])) {
				t.Errorf("%d: tokens of this step and of the one before don't count for each other", round)
			}
		}
		if round == 4 || round == 8 {
			for _, p := range pairs {
				if trusts(t, files[p.authority], history[round-4][p.certificate]) {
					t.Errorf("%d: %s of before still counts", round, p.certificate)
				}
			}
			if strings.Contains(string(files["sa.pub"]), public(t, history[round-4]["sa.key"])) {
				t.Errorf("%d: tokens of before still count", round)
			}
			if names := tree(t, dir); strings.Count(names, "\n") != 10 {
				t.Errorf("%d: files were left:\n%s", round, names)
			}
		}
		if n := strings.Count(string(files["signer.crt"]), "BEGIN"); n != 1 {
			t.Errorf("%d: kube-controller-manager signs with %d certificates", round, n)
		}
		history = append(history, files)
		if err := id.Renewed(dir, "worker-1"); err != nil {
			t.Fatal(err)
		}
		if id, err = pki.Load(dir); err != nil {
			t.Fatal(err)
		}
		if r := id.Rotation; r != nil && (!r.Done([]string{"worker-1"}) || r.Done([]string{"worker-1", "cp-1"})) {
			t.Errorf("%d: renewed are %q", round, r.Renewed)
		}
		if err := id.Advance(dir, environment(byte(10+round))); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRotateCut: a rotation that was cut off between its files leaves an identity that loads, and the step is done again.
func TestRotateCut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	id, err := pki.Create(dir, lab(t), environment(1))
	if err != nil {
		t.Fatal(err)
	}
	record, err := os.ReadFile(filepath.Join(dir, "identity.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Advance(dir, environment(2)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "identity.json"), record, 0o600); err != nil { // as if it had not come so far
		t.Fatal(err)
	}
	if id, err = pki.Load(dir); err != nil || id.Rotation != nil {
		t.Fatalf("%v %v", id, err)
	}
	if err := id.Advance(dir, environment(3)); err != nil {
		t.Fatal(err)
	}
	if id, err = pki.Load(dir); err != nil || id.Rotation == nil || id.Rotation.Step != pki.StepTrust {
		t.Fatalf("%v %v", id, err)
	}
	if err := os.Remove(filepath.Join(dir, "2-etcd-ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Load(dir); !errors.Is(err, pki.ErrIncomplete) || !strings.Contains(err.Error(), "2-etcd-ca.key missing") {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{`"step":"trust","other":7`, `"step":"issue"`, `"step":"later"`, `"step":"finish","other":2`} {
		text := strings.Replace(string(record), "{", `{"rotation":{"since":"2026-01-01T00:00:00Z",`+bad+`},`, 1)
		if err := os.WriteFile(filepath.Join(dir, "identity.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.Load(dir); err == nil || !strings.Contains(err.Error(), "identity.json: step ") {
			t.Errorf("%s: got %v", bad, err)
		}
	}
}
