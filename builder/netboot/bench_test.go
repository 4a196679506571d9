package netboot

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// BenchmarkHTTP measures a file of 256 MB as this server sends it and as nginx does, to curl: one at a time, and eight at the same time.
func BenchmarkHTTP(b *testing.B) {
	const size = 256 << 20
	file := fileOf(b, size)
	must(b, os.Chmod(filepath.Dir(file), 0o755))
	text := make([]byte, size) // no holes: those cost less
	for i := range text {
		text[i] = byte(i * 7 >> 8)
	}
	must(b, os.WriteFile(file, text, 0o644))
	servers := []struct{ name, url string }{{"slipway", "http://" + crowded(b, file, nil) + "/file"}, {"nginx", nginx(b, filepath.Dir(file))}}
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
		c := exec.Command("curl", "-sSf", "-o", "/dev/null", url)
		must(b, c.Start())
		all = append(all, c)
	}
	for _, c := range all {
		must(b, c.Wait())
	}
}

// nginx serves a folder as an operator would have it, for as long as the benchmark, and returns a file's URL. Empty: it isn't installed.
func nginx(b *testing.B, dir string) string {
	if _, err := exec.LookPath("nginx"); err != nil {
		return ""
	}
	const address = "127.0.0.1:8098"
	work := b.TempDir()
	config := filepath.Join(work, "nginx.conf")
	must(b, os.WriteFile(config, []byte(strings.ReplaceAll(`daemon off; user root; worker_processes auto; pid WORK/pid; error_log WORK/error;
events { worker_connections 1024; }
http {
	access_log off; sendfile on; tcp_nopush on; keepalive_timeout 65;
	client_body_temp_path WORK/a; proxy_temp_path WORK/b; fastcgi_temp_path WORK/c; uwsgi_temp_path WORK/d; scgi_temp_path WORK/e;
	server { listen `+address+`; root `+dir+`; }
}
`, "WORK", work)), 0o600))
	server := exec.Command("nginx", "-c", config, "-p", work, "-e", filepath.Join(work, "error"))
	must(b, server.Start())
	b.Cleanup(func() { _ = server.Process.Signal(os.Interrupt); _ = server.Wait() })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp4", address)
		if err == nil {
			conn.Close()
			return "http://" + address + "/file"
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(filepath.Join(work, "error"))
			b.Fatalf("nginx doesn't start: %s", text)
		}
	}
}
