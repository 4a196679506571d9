package power

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/stmcginnis/gofish"
	"github.com/stmcginnis/gofish/schemas"
)

// Limits of one request.
const (
	dialLimit    = 10 * time.Second
	requestLimit = 60 * time.Second
)

// redfish is a session with a Redfish service.
type redfish struct {
	client *gofish.APIClient
	id     string // of the system; empty: there is one
}

func openRedfish(ctx context.Context, m Machine) (Controller, error) {
	seen := ""
	transport := &http.Transport{
		DialContext: (&net.Dialer{Timeout: dialLimit}).DialContext, TLSHandshakeTimeout: dialLimit, ResponseHeaderTimeout: requestLimit,
		TLSClientConfig: trust(m.Fingerprint, &seen),
	}
	client, err := gofish.ConnectContext(ctx, gofish.ClientConfig{
		Endpoint: strings.TrimSuffix(m.Redfish, "/"), Username: m.User, Password: m.Password, ReuseConnections: true,
		NoModifyTransport: true, HTTPClient: &http.Client{Transport: transport, Timeout: requestLimit, CheckRedirect: sameHost},
	})
	var unknown *tls.CertificateVerificationError
	switch {
	case errors.As(err, &unknown) && m.Fingerprint != "":
		return nil, fmt.Errorf("the controller at %s shows another certificate than the document says: %s (if it is the right one, write that as fingerprint)", m.Redfish, seen)
	case errors.As(err, &unknown):
		return nil, fmt.Errorf("nobody vouches for the controller at %s: %w (if its certificate is the right one, write fingerprint: %s)", m.Redfish, unknown.Err, seen)
	case err != nil:
		return nil, fmt.Errorf("cannot reach the controller at %s: %w", m.Redfish, plain(err))
	}
	return &redfish{client: client, id: m.System}, nil
}

// sameHost refuses to be sent elsewhere, where the password would go too.
func sameHost(r *http.Request, via []*http.Request) error {
	if r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme || len(via) > 3 {
		return errors.New("it leads elsewhere: " + r.URL.String())
	}
	return nil
}

// trust believes a certificate with that fingerprint, or without one what the system's authorities vouch for. Controllers have old firmware,
// hence TLS 1.2.
func trust(fingerprint string, seen *string) *tls.Config {
	want := strings.ToLower(strings.ReplaceAll(fingerprint, ":", ""))
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// What is verified is below: the field only takes Go's own check away, which names and dates of pinned certificates would fail.
		InsecureSkipVerify: true,
		VerifyConnection: func(c tls.ConnectionState) error {
			leaf := c.PeerCertificates[0]
			sum := sha256.Sum256(leaf.Raw)
			*seen = hex.EncodeToString(sum[:])
			if want != "" {
				if *seen != want {
					return &tls.CertificateVerificationError{UnverifiedCertificates: c.PeerCertificates, Err: errors.New("its fingerprint is " + *seen)}
				}
				return nil
			}
			others := x509.NewCertPool()
			for _, o := range c.PeerCertificates[1:] {
				others.AddCert(o)
			}
			if _, err := leaf.Verify(x509.VerifyOptions{DNSName: c.ServerName, Intermediates: others}); err != nil {
				return &tls.CertificateVerificationError{UnverifiedCertificates: c.PeerCertificates, Err: err}
			}
			return nil
		},
	}
}

// plain is an error of gofish in words.
func plain(err error) error {
	var answer *schemas.Error
	if !errors.As(err, &answer) {
		return err
	}
	words := answer.Message
	for _, more := range answer.ExtendedInfos {
		if more.Message != "" {
			words = more.Message
			break
		}
	}
	if answer.HTTPReturnedStatusCode == http.StatusUnauthorized {
		words = "it refuses the user or the password"
	}
	return fmt.Errorf("it answers %d: %s", answer.HTTPReturnedStatusCode, words)
}

// system is the machine, as the controller tells it now.
func (r *redfish) system() (*schemas.ComputerSystem, error) {
	systems, err := r.client.Service.Systems()
	if err != nil {
		return nil, fmt.Errorf("cannot ask the controller for its machine: %w", plain(err))
	}
	var ids []string
	for _, s := range systems {
		if s.ID == r.id || r.id == "" && len(systems) == 1 {
			return s, nil
		}
		ids = append(ids, s.ID)
	}
	return nil, fmt.Errorf("the controller has %d machines, %q: write which one is meant as system", len(ids), ids)
}

func (r *redfish) On(context.Context) (bool, error) {
	s, err := r.system()
	return err == nil && s.PowerState == schemas.OnPowerState, err
}

func (r *redfish) State(context.Context) (State, error) {
	s, err := r.system()
	if err != nil {
		return State{}, err
	}
	state := State{On: s.PowerState == schemas.OnPowerState, Model: strings.TrimSpace(s.Manufacturer + " " + s.Model)}
	if s.Boot.BootSourceOverrideEnabled == schemas.OnceBootSourceOverrideEnabled {
		for source, names := range sources() {
			if slices.Contains(names, s.Boot.BootSourceOverrideTarget) {
				state.Next = source
			}
		}
	}
	if cd, err := r.cd(s); err == nil && cd.Inserted != nil && *cd.Inserted {
		state.Media = cd.Image
	}
	return state, nil
}

