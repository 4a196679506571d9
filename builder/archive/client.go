package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// How hard a download is tried.
const (
	attempts     = 5
	firstBackoff = 500 * time.Millisecond // doubled after each attempt
	stallTimeout = 30 * time.Second       // without a byte
	parallel     = 6
)

// Client fetches from mirrors. Every request ends when no byte came for half a minute, and follows the context.
type Client struct {
	http    *http.Client
	backoff time.Duration
}

// NewClient is a client for http, https and file URLs, with the proxies of the environment.
func NewClient() *Client {
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: stallTimeout,
		MaxIdleConnsPerHost:   parallel,
		IdleConnTimeout:       time.Minute,
		DisableCompression:    true,
	}
	transport.RegisterProtocol("file", http.NewFileTransport(http.Dir("/")))
	return &Client{http: &http.Client{Transport: transport, CheckRedirect: redirect}, backoff: firstBackoff}
}

// redirect follows a mirror to other hosts, but not into this machine's files.
func redirect(to *http.Request, via []*http.Request) error {
	if to.URL.Scheme != "http" && to.URL.Scheme != "https" {
		return permanent{fmt.Errorf("the server redirects to %s", to.URL)}
	}
	if len(via) >= 10 {
		return permanent{errors.New("ten redirects")}
	}
	return nil
}

// permanent marks an error that another attempt would not change.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// retry runs once until it succeeds, fails for good or attempts are used up, waiting in between.
func (c *Client) retry(ctx context.Context, once func() error) error {
	wait := c.backoff
	for i := 1; ; i++ {
		err := once()
		var p permanent
		if err == nil {
			return nil
		}
		if errors.As(err, &p) {
			return p.error
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if i == attempts {
			return fmt.Errorf("%w (tried %d times)", err, attempts)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
		wait *= 2
	}
}

// errStalled is the cause when a mirror stops sending.
var errStalled = errors.New("no data for " + stallTimeout.String())

// get asks for a URL from an offset and gives the body to use, with the size of the whole file where the server says it (else
// -1). The whole exchange ends when the body stalls.
func (c *Client) get(ctx context.Context, url string, offset int64, use func(body io.Reader, from, size int64) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(stallTimeout, func() { cancel(errStalled) })
	defer watchdog.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return permanent{err}
	}
	req.Header.Set("User-Agent", "slipway")
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return stalled(ctx, err)
	}
	defer resp.Body.Close()
	from, err := bodyStart(resp, offset)
	if err != nil {
		return err
	}
	size := int64(-1)
	if n, err := strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64); err == nil && n >= 0 { // that of a response for a file URL says nothing
		size = from + n
	}
	return stalled(ctx, use(&watchedReader{resp.Body, watchdog}, from, size))
}

func stalled(ctx context.Context, err error) error {
	if err != nil && context.Cause(ctx) == errStalled {
		return errStalled
	}
	return err
}

// bodyStart is the offset at which a response's body begins, or the error its status means.
func bodyStart(resp *http.Response, asked int64) (int64, error) {
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
		return 0, nil
	case code == http.StatusPartialContent:
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", asked)) {
			return 0, permanent{fmt.Errorf("the server sent range %q, asked was from %d", resp.Header.Get("Content-Range"), asked)}
		}
		return asked, nil
	case code == http.StatusNotFound, code == http.StatusGone:
		return 0, permanent{fmt.Errorf("%w (HTTP status %d)", ErrGone, code)}
	case code >= 500, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code == http.StatusRequestedRangeNotSatisfiable:
		return 0, fmt.Errorf("HTTP status %s", resp.Status)
	default:
		return 0, permanent{fmt.Errorf("HTTP status %s", resp.Status)}
	}
}

// watchedReader puts the watchdog off with every byte.
type watchedReader struct {
	r        io.Reader
	watchdog *time.Timer
}

func (w *watchedReader) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.watchdog.Reset(stallTimeout)
	}
	return n, err
}

// small fetches a whole file of at most limit bytes whose digest is not known beforehand.
func (c *Client) small(ctx context.Context, url string, limit int64) (data []byte, err error) {
	err = c.retry(ctx, func() error {
		return c.get(ctx, url, 0, func(body io.Reader, _, _ int64) error {
			data, err = io.ReadAll(io.LimitReader(body, limit+1))
			if err == nil && int64(len(data)) > limit {
				return permanent{fmt.Errorf("more than %d bytes", limit)}
			}
			return err
		})
	})
	if err != nil {
		return nil, &FileError{URL: url, Err: err}
	}
	return data, nil
}
