package netboot

import (
	"net/http"
	"sync/atomic"
)

// Traffic is what the server has sent since it started.
type Traffic struct {
	Answers    int64 // to DHCP requests
	HTTPBytes  int64 // of bodies
	HTTPSBytes int64 // of bodies, over TLS
	TFTPBytes  int64 // of whole transfers
	Broken     int64 // TFTP transfers that ended early
}

// traffic counts it.
type traffic struct {
	answers, http, https, tftp, broken atomic.Int64
}

// Traffic is what the server has sent so far.
func (s *Server) Traffic() Traffic {
	t := &s.traffic
	return Traffic{Answers: t.answers.Load(), HTTPBytes: t.http.Load(), HTTPSBytes: t.https.Load(), TFTPBytes: t.tftp.Load(), Broken: t.broken.Load()}
}

// counted adds the bytes that a handler sends.
func counted(sum *atomic.Int64, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := &countingWriter{ResponseWriter: w}
		defer func() { sum.Add(body.written) }()
		h.ServeHTTP(body, r)
	})
}

// Unwrap lets deadlines reach the connection (http.ResponseController).
func (c *countingWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }
