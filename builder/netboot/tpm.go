package netboot

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"

	"github.com/slipway-os/slipway/builder/tpm"
	"github.com/slipway-os/slipway/images/bootspec"
)

// TPMPolicy says what TPMs mean for claims.
type TPMPolicy string

// Policies of TPMs.
const (
	TPMUse      TPMPolicy = "use"      // a machine that has one is bound to it; the zero policy too
	TPMRequired TPMPolicy = "required" // no configuration without one
	TPMIgnore   TPMPolicy = "ignore"   // none is asked for, and what nodes are bound to counts without
)

// ErrNoTPM says that a machine has shown no TPM where one is required.
var ErrNoTPM = errors.New("provisioning.claims.tpm is required, and this machine shows no TPM 2.0")

// errWithoutTPM is the ErrClaimed of a claim without any.
var errWithoutTPM = fmt.Errorf("%w, or without the TPM that the node is bound to", ErrClaimed)

// decideTPM says why a claim is refused for its TPM (ErrClaimed, ErrNoTPM), or nil. It is pure, and stands before decideClaim: not even
// the same boot gets a configuration without the TPM that the node is bound to.
func decideTPM(record ClaimRecord, policy TPMPolicy, claim Claimed) error {
	bound := record.Bound
	switch {
	case policy == TPMIgnore:
		return nil
	case policy == TPMRequired && claim.TPM == "":
		return ErrNoTPM
	case bound == nil, record.Armed, bound.MAC != claim.MAC, bound.TPM == "", bound.TPM == claim.TPM:
		return nil
	case claim.TPM == "":
		return errWithoutTPM
	}
	return fmt.Errorf("%w, with another TPM", ErrClaimed)
}

// takeTPM takes over the TPM of another claim.
func (c *Claimed) takeTPM(from Claimed) {
	c.TPM, c.TPMCertificate, c.TPMMaker = from.TPM, from.TPMCertificate, from.TPMMaker
}

// tpms are the TPMs that machines show.
type tpms struct {
	pending   tpm.Pending
	authority string           // digest of the server's authority
	makers    *tpm.Authorities // nil: all count
}

// serveTPM answers what a machine's TPM shows with a challenge that only that TPM can open.
func (h *handler) serveTPM(w http.ResponseWriter, r *http.Request) {
	request, err := bootspec.ParseTPMRequest(http.MaxBytesReader(w, r.Body, bootspec.MaxTPM))
	if err != nil {
		http.Error(w, oneLine(err.Error()), http.StatusBadRequest)
		return
	}
	m, key, ok := h.claimant(w, r, request.MAC, "TPM", "a TPM is shown by nobody")
	if !ok {
		return
	}
	if h.claims.tpm == TPMIgnore {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	shown, err := tpm.Parse(request)
	if err != nil {
		h.log.Warn("a machine's TPM can't be used", "node", m.Name, "reason", err)
		http.Error(w, "this machine's TPM can't be used: "+oneLine(err.Error()), http.StatusBadRequest)
		return
	}
	challenge, err := h.tpms.pending.Challenge(m.Name, key, shown, h.now())
	if err != nil {
		h.log.Error("cannot challenge a TPM", "node", m.Name, "error", err)
		http.Error(w, "the server cannot challenge this TPM; its log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(challenge)
}

// showsTPM notes the TPM that a claimant has proven to have, if any. Without it the claim was answered already: it shows a proof that is
// not known, or a TPM of somebody whom the operator doesn't believe.
func (h *handler) showsTPM(w http.ResponseWriter, r *http.Request, m Machine, claim bootspec.Claim, asked *Claimed) bool {
	if h.claims.tpm == TPMIgnore || len(claim.TPMProof) == 0 {
		return true
	}
	shown := h.tpms.pending.Proven(m.Name, asked.Key, h.tpms.authority, claim.TPMProof, h.now())
	if shown == nil {
		h.log.Warn("a claim's proof of its TPM is not that of a challenge that this server remembers", "node", m.Name, "from", r.RemoteAddr)
		http.Error(w, "this server knows no challenge that the TPM's proof belongs to: ask for another one", http.StatusServiceUnavailable)
		return false
	}
	if h.tpms.makers != nil {
		if err := h.tpms.makers.Verify(shown, h.now()); err != nil {
			h.refuseTPM(w, r, m, err.Error())
			return false
		}
	}
	asked.TPM = shown.Fingerprint
	if c := shown.Certificate; c != nil {
		asked.TPMCertificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
		asked.TPMMaker = oneLine(c.Issuer.String())
	}
	return true
}

// refuseTPM refuses a claim in a way that arming the node would not change.
func (h *handler) refuseTPM(w http.ResponseWriter, r *http.Request, m Machine, reason string) {
	h.log.Error("CLAIM REFUSED: a machine asked for a node's configuration without a TPM that counts", "node", m.Name, "from", r.RemoteAddr, "reason", reason)
	h.states.refused(m.MAC.String(), remote(r).String())
	http.Error(w, oneLine(reason), http.StatusForbidden)
}

// tpmAbsent is why a claim shows no TPM, as far as it says so.
func tpmAbsent(claim bootspec.Claim) string {
	switch {
	case len(claim.TPMProof) > 0:
		return ""
	case claim.TPMAbsent == "":
		return " (its image is of before TPMs were asked for: bake it anew)"
	}
	return fmt.Sprintf(" (it says: %s)", oneLine(claim.TPMAbsent))
}
