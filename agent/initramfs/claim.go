package initramfs

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// maxConfig bounds a node's configuration in bytes.
const maxConfig = 16 << 20

// claimConfig gets the node's configuration. A server that is away is waited for; one that refuses ends the boot with its
// reason.
func (b *boot) claimConfig(ctx context.Context) error {
	query := url.Values{"mac": {b.lease.MAC}, "uuid": {smbios("product_uuid")}, "serial": {smbios("product_serial")}}
	address := b.lease.Server + bootspec.RouteConfig + "?" + query.Encode()
	var err error
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		var again bool
		if again, err = b.claim(ctx, address); err == nil {
			b.log.Info("configuration claimed", "bytes", len(b.config))
			return nil
		}
		if !again {
			return stopError{fmt.Errorf("cannot claim this node's configuration: %w", err)}
		}
		b.log.Warn("cannot claim this node's configuration, trying again", "cause", err, "in", pause)
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
func (b *boot) claim(ctx context.Context, address string) (again bool, err error) {
	config, header, again, err := getOnce(ctx, b.client, address, maxConfig, time.Minute)
	if err != nil {
		return again, err
	}
	b.config, b.again = config, header.Get(bootspec.HeaderInstall) == bootspec.InstallAgain
	return false, nil
}

// getOnce asks the boot server for at most limit bytes; again says if another try may help.
func getOnce(ctx context.Context, client *http.Client, address string, limit int64, patience time.Duration) (data []byte, header http.Header, again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, nil, false, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, true, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		reason, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		err := fmt.Errorf("the boot server says %s: %s", resp.Status, oneLine(reason))
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

// oneLine is the first line of a text from outside.
func oneLine(text []byte) string {
	line, _, _ := strings.Cut(strings.ToValidUTF8(string(text), "?"), "\n")
	return strings.TrimSpace(line)
}
