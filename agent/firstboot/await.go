package firstboot

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// AwaitAPI returns when an API server's readiness answers 200, for units that must not start earlier: the server tells
// systemd that it is up as soon as it listens, long before its own start has ended (Kubernetes documentation, "API health
// endpoints"). URL is that of /readyz, which needs no authentication; ca is the file of the authority that signs the
// server's certificate. It asks every second until ctx ends, and then says what the last answer was.
func AwaitAPI(ctx context.Context, url, ca string) error {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return fmt.Errorf("cannot read the cluster's authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("cannot read the cluster's authority: no certificate in %s", ca)
	}
	client := &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}},
	}
	for {
		last := readiness(ctx, client, url)
		if last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s isn't ready: %w", url, last)
		case <-time.After(time.Second):
		}
	}
}

func readiness(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can serve the next question
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return nil
}
