package netboot

import (
	"net/http"
	"sync/atomic"
)

// Traffic is what the server has sent since it started.
type Traffic struct {
	Answers   int64 // to DHCP requests
	HTTPBytes int64 // of bodies
	TFTPBytes int64 // of whole transfers
	Broken    int64 // TFTP transfers that ended early
}

// traffic counts it.
type traffic struct {
	answers, http, tftp, broken atomic.Int64
}

// Traffic is what the server has sent so far.
func (s *Server) Traffic() Traffic {
	t := &s.traffic
	return Traffic{Answers: t.answers.Load(), HTTPBytes: t.http.Load(), TFTPBytes: t.tftp.Load(), Broken: t.broken.Load()}
}

// counted counts the bytes that a handler sends.
func (t *traffic) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := &countingWriter{ResponseWriter: w}
		defer func() { t.http.Add(body.written) }()
		h.ServeHTTP(body, r)
	})
}

// Unwrap lets deadlines reach the connection (http.ResponseController).
func (c *countingWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }
