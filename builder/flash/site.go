package flash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// site is a shelf on a web server: the URL of a folder, with a slash at its end.
type site struct {
	url    *url.URL
	client *http.Client
	pause  time.Duration // before a download is resumed the first time; then twice as long each time
}

const (
	stall    = 30 * time.Second // a server that sends nothing for so long is asked again
	attempts = 6                // without a byte in between
)

// newSite splits an image's URL into its shelf and the file's name.
func newSite(address string) (*site, string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, "", errors.New("that is no URL") // the error has the whole of it, passwords too
	}
	slash := strings.LastIndexByte(u.Path, '/')
	if u.Host == "" || slash < 0 || slash == len(u.Path)-1 {
		return nil, "", errors.New("the URL names no file")
	}
	name := u.Path[slash+1:]
	u.Path, u.RawPath = u.Path[:slash+1], ""
	return &site{url: u, client: &http.Client{}, pause: time.Second}, name, nil
}

// get asks for a file from a byte on. The body is the caller's to close.
func (s *site) get(ctx context.Context, name string, from int64, tag string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url.JoinPath(name).String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept-Encoding", "identity") // the bytes of the file, not another packing of them
	if from > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
		if tag != "" {
			request.Header.Set("If-Range", tag)
		}
	}
	response, err := s.client.Do(request)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL, which may hold a password
		}
		return nil, err
	}
	switch {
	case response.StatusCode == http.StatusOK && from == 0, response.StatusCode == http.StatusPartialContent && from > 0 && startsAt(response, from):
		return response, nil
	}
	response.Body.Close()
	switch {
	case response.StatusCode == http.StatusNotFound:
		return nil, fs.ErrNotExist
	case response.StatusCode == http.StatusOK:
		return nil, permanent{errors.New("the server cannot resume, or has another file there now: run the same command again")}
	case response.StatusCode >= 400 && response.StatusCode < 500:
		return nil, permanent{fmt.Errorf("the server says %s", response.Status)}
	}
	return nil, fmt.Errorf("the server says %s", response.Status)
}

// startsAt tells whether a partial answer begins where it was asked to.
func startsAt(r *http.Response, from int64) bool {
	return strings.HasPrefix(r.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(from, 10)+"-")
}

// permanent is an error that trying again does not help against.
type permanent struct{ error }

func (s *site) read(ctx context.Context, name string, most int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	response, err := s.get(ctx, name, 0, "")
	if err != nil {
		return nil, fmt.Errorf("cannot fetch %s: %w", name, err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, most+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot fetch %s: %w", name, err)
	case int64(len(data)) > most:
		return nil, fmt.Errorf("%s is over the limit of %d bytes", name, most)
	}
	return data, nil
}

func (s *site) open(ctx context.Context, name string) (input, int64, error) {
	d := &download{site: s, ctx: ctx, name: name}
	if err := d.connect(); err != nil {
		return nil, 0, err
	}
	return d, d.size, nil
}

// download is a file of a site. What breaks off is resumed where it was.
type download struct {
	site   *site
	ctx    context.Context
	name   string
	at     int64
	size   int64  // bytes
	tag    string // of the version that the download began with
	body   io.ReadCloser
	stop   context.CancelFunc
	watch  *time.Timer // fires when nothing comes
	failed int         // attempts since the last byte
}

func (d *download) connect() error {
	ctx, stop := context.WithCancel(d.ctx)
	watch := time.AfterFunc(stall, stop)
	response, err := d.site.get(ctx, d.name, d.at, d.tag)
	if err != nil {
		watch.Stop()
		stop()
		return err
	}
	d.body, d.stop, d.watch = response.Body, stop, watch
	if d.at == 0 {
		d.size = response.ContentLength
		if tag := response.Header.Get("ETag"); !strings.HasPrefix(tag, "W/") { // If-Range wants a strong one (RFC 9110, 13.1.5)
			d.tag = tag
		}
		if d.size < 0 {
			return errors.New("the server does not say how large it is")
		}
	}
	return nil
}

func (d *download) Read(p []byte) (int, error) {
	for {
		if d.at == d.size {
			return 0, io.EOF
		}
		n, err := d.try(p)
		d.at += int64(n)
		if n > 0 {
			d.failed = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		if err := d.recover(err); err != nil {
			return 0, err
		}
	}
}

func (d *download) try(p []byte) (int, error) {
	if d.body == nil {
		if err := d.connect(); err != nil {
			return 0, err
		}
	}
	d.watch.Reset(stall)
	n, err := d.body.Read(p[:min(int64(len(p)), d.size-d.at)])
	if err == nil && n == 0 {
		err = io.ErrNoProgress
	}
	return n, err
}

// recover waits before the next attempt, or gives up.
func (d *download) recover(err error) error {
	d.disconnect()
	var final permanent
	if d.failed++; d.failed >= attempts || errors.As(err, &final) || errors.Is(err, fs.ErrNotExist) || d.ctx.Err() != nil {
		if d.ctx.Err() != nil {
			return d.ctx.Err()
		}
		return fmt.Errorf("the download broke off at byte %d of %d: %w", d.at, d.size, err)
	}
	timer := time.NewTimer(d.site.pause << (d.failed - 1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-d.ctx.Done():
		return d.ctx.Err()
	}
}

func (d *download) disconnect() {
	if d.body != nil {
		d.watch.Stop()
		d.stop()
		d.body.Close()
		d.body = nil
	}
}

// skip leaves out bytes: a few are read, of more the server is told.
func (d *download) skip(n int64) error {
	if n <= mib {
		_, err := io.CopyN(io.Discard, struct{ io.Reader }{d}, n)
		return err
	}
	d.disconnect()
	d.at = min(d.at+n, d.size)
	return nil
}

func (d *download) run(at, size int64) (start, end int64, err error) { return at, size, nil }

func (d *download) Close() error {
	d.disconnect()
	return nil
}
