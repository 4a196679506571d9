package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/slipway-os/slipway/images/bootspec"
)

// rack is what all machines share.
type rack struct {
	radio    *radio
	digests  map[string]string
	repeated atomic.Int64
	bytes    atomic.Int64
	kernels  atomic.Int64 // machines that have theirs

	mu      sync.Mutex
	answers []time.Duration // how long DHCP's took
	again   []string        // why steps were tried again, the first few
}

func (r *rack) note(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.again) < 5 {
		r.again = append(r.again, why.Error())
	}
}

// boot is one machine's.
type boot struct {
	machine
	*rack
	client *http.Client
	ear    chan heard
	base   string // the boot server's URL; with TLS from the step on that learns it
	id     string
}

// step is a part of a boot that is tried again until it works.
type step struct {
	what string
	do   func(context.Context) error
}

// patience is how long a machine tries one step.
const patience = 2 * time.Minute

// run boots a machine to Ready. Firmware that fails starts again from DHCP, as machines do; the agent tries each step again.
func (b *boot) run(ctx context.Context, order int) error {
	kernel := bootspec.ArtifactBase(b.role, imageVersion, architecture) + bootspec.ExtUKI
	err := b.retry(ctx, "kernel", func(ctx context.Context) error {
		if order%3 == 2 {
			return b.httpBoot(ctx, kernel)
		}
		return b.pxe(ctx, kernel)
	})
	if err != nil {
		return err
	}
	b.kernels.Add(1)
	steps := []step{
		{"the agent's address", func(ctx context.Context) error {
			ack, err := b.lease(ctx, "slipway-agent", 0)
			if err == nil {
				b.base = string(ack.Options.Get(dhcpv4.OptionBootfileName))
			}
			return err
		}},
		{"way to TLS", func(ctx context.Context) error {
			secure, err := b.secure(ctx)
			if err == nil {
				b.base = secure.URL
			}
			return err
		}},
		{"report of the agent", func(ctx context.Context) error { return b.report(ctx, b.base, bootspec.EventAgentUp) }},
		{"root image", func(ctx context.Context) error {
			return b.fetch(ctx, b.base+bootspec.RouteArtifacts+strings.TrimSuffix(kernel, bootspec.ExtUKI)+bootspec.ExtRoot)
		}},
		{"report of the root image", func(ctx context.Context) error { return b.report(ctx, b.base, bootspec.EventRootLoaded) }},
		{"claim", func(ctx context.Context) error { return b.claim(ctx, b.base) }},
	}
	for _, event := range []bootspec.Event{bootspec.EventProvisioned, bootspec.EventNetworkUp, bootspec.EventUnitsStarted, bootspec.EventReady} {
		steps = append(steps, step{"report of " + string(event), func(ctx context.Context) error { return b.report(ctx, b.base, event) }})
	}
	for _, s := range steps {
		if err := b.retry(ctx, s.what, s.do); err != nil {
			return err
		}
	}
	return nil
}

// retry tries a step until it works or patience ends.
func (b *boot) retry(ctx context.Context, what string, step func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for pause := 500 * time.Millisecond; ; pause = min(2*pause, 4*time.Second) {
		err := step(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %s: %w", b.name, what, err)
		case <-time.After(pause):
			b.repeated.Add(1)
			b.note(fmt.Errorf("%s: %s: %w", b.name, what, err))
		}
	}
}

// pxe is UEFI's way: an address, and the kernel by TFTP.
func (b *boot) pxe(ctx context.Context, kernel string) error {
	ack, err := b.lease(ctx, "PXEClient:Arch:00007:UNDI:003016", 7)
	if err != nil {
		return err
	}
	if got := ack.BootFileName; got != kernel {
		return fmt.Errorf("the boot file is %q, want %q", got, kernel)
	}
	content, err := tftp(ctx, b.address, serverAddress, kernel)
	if err != nil {
		return err
	}
	return b.check(kernel, sha256.Sum256(content), len(content))
}

// httpBoot is UEFI's other way.
func (b *boot) httpBoot(ctx context.Context, kernel string) error {
	ack, err := b.lease(ctx, "HTTPClient:Arch:00016:UNDI:003001", 16)
	if err != nil {
		return err
	}
	url := string(ack.Options.Get(dhcpv4.OptionBootfileName))
	if !strings.HasSuffix(url, "/"+kernel) {
		return fmt.Errorf("the boot file is %q, want %q", url, kernel)
	}
	return b.fetch(ctx, url)
}

// lease gets an address: DISCOVER, OFFER, REQUEST, ACK.
func (b *boot) lease(ctx context.Context, class string, arch uint16) (*dhcpv4.DHCPv4, error) {
	modify := []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptClassIdentifier(class)),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionTFTPServerName, dhcpv4.OptionBootfileName)}
	if arch != 0 {
		modify = append(modify, dhcpv4.WithGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{byte(arch >> 8), byte(arch)}))
	}
	discover, err := dhcpv4.NewDiscovery(b.mac, modify...)
	if err != nil {
		return nil, err
	}
	offer, err := b.ask(ctx, discover, dhcpv4.MessageTypeOffer)
	if err != nil {
		return nil, err
	}
	request, err := dhcpv4.NewRequestFromOffer(offer, modify...)
	if err != nil {
		return nil, err
	}
	ack, err := b.ask(ctx, request, dhcpv4.MessageTypeAck)
	if err == nil && ack.YourIPAddr.String() != b.address.String() {
		return nil, fmt.Errorf("the address is %s, want %s", ack.YourIPAddr, b.address)
	}
	return ack, err
}

