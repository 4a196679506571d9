package tpm

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/slipway-os/slipway/images/bootspec"
)

// endorsement is a kind of endorsement key: where its certificate is (EK Credential Profile, section 2.2.1.4), and its template.
type endorsement struct {
	certificate tpm2.TPMHandle
	template    tpm2.TPMTPublic
}

// The one whose certificate is there is taken, so that it stays the same from boot to boot; without any the first: a TPM makes it in a
// moment, and each TPM for PCs can.
func endorsements() []endorsement {
	return []endorsement{{0x01c0000a, tpm2.ECCEKTemplate}, {0x01c00002, tpm2.RSAEKTemplate}}
}

// persistent are where firmware or an operating system may have put an endorsement key (TCG's provisioning guidance, 7.8).
func persistent() []tpm2.TPMHandle { return []tpm2.TPMHandle{0x81010001, 0x81010002} }

func (t *TPM) findEK() error {
	kinds := endorsements()
	chosen := kinds[0]
	for _, kind := range kinds {
		certificate, err := t.readNV(kind.certificate)
		if err != nil {
			return fmt.Errorf("cannot read its certificate: %w", err)
		}
		if certificate = one(certificate); certificate != nil && len(certificate) <= bootspec.MaxTPMCertificate {
			chosen, t.certificate = kind, certificate
			break
		}
	}
	var err error
	if t.ek, err = t.keptEK(chosen.template); err != nil {
		return err
	}
	if t.ek.Handle == 0 {
		if t.ek, err = t.makePrimary(tpm2.TPMRHEndorsement, chosen.template); err != nil {
			return err
		}
	}
	if !certifies(t.certificate, t.ek.public) {
		t.certificate = nil // of a key with a template of the maker's own
	}
	return nil
}

// keptEK is a key with that template that is in the TPM already; a zero handle: there is none.
func (t *TPM) keptEK(template tpm2.TPMTPublic) (key, error) {
	for _, handle := range persistent() {
		found, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(t.link)
		if errors.Is(err, tpm2.TPMRCHandle) || errors.Is(err, tpm2.TPMRCValue) {
			continue
		}
		if err != nil {
			return key{}, err
		}
		public, err := found.OutPublic.Contents()
		if err != nil {
			return key{}, err
		}
		wanted := template
		wanted.Unique = public.Unique
		if bytes.Equal(tpm2.Marshal(public), tpm2.Marshal(&wanted)) {
			return key{NamedHandle: tpm2.NamedHandle{Handle: handle, Name: found.Name}, public: found.OutPublic, persistent: true}, nil
		}
	}
	return key{}, nil
}

// readNV reads a place in the TPM's memory; nil: it isn't there, or not for everyone.
func (t *TPM) readNV(index tpm2.TPMHandle) ([]byte, error) {
	found, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t.link)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	public, err := found.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	var data []byte
	const part = 512 // bytes; every TPM gives as many at once
	for size := int(public.DataSize); len(data) < size; {
		read, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: found.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: found.NVName},
			Size:       uint16(min(part, size-len(data))), Offset: uint16(len(data)),
		}.Execute(t.link)
		for _, unreadable := range []error{tpm2.TPMRCNVUninitialized, tpm2.TPMRCNVLocked, tpm2.TPMRCNVAuthorization, tpm2.TPMRCAuthFail, tpm2.TPMRCBadAuth} {
			if errors.Is(err, unreadable) {
				return nil, nil
			}
		}
		if err != nil {
			return nil, err
		}
		if len(read.Data.Buffer) == 0 {
			return nil, errors.New("it ends too soon")
		}
		data = append(data, read.Data.Buffer...)
	}
	return data, nil
}

// certifies says whether a certificate is of a key.
func certifies(certificate []byte, public tpm2.TPM2BPublic) bool {
	c, err := x509.ParseCertificate(certificate)
	if err != nil {
		return false
	}
	contents, err := public.Contents()
	if err != nil {
		return false
	}
	own, err := tpm2.Pub(*contents)
	if err != nil {
		return false
	}
	equal, ok := own.(interface{ Equal(x crypto.PublicKey) bool })
	return ok && equal.Equal(c.PublicKey)
}
