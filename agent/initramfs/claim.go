package initramfs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/slipway-os/slipway/agent/secure"
	"github.com/slipway-os/slipway/images/bootspec"
)

// maxConfig bounds a node's configuration in bytes.
const maxConfig = 16 << 20

// findSecure learns how the boot server is reached over TLS, and makes the client that claims with a key of this boot. A server that
// is away is waited for.
func (b *boot) findSecure(ctx context.Context) error {
	pins, err := bootspec.ParsePins(b.args[bootspec.ArgBootCA])
	if err != nil {
		return stopError{err}
	}
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		var again bool
		if b.secure, again, err = secure.Discover(ctx, b.client, b.lease.Server); err == nil {
			break
		}
		if !again {
			return stopError{err}
		}
		b.log.Warn("the boot server doesn't say how it is reached over TLS, trying again", "cause", err, "in", pause)
		b.servers.Next()
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	b.servers.Add(b.secure.Others...)
	b.secure.Others = append(b.secure.Others, b.lease.Others...) // for the running system
	key, err := secure.Key()
	if err != nil {
		return err
	}
	client, digest, err := secure.Client(b.secure, pins, key, &b.servers)
	if err != nil {
		return stopError{err}
	}
	b.claimant, b.claimKey, b.authority = client, secure.Digest(key), digest
	if len(pins) == 0 {
		b.log.Warn("BOOT CA NOT PINNED: this image takes whoever answers for its boot server (slipway bake --boot-ca pins the right one)", "authority", digest)
	} else {
		b.log.Info("the boot server's authority is the one that is pinned in this image", "authority", digest)
	}
	return nil
}

// claimConfig gets the node's configuration. A server that is away is waited for; one that refuses ends the boot with its
// reason.
func (b *boot) claimConfig(ctx context.Context) error {
	b.findTPM()
	if b.tpm != nil {
		defer b.tpm.Close()
	}
	claim := bootspec.Claim{
		Version: bootspec.ClaimVersion, MAC: b.lease.MAC, UUID: smbios("product_uuid"), Serial: smbios("product_serial"), Image: b.root.Image,
	}
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		again, err := b.prove(ctx, &claim)
		if err == nil {
			again, err = b.claim(ctx, claim)
		}
		if err == nil {
			b.log.Info("configuration claimed over TLS", "bytes", len(b.config))
			return nil
		}
		if !again {
			return stopError{fmt.Errorf("cannot claim this node's configuration: %w", err)}
		}
		b.log.Warn("cannot claim this node's configuration, trying again", "cause", err, "in", pause)
		b.servers.Next()
		b.claimant.CloseIdleConnections()
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// smbios is what the machine's firmware says of it (SMBIOS specification, type 1); empty if it doesn't.
func smbios(field string) string {
	text, err := os.ReadFile("/sys/class/dmi/id/" + field)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// claim asks once; again says if another try may help.
func (b *boot) claim(ctx context.Context, claim bootspec.Claim) (again bool, err error) {
	body, err := json.Marshal(claim)
	if err != nil {
		return false, err
	}
	config, header, again, err := b.tell(ctx, bootspec.RouteClaim, body, maxConfig)
	if err != nil {
		return again, err
	}
	b.config, b.again = config, header.Get(bootspec.HeaderInstall) == bootspec.InstallAgain
	return false, nil
}

// tell tells the boot server something over TLS, as JSON, for an answer of at most limit bytes; again says if another try may help.
func (b *boot) tell(ctx context.Context, route string, body []byte, limit int64) (data []byte, header http.Header, again bool, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, b.secure.URL+route, bytes.NewReader(body))
	if err != nil {
		return nil, nil, false, err
	}
	request.Header.Set("Content-Type", "application/json")
	return doOnce(b.claimant, request, limit, time.Minute)
}

// getOnce asks the boot server for at most limit bytes; again says if another try may help.
func getOnce(ctx context.Context, client *http.Client, address string, limit int64, patience time.Duration) (data []byte, header http.Header, again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, nil, false, err
	}
	return doOnce(client, req, limit, patience)
}

// doOnce asks the boot server for at most limit bytes; again says if another try may help.
func doOnce(client *http.Client, req *http.Request, limit int64, patience time.Duration) (data []byte, header http.Header, again bool, err error) {
	ctx, cancel := context.WithTimeout(req.Context(), patience)
	defer cancel()
	resp, err := client.Do(req.WithContext(ctx))
	if err != nil {
		return nil, nil, true, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		reason, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		err := &answerError{resp.StatusCode, resp.Status, oneLine(reason)}
		return nil, nil, resp.StatusCode/100 == 5 || resp.StatusCode == http.StatusTooManyRequests, err
	}
	data, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, nil, true, err
	}
	if int64(len(data)) > limit {
		return nil, nil, false, fmt.Errorf("it is over %d bytes", limit)
	}
	return data, resp.Header, false, nil
}

// answerError is an answer of the boot server that isn't what was asked for.
type answerError struct {
	status       int
	code, reason string
}

func (e *answerError) Error() string {
	return fmt.Sprintf("the boot server says %s: %s", e.code, e.reason)
}

// oneLine is the first line of a text from outside.
func oneLine(text []byte) string {
	line, _, _ := strings.Cut(strings.ToValidUTF8(string(text), "?"), "\n")
	return strings.TrimSpace(line)
}
