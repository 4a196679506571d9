package renewal

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Files that all certificates and tokens of a cluster stand on. While authorities are replaced they hold two: first the one that signs.
var (
	authority       = pkiFile("ca.crt")
	etcdAuthority   = pkiFile("etcd/ca.crt")
	accountVerifier = pkiFile("sa.pub")
)

func pkiFile(name string) string { return filepath.Join(bootspec.PKIDirectory, name) }

// knownAuthorities wants the one that signs in the configuration to be one that this node trusts already. So a rotation goes on step by
// step (builder/pki), and a configuration of another identity, or of a step that this node has missed, is refused.
func (p *Plan) knownAuthorities() error {
	for _, path := range []string{authority, etcdAuthority, pkiFile("front-proxy-ca.crt"), accountVerifier} {
		newer, ok := p.contents[path]
		if !ok {
			continue
		}
		old, err := os.ReadFile(p.at(path))
		if err != nil {
			return err
		}
		becomes := blocks(newer.data)
		if len(becomes) == 0 {
			return fmt.Errorf("%s of the configuration holds nothing", path)
		}
		if !slices.ContainsFunc(blocks(old), func(b []byte) bool { return bytes.Equal(b, becomes[0]) }) {
			return fmt.Errorf("%s is another one: the configuration was made with another identity than the cluster's, or authorities were replaced without this node", path)
		}
	}
	return p.keysFit()
}

// keysFit wants the keys that sign to belong to what is trusted.
func (p *Plan) keysFit() error {
	if key, ok := p.contents[pkiFile("ca.key")]; ok {
		if _, err := tls.X509KeyPair(p.contents[authority].data, key.data); err != nil {
			return fmt.Errorf("ca.key: %w", err)
		}
	}
	key, ok := p.contents[pkiFile("sa.key")]
	if !ok {
		return nil
	}
	public, err := public(key.data)
	if err != nil {
		return fmt.Errorf("sa.key: %w", err)
	}
	if trusted := blocks(p.contents[accountVerifier].data); len(trusted) == 0 || !bytes.Equal(trusted[0], public) {
		return errors.New("sa.key is not the key of sa.pub")
	}
	return nil
}

// public is a key's public half (PKIX).
func public(key []byte) ([]byte, error) {
	list := blocks(key)
	if len(list) != 1 {
		return nil, errors.New("it is not one key")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(list[0])
	if err != nil {
		return nil, errors.New("it is no PKCS #8 key") // the cause could tell of it
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("it can't sign")
	}
	return x509.MarshalPKIXPublicKey(signer.Public())
}

// blocks are the contents of a PEM file.
func blocks(data []byte) (list [][]byte) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return list
		}
		list = append(list, block.Bytes)
	}
}

// Etcd says whether etcd's members are to be trusted by other authorities. etcd reads those only when it starts.
func (p *Plan) Etcd() bool { return slices.Contains(p.Files, etcdAuthority) }

// forget removes the certificates that a kubelet has had signed by itself, where the authority changes. It takes that of its
// kubeconfig instead, which is of now, and has its server's signed anew.
func (p *Plan) forget() error {
	if !slices.Contains(p.Files, authority) {
		return nil
	}
	for _, name := range []string{"kubelet-client-current.pem", "kubelet-server-current.pem"} {
		if err := os.Remove(p.at("/var/lib/kubelet/pki/" + name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
