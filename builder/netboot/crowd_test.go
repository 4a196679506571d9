package netboot

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// crowded serves a file on loopback until the test ends, and returns where.
func crowded(t testing.TB, file string, edit func(*crowd)) string {
	t.Helper()
	c := newCrowd(loopback(t), slog.New(slog.DiscardHandler))
	if edit != nil {
		edit(c)
	}
	serveFile(t, c, file)
	return c.Addr().String()
}

func loopback(t testing.TB) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	return listener
}

// serveFile serves a file as the server serves artifacts, until the test ends.
func serveFile(t testing.TB, listener net.Listener, file string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(file)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer f.Close()
		info, _ := f.Stat()
		w.Header().Set("Content-Type", contentType(file))
		serveWhole(w, r, f, info.Size(), "tag")
	})
	go func() {
		ended <- serveHTTP(ctx, listener, counted(&atomic.Int64{}, handler), slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() { cancel(); must(t, <-ended) })
}

// fileOf makes a file of a size, with holes.
func fileOf(t testing.TB, size int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o644))
	must(t, os.Truncate(file, size))
	return file
}

func connect(t testing.TB, from, to string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 20 * time.Second}
	conn, err := dialer.Dial("tcp4", to)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	return conn
}

// answered asks for the file and is the answer's status; 0: the connection was closed.
func answered(conn net.Conn) int {
	fmt.Fprint(conn, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
	r, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodHead})
	if err != nil {
		return 0
	}
	return r.StatusCode
}

// TestFullHouse: one address gets no more than its share, and who comes when all is taken gets the place of who has been silent longest.
func TestFullHouse(t *testing.T) {
	server := crowded(t, fileOf(t, 1000), func(c *crowd) { c.most, c.mostOf = 5, 3 })
	var silent []net.Conn
	for _, from := range []string{"127.0.0.1", "127.0.0.1", "127.0.0.1"} {
		silent = append(silent, connect(t, from, server))
		if len(silent) == 1 {
			time.Sleep(10 * time.Millisecond) // so that it's the oldest
		}
	}
	if got := answered(connect(t, "127.0.0.1", server)); got != 0 {
		t.Errorf("an address that has its share is answered %d", got)
	}
	for i := range 3 {
		if got := answered(connect(t, fmt.Sprintf("127.0.0.%d", 2+i), server)); got != 200 {
			t.Fatalf("another address is answered %d", got)
		}
	}
	if _, err := silent[0].Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the one that was silent longest: %v, want the end", err)
	}
	if got := answered(silent[1]); got != 200 {
		t.Errorf("one that was silent, but not longest, is answered %d", got)
	}
}

// TestIdleGuests: connections that had an answer and only wait keep nobody out either.
func TestIdleGuests(t *testing.T) {
	server := crowded(t, fileOf(t, 1000), func(c *crowd) { c.most, c.mostOf = 5, 3 })
	for i := range 12 {
		conn := connect(t, fmt.Sprintf("127.0.0.%d", 2+i), server)
		waitFor(t, func() bool { // the one before may not be idle yet
			if got := answered(conn); got == 200 {
				return true
			}
			conn = connect(t, fmt.Sprintf("127.0.0.%d", 2+i), server)
			return false
		})
	}
}