// sources are Redfish's names (DSP0268, ComputerSystem, BootSource), the preferred one first.
func sources() map[Source][]schemas.BootSource {
	return map[Source][]schemas.BootSource{
		Network: {schemas.PxeBootSource, schemas.UefiHTTPBootSource}, Disk: {schemas.HddBootSource}, CD: {schemas.CdBootSource},
	}
}

func (r *redfish) Power(_ context.Context, a Action) error {
	s, err := r.system()
	if err != nil {
		return err
	}
	on := s.PowerState == schemas.OnPowerState || s.PowerState == schemas.PoweringOnPowerState
	var wanted []schemas.ResetType
	switch {
	case a == On && on, (a == Off || a == ForceOff) && !on:
		return nil
	case a == On, a == Cycle && !on:
		wanted = []schemas.ResetType{schemas.OnResetType, schemas.ForceOnResetType}
	case a == Off:
		wanted = []schemas.ResetType{schemas.GracefulShutdownResetType}
	case a == ForceOff:
		wanted = []schemas.ResetType{schemas.ForceOffResetType}
	case a == Cycle:
		wanted = []schemas.ResetType{schemas.PowerCycleResetType, schemas.ForceRestartResetType}
	default:
		return fmt.Errorf("%q is no action", a)
	}
	able, err := s.GetSupportedResetTypes()
	if err != nil {
		return fmt.Errorf("cannot ask the controller what it can do: %w", plain(err))
	}
	for _, w := range wanted {
		if len(able) > 0 && !slices.Contains(able, w) {
			continue
		}
		if _, err := s.Reset(w); err != nil {
			return fmt.Errorf("the controller does not do %s: %w", w, plain(err))
		}
		return nil
	}
	return fmt.Errorf("%w: %s (it can %v)", ErrUnsupported, a, able)
}

func (r *redfish) BootNext(_ context.Context, source Source) error {
	s, err := r.system()
	if err != nil {
		return err
	}
	boot := &schemas.Boot{BootSourceOverrideEnabled: schemas.OnceBootSourceOverrideEnabled}
	if source == Default {
		boot.BootSourceOverrideEnabled, boot.BootSourceOverrideTarget = schemas.DisabledBootSourceOverrideEnabled, schemas.NoneBootSource
	} else {
		names, ok := sources()[source]
		if !ok {
			return fmt.Errorf("%q is nothing to boot from", source)
		}
		boot.BootSourceOverrideTarget = names[0]
	}
	if err := s.SetBoot(boot); err != nil {
		return fmt.Errorf("the controller does not take %s for the next boot: %w", source, plain(err))
	}
	return nil
}

// cd is the machine's virtual CD: of the system, or where the controller is older, its own.
func (r *redfish) cd(s *schemas.ComputerSystem) (*schemas.VirtualMedia, error) {
	media, err := s.VirtualMedia()
	if len(media) == 0 {
		var managers []*schemas.Manager
		if managers, err = s.ManagedBy(); err == nil {
			for _, m := range managers {
				more, merr := m.VirtualMedia()
				media, err = append(media, more...), errors.Join(err, merr)
			}
		}
	}
	for _, kind := range []schemas.VirtualMediaType{schemas.CDVirtualMediaType, schemas.DVDVirtualMediaType} {
		for _, v := range media {
			if slices.Contains(v.MediaTypes, kind) {
				return v, nil
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot ask the controller for virtual media: %w", plain(err))
	}
	return nil, fmt.Errorf("%w: it has no virtual CD", ErrUnsupported)
}

// drive is cd, for when nothing else is asked of the machine.
func (r *redfish) drive() (*schemas.VirtualMedia, error) {
	s, err := r.system()
	if err != nil {
		return nil, err
	}
	return r.cd(s)
}

func (r *redfish) Insert(ctx context.Context, image string) error {
	cd, err := r.drive()
	if err != nil {
		return err
	}
	if cd.Inserted != nil && *cd.Inserted {
		if cd.Image == image {
			return nil
		}
		if err := r.Eject(ctx); err != nil {
			return err
		}
	}
	yes := true
	if _, err := cd.InsertMedia(&schemas.VirtualMediaInsertMediaParameters{Image: image, Inserted: &yes, WriteProtected: &yes}); err != nil {
		return fmt.Errorf("the controller does not take %s: %w", image, plain(err))
	}
	return nil
}

func (r *redfish) Eject(context.Context) error {
	cd, err := r.drive()
	if err != nil {
		return err
	}
	if cd.Inserted == nil || !*cd.Inserted {
		return nil
	}
	if _, err := cd.EjectMedia(); err != nil {
		return fmt.Errorf("the controller does not give its medium back: %w", plain(err))
	}
	return nil
}

func (r *redfish) Close() { r.client.Logout() }
