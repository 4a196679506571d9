// Package pki is a cluster's identity: its certificate authorities and keys, where they are kept, and the certificates
// and kubeconfigs made with them.
//
// Words: the identity is made once for a cluster and kept by its operator; a leaf is a certificate made for one node and
// one purpose, with a key of its own that exists nowhere else. There are four authorities, so that none can vouch for
// another's peers: the cluster's (API servers, kubelets, clients), etcd's, the front proxy's (aggregated APIs), and the boot server's.
//
// Clock and entropy are arguments: equal arguments give equal bytes, which is what the tests of nodeconfig lean on.
// It places no file on a node (builder/nodeconfig) and serves none (builder/netboot).
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"time"
)

// How long things are valid.
const (
	AuthorityLifetime = 10 * 365 * 24 * time.Hour
	// LeafLifetime is that of servers and of components' client certificates. Rendering a node's configuration makes
	// new ones, so booting again renews them.
	LeafLifetime = 365 * 24 * time.Hour
	// KubeletLifetime is that of the first client certificate of a kubelet, which replaces it by itself.
	KubeletLifetime = 7 * 24 * time.Hour
	// AdminLifetime is that of an admin kubeconfig.
	AdminLifetime = 90 * 24 * time.Hour
	// OperatorLifetime is that of the certificate of one command (slipway logs --follow may run for long).
	OperatorLifetime = 24 * time.Hour
	// Backdate is how long before now everything becomes valid, for machines whose clock is behind.
	Backdate = 24 * time.Hour
)

// Environment is what the making of certificates takes from the world.
type Environment struct {
	Now  time.Time
	Rand io.Reader // crypto/rand.Reader
}

// Identity is a cluster's authorities and keys. All of it is secret, but the authorities' certificates.
type Identity struct {
	Cluster    string // name of the cluster it was made for
	CA         *Authority
	Etcd       *Authority
	FrontProxy *Authority
	// Boot signs the boot server's certificates, and nothing else: images may pin it. No node has its key. An identity of an
	// earlier version has none until AddBoot.
	Boot           *Authority
	ServiceAccount *ecdsa.PrivateKey // signs service account tokens (ES256)
	EncryptionKey  []byte            // 32 bytes: encrypts Secrets in etcd
	Rotation       *Rotation         // nil: none is under way

	lock   *Lock // of the folder that it was read from or made in; nil: its keys are plain there
	number int   // generation of the authorities that a rotation replaces: 1, 2...
}

// Authority is a certificate authority with its key.
type Authority struct {
	Certificate *x509.Certificate
	Key         *ecdsa.PrivateKey
}

// Pair is a certificate and its key as PEM (PKCS #8).
type Pair struct{ Certificate, Key []byte }

// Leaf says what a certificate is for.
type Leaf struct {
	CommonName   string
	Organization []string
	Names        []string     // DNS names it serves
	Addresses    []netip.Addr // IP addresses it serves
	Server       bool
	Client       bool
	Lifetime     time.Duration
}

// generate makes an identity in memory.
func generate(name string, env Environment) (*Identity, error) {
	first, err := newGeneration(name, 1, env)
	if err != nil {
		return nil, err
	}
	id := &Identity{Cluster: name}
	id.take(first)
	id.EncryptionKey = make([]byte, 32)
	if _, err := io.ReadFull(env.Rand, id.EncryptionKey); err != nil {
		return nil, fmt.Errorf("cannot read entropy: %w", err)
	}
	if id.Boot, err = newBoot(name, env); err != nil {
		return nil, err
	}
	return id, nil
}

func newBoot(name string, env Environment) (*Authority, error) {
	return newAuthority(name+" boot CA", env)
}

func newAuthority(cn string, env Environment) (*Authority, error) {
	key, err := newKey(env.Rand)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate(pkix.Name{CommonName: cn}, AuthorityLifetime, env)
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.MaxPathLenZero = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(nil, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("cannot make certificate of %s: %w", cn, err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("cannot make certificate of %s: %w", cn, err)
	}
	return &Authority{Certificate: certificate, Key: key}, nil
}

// newTemplate has what all certificates have. Serial numbers are random and positive (RFC 5280, section 4.1.2.2).
func newTemplate(subject pkix.Name, lifetime time.Duration, env Environment) (*x509.Certificate, error) {
	serial := make([]byte, 16)
	if _, err := io.ReadFull(env.Rand, serial); err != nil {
		return nil, fmt.Errorf("cannot read entropy: %w", err)
	}
	serial[0] = serial[0]&0x7f | 0x40
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      subject,
		NotBefore:    env.Now.Add(-Backdate).UTC().Truncate(time.Second),
		NotAfter:     env.Now.Add(lifetime).UTC().Truncate(time.Second),
	}, nil
}

// newKey makes a P-256 key from entropy: FIPS 186-5, A.2.1 (extra random bits). Package ecdsa's own GenerateKey does
// not promise to read from the reader it is given.
func newKey(rand io.Reader) (*ecdsa.PrivateKey, error) {
	curve := elliptic.P256()
	seed := make([]byte, 40)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return nil, fmt.Errorf("cannot read entropy: %w", err)
	}
	one := big.NewInt(1)
	d := new(big.Int).SetBytes(seed)
	d.Mod(d, new(big.Int).Sub(curve.Params().N, one)).Add(d, one)
	key, err := ecdsa.ParseRawPrivateKey(curve, d.FillBytes(make([]byte, 32)))
	if err != nil {
		return nil, fmt.Errorf("cannot make key: %w", err)
	}
	return key, nil
}

// Issue makes a key and a certificate for it. A leaf never outlives its authority.
func (a *Authority) Issue(l Leaf, env Environment) (Pair, error) {
	fail := func(err error) (Pair, error) {
		return Pair{}, fmt.Errorf("cannot make certificate of %s: %w", l.CommonName, err)
	}
	if err := a.validAt(env.Now); err != nil {
		return fail(err)
	}
	key, err := newKey(env.Rand)
	if err != nil {
		return fail(err)
	}
	template, err := newTemplate(pkix.Name{CommonName: l.CommonName, Organization: l.Organization}, l.Lifetime, env)
	if err != nil {
		return fail(err)
	}
	if template.NotAfter.After(a.Certificate.NotAfter) {
		template.NotAfter = a.Certificate.NotAfter
	}
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.DNSNames = l.Names
	for _, ip := range l.Addresses {
		template.IPAddresses = append(template.IPAddresses, net.IP(ip.AsSlice()))
	}
	if l.Server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if l.Client {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	// A nil reader makes the signature deterministic (RFC 6979).
	der, err := x509.CreateCertificate(nil, template, a.Certificate, &key.PublicKey, a.Key)
	if err != nil {
		return fail(err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return fail(err)
	}
	return Pair{Certificate: encodeCertificate(der), Key: keyPEM}, nil
}

// ErrExpired says that an authority can't sign at the time it is asked to.
var ErrExpired = errors.New("certificate authority is not valid now")

func (a *Authority) validAt(now time.Time) error {
	c := a.Certificate
	if now.Before(c.NotBefore) || now.After(c.NotAfter) {
		return fmt.Errorf("%w: %s is valid from %s to %s, and this machine's clock says %s", ErrExpired, c.Subject.CommonName,
			c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// PEM is the authority's certificate.
func (a *Authority) PEM() []byte { return encodeCertificate(a.Certificate.Raw) }

// KeyPEM is the authority's key. Only control planes of the cluster's authority get it: they sign kubelets' requests.
func (a *Authority) KeyPEM() ([]byte, error) { return encodeKey(a.Key) }

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func encodePublicKey(key *ecdsa.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
