package backup

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// Bounds of what the depot answers, in bytes.
const (
	maxList    = 16 << 20
	maxRefusal = 4 << 10
)

// Depot is the boot server's (bootspec.RouteDepot). It lets old snapshots go by itself.
type Depot struct {
	Address string // host and port
	// TLS is this node's certificate and the cluster's authority, as they are now.
	TLS func() (*tls.Config, error)
}

// ask sends one request; the answer's body is the caller's to close.
func (d Depot) ask(request *http.Request) (*http.Response, error) {
	config, err := d.TLS()
	if err != nil {
		return nil, err
	}
	config.ServerName = bootspec.DepotName
	client := &http.Client{Transport: &http.Transport{
		DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, TLSClientConfig: config, TLSHandshakeTimeout: 10 * time.Second,
		DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10,
	}}
	answer, err := client.Do(request)
	var wrong *url.Error
	if errors.As(err, &wrong) {
		err = wrong.Err // without the method and the URL
	}
	if err != nil {
		return nil, err
	}
	if answer.StatusCode/100 != 2 {
		defer answer.Body.Close()
		words, _ := io.ReadAll(io.LimitReader(answer.Body, maxRefusal))
		return nil, fmt.Errorf("it says %s: %s", answer.Status, strings.TrimSpace(string(words)))
	}
	return answer, nil
}

func (d Depot) url(name string) string { return "https://" + d.Address + bootspec.RouteDepot + name }

// List is what the depot has of this node.
func (d Depot) List(ctx context.Context) ([]string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url(""), nil)
	if err != nil {
		return nil, err
	}
	answer, err := d.ask(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	var list []bootspec.KeptSnapshot
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxList)).Decode(&list); err != nil {
		return nil, fmt.Errorf("its list can't be read: %w", err)
	}
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	return names, nil
}

// Put sends a file with its SHA-256.
func (d Depot) Put(ctx context.Context, name string, f *os.File) error {
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, d.url(name), io.NopCloser(f))
	if err != nil {
		return err
	}
	request.ContentLength = size
	request.Header.Set(bootspec.HeaderSHA256, hex.EncodeToString(sum.Sum(nil)))
	answer, err := d.ask(request)
	if err != nil {
		return err
	}
	return answer.Body.Close()
}

// Remove does nothing: the depot knows itself how many it keeps.
func (d Depot) Remove(context.Context, string) error { return nil }
