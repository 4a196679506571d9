package media

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/slipway-os/slipway/builder/authenticode"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// secureCode is OVMF with Secure Boot; its variables are an empty store, too, and it needs a machine with SMM.
const secureCode = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"

// owner is a machine owner's key for Secure Boot and its certificate.
func owner(t *testing.T) (*authenticode.Signer, *x509.Certificate) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "owner"}, NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	certificate, err := x509.ParseCertificate(der)
	must(t, err)
	signer, err := authenticode.NewSigner(key, certificate)
	must(t, err)
	return signer, certificate
}

// guid is a GUID as EFI stores it (UEFI 2.10, appendix A).
func guid(text string) []byte {
	var a uint32
	var b, c, d uint16
	var e uint64
	fmt.Sscanf(text, "%08x-%04x-%04x-%04x-%012x", &a, &b, &c, &d, &e)
	out := binary.LittleEndian.AppendUint32(nil, a)
	out = binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(out, b), c)
	return append(binary.BigEndian.AppendUint16(out, d), binary.BigEndian.AppendUint64(nil, e)[2:]...)
}

// GUIDs of the variables' vendors, and of a signature list of certificates (UEFI 2.10, sections 3.3 and 32.4.1; EDK2's own).
const (
	guidGlobal   = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	guidDatabase = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
	guidEnable   = "f0a30bc7-af08-4556-99c4-001009c93a44"
	guidX509     = "a5c059a1-94e4-4aa7-87b5-ab155c2bf072"
	guidStore    = "aaf32c78-947b-439a-a180-2e144ec37792"
)

// enrolled makes the variables of a machine whose owner's certificate is PK, KEK and db, and whose Secure Boot is on.
func enrolled(t *testing.T, certificate *x509.Certificate, into string) {
	t.Helper()
	list := guid(guidX509) // EFI_SIGNATURE_LIST of one certificate
	for _, n := range []int{28 + 16 + len(certificate.Raw), 0, 16 + len(certificate.Raw)} {
		list = binary.LittleEndian.AppendUint32(list, uint32(n))
	}
	list = append(append(list, guid(guidGlobal)...), certificate.Raw...)
	const kept, authenticated = 1 | 2 | 4, 0x20 // non-volatile, boot and runtime; time-based authentication
	writeVariables(t, into, []variable{
		{"PK", guidGlobal, kept | authenticated, list}, {"KEK", guidGlobal, kept | authenticated, list}, {"db", guidDatabase, kept | authenticated, list},
		{"SecureBootEnable", guidEnable, 1 | 2, []byte{1}},
	})
}

// variable is one of UEFI's.
type variable struct {
	name, vendor string
	attributes   uint32
	data         []byte
}

// writeVariables makes the variables of a machine that was never on: they are written into an empty store, as EDK2 keeps it
// (MdeModulePkg/Include/Guid/VariableFormat.h).
func writeVariables(t *testing.T, into string, variables []variable) {
	t.Helper()
	store, err := os.ReadFile(firmwareVars)
	must(t, err)
	header := bytes.Index(store, guid(guidStore))
	if header < 0 {
		t.Fatal("no store of authenticated variables in ", firmwareVars)
	}
	const storeHeader, erased = 28, 0xff
	at := header + storeHeader
	for _, v := range variables {
		var name []byte
		for _, c := range utf16.Encode([]rune(v.name + "\x00")) {
			name = binary.LittleEndian.AppendUint16(name, c)
		}
		record := []byte{0xaa, 0x55, 0x3f, 0} // it is there
		record = binary.LittleEndian.AppendUint32(record, v.attributes)
		record = append(record, make([]byte, 8)...)                                   // count
		record = append(record, 0xea, 0x07, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) // 2026-01-01
		record = append(record, make([]byte, 4)...)                                   // public key index
		record = binary.LittleEndian.AppendUint32(record, uint32(len(name)))
		record = binary.LittleEndian.AppendUint32(record, uint32(len(v.data)))
		record = append(append(append(record, guid(v.vendor)...), name...), v.data...)
		for len(record)%4 != 0 {
			record = append(record, erased)
		}
		if len(bytes.Trim(store[at:at+len(record)], "\xff")) > 0 {
			t.Fatal("the store isn't empty: ", firmwareVars)
		}
		copy(store[at:], record)
		at += len(record)
	}
	must(t, os.WriteFile(into, store, 0o600))
}

