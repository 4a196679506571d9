// Package tpmtest gives tests a TPM 2.0: swtpm (Debian package swtpm), with a state of its own in a folder. It is not for programs.
package tpmtest

import (
	"io"
	"net"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// Start powers a TPM on whose state is in dir, and returns the line to it: one command and one answer at a time. It is powered off when
// the line is closed, and at the end of the test. The test is skipped where there is no swtpm.
func Start(t testing.TB, dir string) io.ReadWriteCloser {
	t.Helper()
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("swtpm is not installed (make deps)")
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "TPM"), os.NewFile(uintptr(pair[1]), "TPM")
	line, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--fd", "3", "--flags", "not-need-init,startup-clear", "--terminate")
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	p := &power{Conn: line, cmd: cmd}
	t.Cleanup(func() { p.Close() })
	return p
}

// power is a TPM that is on.
type power struct {
	net.Conn
	cmd *exec.Cmd
	off bool
}

func (p *power) Close() error {
	if p.off {
		return nil
	}
	p.off = true
	p.Conn.Close()
	_ = p.cmd.Process.Signal(unix.SIGTERM)
	return p.cmd.Wait()
}

// Manufacture makes the state of a TPM in dir as its maker would: an endorsement key with a certificate, of an authority
// whose certificate it returns (PEM, all of the chain).
func Manufacture(t testing.TB, dir string) (authorities []byte) {
	t.Helper()
	if _, err := exec.LookPath("swtpm_setup"); err != nil {
		t.Skip("swtpm-tools is not installed (make deps)")
	}
	maker := t.TempDir()
	file := func(name, text string) string {
		if err := os.WriteFile(maker+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return maker + "/" + name
	}
	localca := file("localca.conf", "statedir = "+maker+"\nsigningkey = "+maker+"/key.pem\nissuercert = "+maker+"/issuer.pem\ncertserial = "+maker+"/serial\n")
	options := file("options", "--platform-manufacturer test\n--platform-version 1\n--platform-model test\n")
	config := file("setup.conf", "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = "+localca+"\ncreate_certs_tool_options = "+options+"\n")
	out, err := exec.Command("swtpm_setup", "--tpm2", "--tpmstate", dir, "--create-ek-cert", "--config", config).CombinedOutput()
	if err != nil {
		t.Fatalf("swtpm_setup: %v: %s", err, out)
	}
	for _, name := range []string{"issuer.pem", "swtpm-localca-rootca-cert.pem"} {
		text, err := os.ReadFile(maker + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		authorities = append(authorities, text...)
	}
	return authorities
}

// SigningKey is the public area, without the key itself, of the signing keys that agents make and servers take (TPMT_PUBLIC, hexadecimal): P-256, name by
// SHA-256, fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, sign; ECDSA with SHA-256. Servers refuse any other, so
// that a change of it parts images from servers of before.
const SigningKey = "0023000b00040472000000100018000b0003001000000000"
