package manage

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	storeKey    = "AKIAROOT"
	storeSecret = "s3cr3t/of+the=store"
	storeKeys   = "[default]\naws_access_key_id = " + storeKey + "\naws_secret_access_key = " + storeSecret + "\n"
)

// authority is a certificate for 127.0.0.1 that vouches for itself, and its key, PEM.
func authority(t *testing.T) (certificate, key []byte) {
	t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "store"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, &secret.PublicKey, secret)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// store serves a folder over S3 until the test ends: each folder in it is a bucket.
func store(t *testing.T, folder, certificate, key string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	gateway := exec.CommandContext(ctx, os.Getenv("SLIPWAY_TEST_S3"), "--port", "127.0.0.1:9443", "--cert", certificate, "--key", key,
		"--access", storeKey, "--secret", storeSecret, "posix", "--sidecar", t.TempDir(), folder)
	var words bytes.Buffer
	gateway.Stdout, gateway.Stderr = &words, &words
	if err := gateway.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = gateway.Wait()
		if t.Failed() {
			t.Logf("the store said:\n%s", words.String())
		}
	})
	wait(t, "the store", func() bool { return reachable("127.0.0.1:9443") })
}

// TestNodePushesToABucket: what a control plane keeps comes to an object store; faults of the store are told and healed; the operator
// fetches a snapshot from there when no control plane is left. The keys are in none of what is printed.
func TestNodePushesToABucket(t *testing.T) {
	r := newRack(t)
	needEtcd(t)
	write := func(name string, content []byte) string {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	beside := filepath.Dir(r.folder)
	certificate, secret := authority(t)
	write(filepath.Join(beside, "store.ini"), []byte(storeKeys))
	ca := write(filepath.Join(beside, "store.crt"), certificate)
	key := r.backedUp(t, "[{s3: {endpoint: 'https://127.0.0.1:9443', region: us-east-1, bucket: etcd, prefix: rack-7/, credentials: store.ini, ca: store.crt}}]")
	for path, content := range r.cluster.BucketFiles() {
		write(filepath.Join(r.root, path), content)
	}
	tool := filepath.Join(t.TempDir(), "slipway-etcd")
	if err := os.Symlink(os.Getenv("SLIPWAY_TEST_ETCD"), tool); err != nil {
		t.Fatal(err)
	}
	r.etcdTool = []string{tool}
	etcd := r.etcd(t)
	r.put(t, "color", "blue")
	stop := r.serve(t)

	said := func(words string) func() bool {
		return func() bool {
			text := r.slipway(t, 0, "status", "--nodes")
			if strings.Contains(text, storeSecret) {
				t.Fatal("the status tells the secret key")
			}
			return strings.Contains(text, words)
		}
	}
	wait(t, "that the store is away", said("cp-1: cannot push snapshots of etcd to bucket etcd/rack-7/ at https://127.0.0.1:9443: cannot list what is there: dial tcp"))
	folder := t.TempDir()
	store(t, folder, ca, write(filepath.Join(t.TempDir(), "store.key"), secret))
	wait(t, "that there is no bucket", said("the store says NoSuchBucket"))
	if err := os.Mkdir(filepath.Join(folder, "etcd"), 0o700); err != nil {
		t.Fatal(err)
	}
	wait(t, "the copy in the bucket", func() bool {
		l := r.listed(t)
		return len(l.Snapshots) == 1 && len(l.Snapshots[0].Where) == 2 && len(l.Silent) == 0
	})
	name := r.listed(t).Snapshots[0].Name
	has(t, r.slipway(t, 0, "etcd", "list"), name+` .* cp-1:/var/lib/slipway/etcd-backup, s3:etcd/rack-7/\n`)
	if _, err := os.Stat(filepath.Join(folder, "etcd/rack-7", name)); err != nil {
		t.Error(err)
	}

	// All control planes are lost.
	stop()
	_ = etcd.Process.Kill()
	_ = etcd.Wait()
	latest := filepath.Join(t.TempDir(), "latest")
	has(t, r.slipway(t, 0, "etcd", "fetch", "--latest", "--out", latest, "--key", key), "from s3:etcd/rack-7/ into "+latest, "revision 2, 1 keys")

	// Somebody else's keys.
	write(filepath.Join(beside, "store.ini"), []byte(strings.Replace(storeKeys, "s3cr3t", "stolen", 1)))
	has(t, r.slipway(t, 1, "etcd", "fetch", name, "--out", latest+"2", "--key", key), "s3:etcd/rack-7/: the store says SignatureDoesNotMatch")
	if _, err := os.Stat(latest + "2"); err == nil {
		t.Error("a file was made of nothing")
	}
}