// TestSlowReaders: a client that takes nothing is dropped; one that takes some now and then has its whole answer, in more time than
// the other was given.
func TestSlowReaders(t *testing.T) {
	const size = 40 << 20
	server := crowded(t, fileOf(t, size), func(c *crowd) { c.patience = 1500 * time.Millisecond })
	ask := func() (net.Conn, *http.Response) {
		conn := connect(t, "127.0.0.1", server)
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		r, err := http.ReadResponse(bufio.NewReaderSize(conn, 1024), nil)
		must(t, err)
		return conn, r
	}
	_, stalls := ask()
	_, slow := ask()
	started, got := time.Now(), int64(0)
	for got < size {
		n, err := io.CopyN(io.Discard, slow.Body, 2<<20)
		if got += n; err != nil && got < size {
			t.Fatalf("the slow client was dropped after %d bytes: %v", got, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if took := time.Since(started); took < 1500*time.Millisecond {
		t.Errorf("it took only %s: this shows nothing", took)
	}
	if n, err := io.Copy(io.Discard, stalls.Body); err == nil {
		t.Errorf("the client that stalled was sent all %d bytes", n)
	}
}

// TestSlowloris: a thousand connections that send half a request, from many addresses and from one, don't keep a node from its image.
func TestSlowloris(t *testing.T) {
	network(t)
	config := configFor(t, &journal{})
	run(t, config)
	node := plug(t, worker1)
	for i := range 1000 {
		from := fmt.Sprintf("127.1.0.%d", 1+i%200)
		if i%2 == 0 {
			from = "127.2.0.1"
		}
		conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 20 * time.Second}).Dial("tcp4", "10.1.0.1:8080")
		must(t, err)
		defer conn.Close()
		_, _ = fmt.Fprintf(conn, "GET /artifacts/%s HTTP/1.1\r\nX-%d: ", workerUKI, i) // those that were closed at once don't take it
	}
	must(t, node.udhcpc())
	got := filepath.Join(node.dir, "got")
	if said, err := node.run("curl", "-sS", "--max-time", "5", "-o", got, serverBase+bootspec.RouteArtifacts+workerUKI); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	sameFile(t, got, filepath.Join(config.Artifacts, workerUKI))
}

// TestLargeRequests: what is longer than a request should be is refused.
func TestLargeRequests(t *testing.T) {
	network(t)
	run(t, configFor(t, &journal{}))
	for _, c := range []struct {
		request string
		want    int
	}{
		{"GET /" + strings.Repeat("x", 30<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", 431},
		{"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 30<<10) + "\r\n\r\n", 431},
		{"POST /v1/report HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n{\"log\":\"" + strings.Repeat("x", bootspec.MaxReport), 400},
		{"GET /healthz HTTP/1.1\r\n\r\n", 400},
		{"GET /healthz HTTP/3.7\r\nHost: x\r\n\r\n", 505},
		{"\x16\x03\x01\x00\x05hello\r\n\r\n", 400},
	} {
		conn := connect(t, "127.0.0.1", "10.1.0.1:8080")
		go io.WriteString(conn, c.request)
		r, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || r.StatusCode != c.want {
			t.Errorf("%.40q: got %v, %v, want status %d", c.request, r, err, c.want)
		}
	}
}

// TestSendfile: the kernel sends files, without their bytes passing through this program.
func TestSendfile(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not installed (make deps)")
	}
	const size = 20 << 20
	server := crowded(t, fileOf(t, size), nil)
	calls := filepath.Join(t.TempDir(), "calls")
	tracer := exec.Command("strace", "-f", "-e", "trace=sendfile", "-o", calls, "-p", strconv.Itoa(os.Getpid()))
	said, err := tracer.StderrPipe()
	must(t, err)
	must(t, tracer.Start())
	if first, _ := bufio.NewReader(said).ReadString('\n'); !strings.Contains(first, "attached") {
		_ = tracer.Process.Kill()
		_ = tracer.Wait()
		t.Skipf("this program can't be traced: %s", first)
	}
	response, err := http.Get("http://" + server)
	must(t, err)
	_, err = io.Copy(io.Discard, response.Body)
	must(t, err)
	response.Body.Close()
	must(t, tracer.Process.Signal(os.Interrupt))
	_ = tracer.Wait() // it ends by that signal
	text, err := os.ReadFile(calls)
	must(t, err)
	sent := 0
	for _, m := range regexp.MustCompile(`(?m)sendfile.*= (\d+)$`).FindAllSubmatch(text, -1) {
		n, _ := strconv.Atoi(string(m[1]))
		sent += n
	}
	if sent < size-512 { // net/http reads the first bytes itself
		t.Errorf("sendfile has sent %d of %d bytes:\n%s", sent, size, text)
	}
}

// TestRanges: parts of a file, several at once, and those that don't exist, with the clients that people have.
func TestRanges(t *testing.T) {
	network(t)
	config := configFor(t, &journal{})
	run(t, config)
	node := plug(t, worker1)
	must(t, node.udhcpc())
	whole, err := os.ReadFile(filepath.Join(config.Artifacts, workerUKI))
	must(t, err)
	url, size := serverBase+bootspec.RouteArtifacts+workerUKI, len(whole)
	for _, c := range []struct{ ranges, status, want string }{
		{"0-0", "206", string(whole[:1])},
		{"-5", "206", string(whole[size-5:])},
		{fmt.Sprintf("%d-%d", size-3, size+100), "206", string(whole[size-3:])},
		{fmt.Sprintf("%d-", size), "416", ""},
		{"9-5", "416", ""},
		{"x-y", "416", ""},
	} {
		said, err := node.run("curl", "-sS", "--max-time", "20", "-H", "Range: bytes="+c.ranges, "-w", "%{http_code}", url)
		if body, ok := strings.CutSuffix(said, c.status); err != nil || !ok || c.want != "" && body != c.want {
			t.Errorf("bytes=%s: got %.60q, %v, want %s %q", c.ranges, said, err, c.status, c.want)
		}
	}
	said, err := node.run("curl", "-sS", "--max-time", "20", "-H", "Range: bytes=0-3,8-9", "-w", "%{http_code} %{content_type}", url)
	if err != nil || !strings.Contains(said, "206 multipart/byteranges") ||
		!strings.Contains(said, fmt.Sprintf("Content-Range: bytes 0-3/%d\r\n", size)) || !strings.Contains(said, fmt.Sprintf("Content-Range: bytes 8-9/%d\r\n", size)) {
		t.Errorf("two ranges: %v, %.300q", err, said)
	}
	many := strings.Repeat("0-,", 300)
	said, err = node.run("curl", "-sS", "--max-time", "20", "-o", "/dev/null", "-H", "Range: bytes="+many+"0-", "-w", "%{http_code} %{size_download}", url)
	if err != nil || said != fmt.Sprintf("200 %d", size) {
		t.Errorf("the whole file three hundred times: %v, %q, want it once", err, said)
	}
	for name, command := range map[string][]string{
		"wget, the rest of a file":         {"wget", "-q", "-c", "-O"},
		"busybox wget, the rest of a file": {"busybox", "wget", "-q", "-c", "-O"},
	} {
		got := filepath.Join(node.dir, "got")
		must(t, os.WriteFile(got, whole[:1000], 0o600))
		if said, err := node.run(append(command, got, url)...); err != nil {
			t.Errorf("%s: %v: %s", name, err, said)
			continue
		}
		sameFile(t, got, filepath.Join(config.Artifacts, workerUKI))
	}
}
