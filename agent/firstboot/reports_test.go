package firstboot

import (
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/slipway-os/slipway/agent/status"
	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/bootspec/securetest"
)

// TestReportsGoOverTLS: to the server whose authority the first stage handed over, and to no other.
func TestReportsGoOverTLS(t *testing.T) {
	came := make(chan bool, 8)
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+bootspec.RouteReport, func(w http.ResponseWriter, r *http.Request) { came <- r.TLS != nil })
	server := securetest.Serve(t, mux, "127.0.0.1")
	sender := func() *status.Sender {
		return &status.Sender{Server: "http://127.0.0.1:1", MAC: "m", Boot: "b", Client: &http.Client{Timeout: 20 * time.Second}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	}
	s := sender()
	if err := overTLS(s, bootspec.BootState{Secure: &server}); err != nil || s.Server != server.URL || s.Client.Timeout == 0 {
		t.Fatalf("%s, %v", s.Server, err)
	}
	go s.Run(t.Context())
	s.Report(bootspec.EventReady, "")
	if over := <-came; !over {
		t.Error("the report came without TLS")
	}
	other, _ := securetest.Certificate(t)
	wrong := server
	wrong.Authority = string(other)
	s = sender()
	if err := overTLS(s, bootspec.BootState{Secure: &wrong}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client.Get(s.Server + bootspec.RouteHealth); err == nil {
		t.Error("a server of another authority is believed")
	}
	s = sender()
	if err := overTLS(s, bootspec.BootState{}); err == nil || s.Server != "http://127.0.0.1:1" {
		t.Errorf("without any: %s, %v", s.Server, err)
	}
}