// signedImages is a folder of the artifacts whose worker's UKI is signed, as `slipway bake --secure-boot-key` would have it.
func signedImages(t *testing.T, signer *authenticode.Signer) string {
	t.Helper()
	from, to := os.Getenv("SLIPWAY_ARTIFACTS"), t.TempDir()
	uki := filepath.Base(artifact(t, bootspec.ExtUKI))
	files, err := os.ReadDir(from)
	must(t, err)
	for _, f := range files {
		if !strings.Contains(f.Name(), ".disk") && !strings.HasSuffix(f.Name(), ".iso") && f.Name() != uki {
			run(t, "cp", filepath.Join(from, f.Name()), filepath.Join(to, f.Name()))
		}
	}
	return rewrite(t, to, from, uki, signer)
}

// rewrite puts a signed UKI into a folder, and into its manifest.
func rewrite(t *testing.T, to, from, uki string, signer *authenticode.Signer) string {
	t.Helper()
	program, err := os.ReadFile(filepath.Join(from, uki))
	must(t, err)
	signed, err := signer.Sign(program)
	must(t, err)
	name := strings.TrimSuffix(uki, bootspec.ExtUKI) + ".json"
	data, err := os.ReadFile(filepath.Join(from, name))
	must(t, err)
	var m map[string]any
	must(t, json.Unmarshal(data, &m))
	for _, a := range m["artifacts"].([]any) {
		if entry := a.(map[string]any); entry["kind"] == manifest.KindUKI {
			entry["size"], entry["sha256"] = len(signed), fmt.Sprintf("%x", sha256.Sum256(signed))
		}
	}
	data, err = json.MarshalIndent(m, "", "  ")
	must(t, err)
	must(t, os.Remove(filepath.Join(to, name)), os.WriteFile(filepath.Join(to, name), data, 0o600), os.WriteFile(filepath.Join(to, uki), signed, 0o600))
	return to
}

// secure powers the worker on, a machine with Secure Boot on and its owner's keys, which boots by PXE over IPv4 alone.
func (b *bench) secure(certificate *x509.Certificate) *machine {
	b.t.Helper()
	if _, err := os.Stat(secureCode); err != nil {
		b.t.Skip("no firmware: ", err)
	}
	vars := filepath.Join(b.t.TempDir(), "vars")
	enrolled(b.t, certificate, vars)
	return launchIn(b.t, b.space, "-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on",
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+secureCode, "-drive", "if=pflash,unit=1,format=raw,file="+vars,
		"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=no",
		"-netdev", "tap,id=boot,ifname=tap0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=boot,mac=52:54:00:00:00:21,romfile=,bootindex=1")
}

// TestMachineWithSecureBoot: firmware with Secure Boot on starts an image that the owner has signed: the kernel runs locked down, with its
// modules.
func TestMachineWithSecureBoot(t *testing.T) {
	signer, certificate := owner(t)
	artifact(t, bootspec.ExtUKI)
	t.Setenv("SLIPWAY_ARTIFACTS", signedImages(t, signer))
	b := newBench(t)
	m := b.secure(certificate)
	b.awaitLog(m, "tftp: sent")
	m.await("Secure boot enabled")
	m.await(lineAgent)
}

// TestMachineWithSecureBootRefuses: the same firmware refuses an image that nobody has signed.
func TestMachineWithSecureBootRefuses(t *testing.T) {
	_, certificate := owner(t)
	b := newBench(t)
	m := b.secure(certificate)
	b.awaitLog(m, "tftp: sent")
	m.await("Access Denied", "Security Violation")
	m.never(lineAgent, "EFI stub")
}

// TestMachineWithSecureBootFromADisk: the same firmware starts a signed boot loader from a disk, which starts a signed image.
func TestMachineWithSecureBootFromADisk(t *testing.T) {
	signer, certificate := owner(t)
	path := medium(t, artifact(t, bootspec.ExtDisk))
	configure(t, path, lone(t, nil))
	esp := fmt.Sprintf("%s@@%d", path, partition(t, path, bootspec.LabelESP).Start)
	for _, file := range []string{"EFI/BOOT/BOOTX64.EFI", bootspec.UKIDirectory + "/" + entries(t, path)} {
		from := filepath.Join(t.TempDir(), "program")
		run(t, "mcopy", "-i", esp, "::/"+file, from)
		program, err := os.ReadFile(from)
		must(t, err)
		signed, err := signer.Sign(program)
		must(t, err, os.WriteFile(from, signed, 0o600))
		run(t, "mcopy", "-o", "-i", esp, from, "::/"+file)
	}
	vars := filepath.Join(t.TempDir(), "vars")
	enrolled(t, certificate, vars)
	m := launchIn(t, "", append(virtioDisk(path, 512), "-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on",
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+secureCode, "-drive", "if=pflash,unit=1,format=raw,file="+vars)...)
	m.await("Secure boot enabled")
	m.await("slipway: configuration read from the medium (cluster lab, node worker-1")
}
