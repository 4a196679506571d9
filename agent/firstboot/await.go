package firstboot

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"syscall"
	"time"
)

// AwaitAPI returns when an API server's readiness answers 200, for units that must not start earlier: the server tells
// systemd that it is up as soon as it listens, long before its own start has ended (Kubernetes documentation, "API health
// endpoints"). URL is that of /readyz, which needs no authentication; ca is the file of the authority that signs the
// server's certificate. It asks every second until ctx ends, and then says what the last answer was.
//
// Server is the server's process, 0 when it is not known: when that ends, the wait does. systemd restarts a unit only after its
// ExecStartPost has ended; one that goes on asking for a server that has crashed would never let it come back.
func AwaitAPI(ctx context.Context, url, ca string, server int) error {
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
	alive, err := process(server)
	if err != nil {
		return err
	}
	for {
		last := readiness(ctx, client, url)
		if last == nil {
			return nil
		}
		if !alive() {
			return fmt.Errorf("%s isn't ready, and its server has ended (process %d)", url, server)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s isn't ready: %w", url, last)
		case <-time.After(time.Second):
		}
	}
}

// process tells whether a process still runs.
func process(pid int) (alive func() bool, err error) {
	if pid == 0 {
		return func() bool { return true }, nil
	}
	p, err := os.FindProcess(pid) // by pidfd, where there is one: another process that gets the number later is not it
	if err != nil {
		return nil, fmt.Errorf("cannot watch the server's process: %w", err)
	}
	return func() bool { return !errors.Is(p.Signal(syscall.Signal(0)), os.ErrProcessDone) }, nil
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
