package media

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// tpm is a TPM 2.0 for one boot of a machine, with a state that stays in dir: the arguments for QEMU. model is one of QEMU's.
func tpm(t *testing.T, dir, model string) []string {
	t.Helper()
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("swtpm is not installed (make deps)")
	}
	at, err := os.MkdirTemp("", "tpm") // a socket's path is short
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(at) })
	socket := filepath.Join(at, "control")
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--ctrl", "type=unixio,path="+socket, "--terminate")
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); <-ended })
	for {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("swtpm ended: %v", err)
		default:
			time.Sleep(20 * time.Millisecond)
		}
	}
	return []string{"-chardev", "socket,id=tpm,path=" + socket, "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", model + ",tpmdev=tpm0"}
}

// TestMachineClaimsWithItsTPM: a machine with a TPM claims its configuration, and again at its next boot; another machine with the same MAC address, UUID and
// serial number that has another TPM, or none, is refused until the node is armed.
func TestMachineClaimsWithItsTPM(t *testing.T) {
	b := newBench(t)
	const uuid, serial = "4c4c4544-0042-3010-8051-b4c04f4e3132", "ABC1"
	const opened, claimed = "this machine's TPM has opened the boot server's challenge", "configuration claimed over TLS"
	own, other := t.TempDir(), t.TempDir()

	for _, model := range []string{"tpm-crb", "tpm-tis"} { // the two ways that PCs reach a TPM
		m := b.power("", uuid, serial, tpm(t, own, model)...)
		m.await(opened)
		m.await(claimed)
		m.off()
	}
	b.said("tpm=true")

	m := b.power("", uuid, serial, tpm(t, other, "tpm-crb")...)
	m.await(opened)
	m.await("with another TPM (an operator opens it again with: slipway arm worker-1)")
	m.never(claimed)
	m.off()
	b.said("CLAIM REFUSED")

	m = b.power("", uuid, serial)
	m.await("this machine has no TPM 2.0")
	m.await("without the TPM that the node is bound to")
	m.never(claimed)
	m.off()

	b.arm()
	m = b.power("", uuid, serial, tpm(t, other, "tpm-crb")...)
	m.await(claimed)
}
