package initramfs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/slipway-os/slipway/agent/tpm"
	"github.com/slipway-os/slipway/images/bootspec"
)

// prover is a TPM that can show that it is there.
type prover interface {
	Request(mac string) bootspec.TPMRequest
	Answer(c bootspec.TPMChallenge, claimant, authority string) ([]byte, error)
	Close()
}

// openTPM opens this machine's TPM.
func openTPM() (prover, error) {
	t, err := tpm.Open(tpm.Device)
	if err != nil {
		return nil, err
	}
	return t, nil
}

// tpmLimit is how long a TPM may take to make its keys. Slow ones need a minute for an RSA key.
const tpmLimit = 5 * time.Minute

// findTPM opens the machine's TPM. Without one b.absent says why.
func (b *boot) findTPM() {
	type result struct {
		tpm prover
		err error
	}
	done := make(chan result, 1)
	go func() {
		t, err := b.openTPM()
		done <- result{t, err}
	}()
	var got result
	select {
	case got = <-done:
	case <-time.After(tpmLimit):
		got.err = errors.New("the TPM doesn't answer")
	}
	switch {
	case errors.Is(got.err, tpm.ErrNone):
		b.log.Info(got.err.Error() + ": its claim shows none")
	case got.err != nil:
		b.log.Warn("THE TPM CAN'T BE USED: the claim shows none", "cause", got.err)
	}
	if got.err != nil {
		b.absent = got.err.Error()
		return
	}
	b.tpm = got.tpm
}

// prove has the TPM prove for the claim that comes next that it is in this machine. A proof that the server doesn't want or doesn't take is left
// out of the claim, which then says why; again says that the server could not be asked and another try may help.
func (b *boot) prove(ctx context.Context, claim *bootspec.Claim) (again bool, err error) {
	claim.TPMProof, claim.TPMAbsent = nil, ""
	if b.tpm == nil {
		claim.TPMAbsent = shortened(b.absent)
		return false, nil
	}
	challenge, again, err := b.challenge(ctx)
	var answer *answerError
	switch {
	case errors.As(err, &answer) && answer.status == http.StatusNoContent:
		b.log.Info("the boot server doesn't ask for TPMs")
		return false, nil
	case errors.As(err, &answer) && answer.status == http.StatusNotFound:
		b.log.Warn("the boot server is older than this image and doesn't bind nodes to TPMs")
		return false, nil
	case again:
		return true, err
	case err != nil:
		b.log.Warn("the boot server doesn't take this machine's TPM", "cause", err)
		claim.TPMAbsent = shortened(err.Error())
		return false, nil
	}
	proof, err := b.tpm.Answer(challenge, b.claimKey, b.authority)
	if err != nil {
		b.log.Warn("THE TPM CAN'T BE USED: the claim shows none", "cause", err)
		claim.TPMAbsent = shortened(err.Error())
		return false, nil
	}
	claim.TPMProof = proof
	b.log.Info("this machine's TPM has opened the boot server's challenge")
	return false, nil
}

// challenge asks the boot server for something that only this machine's TPM can open.
func (b *boot) challenge(ctx context.Context) (c bootspec.TPMChallenge, again bool, err error) {
	body, err := json.Marshal(b.tpm.Request(b.lease.MAC))
	if err != nil {
		return c, false, err
	}
	data, _, again, err := b.tell(ctx, bootspec.RouteTPM, body, bootspec.MaxTPM)
	if err != nil {
		return c, again, err
	}
	c, err = bootspec.ParseTPMChallenge(bytes.NewReader(data))
	return c, false, err
}

// shortened is a reason that fits into a claim.
func shortened(reason string) string { return oneLine([]byte(reason[:min(len(reason), 400)])) }