// ask sends a message until it's answered: after 1, 2 and 4 seconds again (firmware waits 4, 8, 16).
func (b *boot) ask(ctx context.Context, m *dhcpv4.DHCPv4, want dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	started := time.Now().Round(0) // without the monotonic clock: the kernel's word has none
	for wait := time.Second; wait <= 4*time.Second; wait *= 2 {
		if err := b.radio.send(b.mac, m); err != nil {
			return nil, err
		}
		silence := time.After(wait)
		for waiting := true; waiting; {
			select {
			case answer := <-b.ear:
				if answer.TransactionID == m.TransactionID && answer.MessageType() == want {
					b.mu.Lock()
					b.answers = append(b.answers, answer.at.Sub(started))
					b.mu.Unlock()
					return answer.DHCPv4, nil
				}
			case <-silence:
				waiting = false
				b.repeated.Add(1)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	return nil, fmt.Errorf("no %s", want)
}

// fetch fetches a file and compares it; what breaks off is resumed.
func (b *boot) fetch(ctx context.Context, url string) error {
	hash, got := sha256.New(), int64(0)
	for {
		n, err := b.part(ctx, url, got, hash)
		if got += n; err == nil {
			break
		}
		if n == 0 || ctx.Err() != nil {
			return err
		}
		b.repeated.Add(1)
		b.note(fmt.Errorf("%s: after %d bytes: %w", b.name, got, err))
	}
	return b.check(url[strings.LastIndex(url, "/")+1:], [32]byte(hash.Sum(nil)), int(got))
}

func (b *boot) part(ctx context.Context, url string, from int64, to io.Writer) (int64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	want := http.StatusOK
	if from > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
		want = http.StatusPartialContent
	}
	response, err := b.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != want {
		return 0, fmt.Errorf("GET %s: %s", url, response.Status)
	}
	return io.Copy(to, response.Body)
}

func (b *boot) check(name string, sum [32]byte, size int) error {
	b.bytes.Add(int64(size))
	if got := fmt.Sprintf("%x", sum); got != b.digests[name] {
		return fmt.Errorf("%s arrived damaged: %d bytes with SHA-256 %s, want %s", name, size, got, b.digests[name])
	}
	return nil
}

// secure learns how the server is reached over TLS, and makes a key for this boot.
func (b *boot) secure(ctx context.Context) (bootspec.Secure, error) {
	var text bytes.Buffer
	if _, err := b.part(ctx, b.base+bootspec.RouteSecure, 0, &text); err != nil {
		return bootspec.Secure{}, err
	}
	secure, err := bootspec.ParseSecure(text.Bytes())
	if err != nil {
		return secure, err
	}
	roots, _, err := secure.Trust(nil)
	if err != nil {
		return secure, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return secure, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return secure, err
	}
	transport := b.client.Transport.(*http.Transport)
	transport.TLSClientConfig = &tls.Config{
		RootCAs: roots, ServerName: bootspec.SecureName, MinVersion: tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}},
	}
	return secure, nil
}

// claim gets the node's configuration: its own, and whole.
func (b *boot) claim(ctx context.Context, url string) error {
	text, err := b.post(ctx, url+bootspec.RouteClaim, bootspec.Claim{
		Version: bootspec.ClaimVersion, MAC: b.mac.String(), UUID: "uuid of " + b.name, Serial: "serial of " + b.name,
	}, http.StatusOK)
	if err != nil {
		return err
	}
	return b.isMine(text)
}

// isMine checks whose configuration an Ignition document is.
func (b *boot) isMine(text []byte) error {
	var config struct {
		Storage struct {
			Files []struct {
				Path     string
				Contents struct{ Source string }
			}
		}
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return fmt.Errorf("the configuration is damaged: %w", err)
	}
	for _, f := range config.Storage.Files {
		if f.Path != bootspec.NodeDocument {
			continue
		}
		content, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(f.Contents.Source, "data:;base64,"))
		var node bootspec.Node
		if err == nil {
			err = json.Unmarshal(content, &node)
		}
		if err != nil || node.Name != b.name {
			return fmt.Errorf("the configuration is that of %q, %v", node.Name, err)
		}
		return nil
	}
	return errors.New("the configuration has no node document")
}

func (b *boot) report(ctx context.Context, url string, event bootspec.Event) error {
	_, err := b.post(ctx, url+bootspec.RouteReport, bootspec.Report{MAC: b.mac.String(), Boot: b.id, Event: event, Uptime: 1000}, http.StatusNoContent)
	return err
}

func (b *boot) post(ctx context.Context, url string, body any, want int) ([]byte, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	response, err := b.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, bootspec.MaxConfig))
	if response.StatusCode != want {
		err = errors.Join(err, fmt.Errorf("POST %s: %s: %.200s", url, response.Status, answer))
	}
	return answer, err
}

// newBoot is a machine that is powered on.
func newBoot(r *rack, m machine) *boot {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: m.address.AsSlice()}, Timeout: 10 * time.Second}
	return &boot{
		machine: m, rack: r, ear: r.radio.ear(m.mac), id: "boot of " + m.name,
		client: &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, TLSHandshakeTimeout: time.Minute, ResponseHeaderTimeout: time.Minute}},
	}
}
