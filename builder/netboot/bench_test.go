package netboot

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec/securetest"
)

// BenchmarkHTTP measures a file of 256 MB as this server sends it and as nginx does, to curl: one at a time, and eight at the same time, also
// over TLS 1.3 with the cipher that agents and server agree on (AES-128-GCM, on processors that have AES).
func BenchmarkHTTP(b *testing.B) {
	const size = 256 << 20
	file := fileOf(b, size)
	must(b, os.Chmod(filepath.Dir(file), 0o755))
	text := make([]byte, size) // no holes: those cost less
	for i := range text {
		text[i] = byte(i * 7 >> 8)
	}
	must(b, os.WriteFile(file, text, 0o644))
	_, own := securetest.Certificate(b)
	plain, secure := nginx(b, filepath.Dir(file), own)
	over := newCrowd(loopback(b), slog.New(slog.DiscardHandler))
	serveFile(b, tls.NewListener(over, tlsConfig(func() (*tls.Certificate, error) { return own, nil })), file)
	servers := []struct{ name, url string }{
		{"slipway", "http://" + crowded(b, file, nil) + "/file"}, {"nginx", plain}, {"slipway/tls", "https://" + over.Addr().String() + "/file"}, {"nginx/tls", secure},
	}
	for _, clients := range []int{1, 8} {
		for _, server := range servers {
			b.Run(fmt.Sprintf("%s/clients=%d", server.name, clients), func(b *testing.B) {
				if server.url == "" {
					b.Skip("nginx is not installed")
				}
				fetch(b, server.url, clients)
				b.SetBytes(size * int64(clients))
				for b.Loop() {
					fetch(b, server.url, clients)
				}
			})
		}
	}
}

// fetch has clients fetch an URL at the same time.
func fetch(b *testing.B, url string, clients int) {
	b.Helper()
	var all []*exec.Cmd
	for range clients {
		c := exec.Command("curl", "-sSfk", "--tls13-ciphers", "TLS_AES_128_GCM_SHA256", "-o", "/dev/null", url)
		must(b, c.Start())
		all = append(all, c)
	}
	for _, c := range all {
		must(b, c.Wait())
	}
}

// nginx serves a folder as an operator would have it, for as long as the benchmark, and returns a file's URLs. Empty: it isn't installed.
func nginx(b *testing.B, dir string, own *tls.Certificate) (plain, secure string) {
	if _, err := exec.LookPath("nginx"); err != nil {
		return "", ""
	}
	const address, over = "127.0.0.1:8098", "127.0.0.1:8099"
	work := b.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	must(b, err)
	pair := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	must(b, os.WriteFile(filepath.Join(work, "pair"), pair, 0o600))
	config := filepath.Join(work, "nginx.conf")
	must(b, os.WriteFile(config, []byte(strings.ReplaceAll(`daemon off; user root; worker_processes auto; pid WORK/pid; error_log WORK/error;
events { worker_connections 1024; }
http {
	access_log off; sendfile on; tcp_nopush on; keepalive_timeout 65;
	client_body_temp_path WORK/a; proxy_temp_path WORK/b; fastcgi_temp_path WORK/c; uwsgi_temp_path WORK/d; scgi_temp_path WORK/e;
	server { listen `+address+`; root `+dir+`; }
	server { listen `+over+` ssl; ssl_certificate WORK/pair; ssl_certificate_key WORK/pair; ssl_protocols TLSv1.3; root `+dir+`; }
}
`, "WORK", work)), 0o600))
	server := exec.Command("nginx", "-c", config, "-p", work, "-e", filepath.Join(work, "error"))
	must(b, server.Start())
	b.Cleanup(func() { _ = server.Process.Signal(os.Interrupt); _ = server.Wait() })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp4", address)
		if err == nil {
			conn.Close()
			return "http://" + address + "/file", "https://" + over + "/file"
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(filepath.Join(work, "error"))
			b.Fatalf("nginx doesn't start: %s", text)
		}
	}
}
