package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"github.com/slipway-os/slipway/builder/release"
)

// Final is an error that trying again does not help against.
type Final struct{ Err error }

func (f Final) Error() string { return f.Err.Error() }
func (f Final) Unwrap() error { return f.Err }

// Unreachable tells whether an error says that there is no such server: at first contact that is a mistake, and later a fault.
func Unreachable(err error) bool {
	var dns *net.DNSError
	return errors.Is(err, syscall.ECONNREFUSED) || errors.As(err, &dns) && dns.IsNotFound
}

// Site is a place that a web server serves: the URL of a folder as Folder makes it. It can only be read.
type Site struct {
	url    *url.URL
	client *http.Client
	// Guard is what readers want of the index; nil: nothing.
	Guard *Guard
}

// NewSite is the place at a URL. A user and a password in it are sent as HTTP basic authentication.
func NewSite(address string) (*Site, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("that is no URL of a folder") // the error has the whole of it, passwords too
	}
	return &Site{url: u, client: &http.Client{}}, nil
}

// String is the URL without a password.
func (s *Site) String() string { return s.url.Redacted() }

// Index reads what is published.
func (s *Site) Index(ctx context.Context) (*Index, error) {
	x, err := s.index(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		err = Final{fmt.Errorf("there is none: is %s a folder that slipway publish made?", s)}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s of %s: %w", IndexName, s, err)
	}
	return x, nil
}

func (s *Site) index(ctx context.Context) (*Index, error) {
	body, err := s.get(ctx, 0, IndexName)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, MaxIndex+1))
	if err != nil {
		return nil, err
	}
	x, err := DecodeIndex(data)
	if err != nil {
		return nil, Final{err}
	}
	return x, nil
}

// Find finds a release that is wanted.
func (s *Site) Find(ctx context.Context, w Want) (Release, error) {
	x, err := s.Index(ctx)
	if err == nil {
		if err = s.Guard.Check(s.String(), x, w.Version == ""); err != nil {
			err = Final{err}
		}
	}
	if err != nil {
		return Release{}, err
	}
	return x.Find(w)
}

// Open asks for a file of a release from an offset on. The body is the caller's to close.
func (s *Site) Open(ctx context.Context, r Release, file release.File, offset int64) (io.ReadCloser, error) {
	return s.get(ctx, offset, Releases, r.Version, file.Name)
}

// get asks for a file from an offset on.
func (s *Site) get(ctx context.Context, offset int64, path ...string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.address(path), nil)
	if err != nil {
		return nil, Final{errors.New("that is no URL")}
	}
	request.Header.Set("Accept-Encoding", "identity") // the bytes of the file, not another packing of them
	if offset > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	response, err := s.client.Do(request)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL, which may hold a password
		}
		return nil, err
	}
	return body(response, offset)
}

// address is the URL of a file. A plus sign, as versions may have, is not left to a server that takes it for a space.
func (s *Site) address(path []string) string {
	u := s.url.JoinPath(path...)
	u.RawPath = strings.ReplaceAll(u.EscapedPath(), "+", "%2B")
	return u.String()
}

// body is an answer's body at an offset. A server that cannot resume sends all of it: the beginning is read past.
func body(r *http.Response, offset int64) (io.ReadCloser, error) {
	switch {
	case r.StatusCode == http.StatusOK:
		if _, err := io.CopyN(io.Discard, r.Body, offset); err != nil {
			r.Body.Close()
			return nil, err
		}
		return r.Body, nil
	case r.StatusCode == http.StatusPartialContent && strings.HasPrefix(r.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(offset, 10)+"-"):
		return r.Body, nil
	}
	r.Body.Close()
	err := fmt.Errorf("the server says %s", r.Status)
	switch {
	case r.StatusCode == http.StatusNotFound:
		return nil, fs.ErrNotExist
	case r.StatusCode < 500 && r.StatusCode != http.StatusTooManyRequests && r.StatusCode != http.StatusRequestTimeout:
		return nil, Final{err}
	}
	return nil, err
}
