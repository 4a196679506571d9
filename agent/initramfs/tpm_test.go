package initramfs

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/bootspec"
)

// fakeTPM answers any challenge in its own way.
type fakeTPM struct {
	err    error
	closed int
}

func (f *fakeTPM) Request(mac string) bootspec.TPMRequest {
	return bootspec.TPMRequest{Version: bootspec.ClaimVersion, MAC: mac, EK: []byte("ek"), AK: []byte("ak")}
}

func (f *fakeTPM) Answer(c bootspec.TPMChallenge, claimant, authority string) ([]byte, error) {
	return []byte(string(c.Credential) + string(c.Secret) + claimant[:4] + authority[:4]), f.err
}

func (f *fakeTPM) Close() { f.closed++ }

// TestClaimShowsTheTPM: what a machine with a TPM claims with servers that ask for it, don't, are old, are busy, or refuse it.
func TestClaimShowsTheTPM(t *testing.T) {
	for _, c := range []struct {
		what   string
		tpm    *fakeTPM
		server http.HandlerFunc // of RouteTPM; nil: an earlier version
		proof  bool
		absent string
		says   string
	}{
		{"asked", &fakeTPM{}, challenge(http.StatusOK), true, "", "has opened the boot server's challenge"},
		{"not asked", &fakeTPM{}, challenge(http.StatusNoContent), false, "", "doesn't ask for TPMs"},
		{"an old server", &fakeTPM{}, nil, false, "", "older than this image"},
		{"refused", &fakeTPM{}, challenge(http.StatusBadRequest), false, "the boot server says 400 Bad Request: no such thing", "doesn't take this machine's TPM"},
		{"busy", &fakeTPM{}, challenge(http.StatusServiceUnavailable), true, "", "trying again"},
		{"broken", &fakeTPM{err: errors.New("it smokes")}, challenge(http.StatusOK), false, "it smokes", "THE TPM CAN'T BE USED"},
		{"none", nil, challenge(http.StatusOK), false, "this machine has no TPM 2.0", "no TPM 2.0"},
	} {
		t.Run(c.what, func(t *testing.T) {
			var claimed bootspec.Claim
			mux := http.NewServeMux()
			if c.server != nil {
				mux.HandleFunc("POST "+bootspec.RouteTPM, c.server)
			}
			mux.HandleFunc("POST "+bootspec.RouteClaim, func(w http.ResponseWriter, r *http.Request) {
				var err error
				if claimed, err = bootspec.ParseClaim(r.Body); err != nil {
					t.Error(err)
				}
				_, _ = w.Write([]byte("{}"))
			})
			b, said := claimerAt(t, "", mux)
			if c.tpm != nil {
				b.openTPM = func() (prover, error) { return c.tpm, nil }
			}
			if err := errors.Join(b.findSecure(t.Context()), b.claimConfig(t.Context())); err != nil {
				t.Fatal(err)
			}
			want := ""
			if c.proof {
				want = "cs" + b.claimKey[:4] + b.authority[:4]
			}
			if string(claimed.TPMProof) != want || claimed.TPMAbsent != c.absent || !strings.Contains(said.String(), c.says) {
				t.Errorf("claimed %q, %q; want %q, %q; said: %s", claimed.TPMProof, claimed.TPMAbsent, want, c.absent, said)
			}
			if c.tpm != nil && c.tpm.closed != 1 {
				t.Errorf("the TPM was closed %d times", c.tpm.closed)
			}
		})
	}
}

// challenge answers with a challenge, at the second time if the server is busy first.
func challenge(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		request, err := bootspec.ParseTPMRequest(r.Body)
		if err != nil || request.MAC != "52:54:00:00:00:11" || string(request.EK) != "ek" || len(r.TLS.PeerCertificates) != 1 {
			status = http.StatusTeapot
		}
		switch status {
		case http.StatusOK:
			_, _ = w.Write([]byte(`{"credential":"Yw==","secret":"cw=="}`))
		case http.StatusNoContent:
			w.WriteHeader(status)
		default:
			http.Error(w, "no such thing", status)
			if status == http.StatusServiceUnavailable {
				status = http.StatusOK
			}
		}
	}
}
