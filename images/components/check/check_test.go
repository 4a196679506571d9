package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// output is what a command prints.
func output(t *testing.T, args ...string) (string, error) {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "stdout")
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = file
	failed := run(t.Context(), args)
	os.Stdout = stdout
	said, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(said), failed
}

func TestWrongUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"unknown"}, {"cat"}, {"cat", "a", "b"}, {"fetch"}, {"serve", "extra"}, {"write", "x"}, {"resolve"}} {
		if err := run(t.Context(), args); !errors.Is(err, errUsage) {
			t.Errorf("%q: error is %v", args, err)
		}
	}
}

func answer(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
	body, err := io.ReadAll(recorder.Body)
	if err != nil {
		t.Fatal(err)
	}
	return recorder.Code, string(body)
}

func TestServeAnswersHostNameAndFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	h := handler(file, 0)
	if code, _ := answer(t, h, "/"); code != http.StatusServiceUnavailable {
		t.Errorf("without the file the answer is %d", code)
	}
	if err := os.WriteFile(file, []byte("the secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if code, body := answer(t, h, "/"); code != http.StatusOK || body != name+"\nthe secret\n" {
		t.Errorf("the answer is %d %q", code, body)
	}
}

func TestHealthFailsAfterItsTime(t *testing.T) {
	if code, _ := answer(t, handler("", 0), "/healthz"); code != http.StatusOK {
		t.Errorf("health without a limit is %d", code)
	}
	if code, _ := answer(t, handler("", time.Hour), "/healthz"); code != http.StatusOK {
		t.Errorf("health before its time is %d", code)
	}
	h := handler("", time.Nanosecond)
	time.Sleep(time.Millisecond)
	if code, _ := answer(t, h, "/healthz"); code != http.StatusInternalServerError {
		t.Errorf("health after its time is %d", code)
	}
}

func TestFetch(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked == 1 {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "hello\n")
	}))
	defer server.Close()
	if _, err := output(t, "fetch", server.URL); err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "not yet") {
		t.Errorf("error is %v", err)
	}
	asked = 0
	if said, err := output(t, "fetch", server.URL, "--retry", "30s", "--expect", "hell"); err != nil || said != "hello\n" {
		t.Errorf("fetch says %q (%v)", said, err)
	}
	if _, err := output(t, "fetch", "--expect", "heaven", server.URL); err == nil || !strings.Contains(err.Error(), "heaven") {
		t.Errorf("error is %v", err)
	}
}

func TestServeListensUntilStopped(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if err := run(t.Context(), []string{"serve", "--listen", address}); err == nil {
		t.Error("a taken port is no error")
	}
	free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"serve", "--listen", address}) }()
	if _, err := output(t, "fetch", "--retry", "30s", "http://"+address+"/healthz"); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("serve ends with %v", err)
	}
}

func TestWriteAndCat(t *testing.T) {
	file := filepath.Join(t.TempDir(), "text")
	for _, text := range []string{"longer than the next", "short"} {
		if err := run(t.Context(), []string{"write", file, text}); err != nil {
			t.Fatal(err)
		}
		if said, err := output(t, "cat", file); err != nil || said != text {
			t.Errorf("cat says %q (%v)", said, err)
		}
	}
	if err := run(t.Context(), []string{"cat", file + ".missing"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
		t.Errorf("the folder holds %v (%v)", left, err)
	}
}

func TestWrittenFileCanBeReadByOthers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "text")
	if err := run(t.Context(), []string{"write", file, "x"}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode is %v (%v)", info.Mode(), err)
	}
}

func TestResolve(t *testing.T) {
	said, err := output(t, "resolve", "localhost")
	if err != nil || !strings.Contains(said, "127.0.0.1\n") {
		t.Errorf("resolve says %q (%v)", said, err)
	}
}

func TestSleepEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, []string{"sleep", "1h"}); err != nil {
		t.Error(err)
	}
	if err := run(ctx, []string{"sleep", "soon"}); err == nil {
		t.Error("a wrong duration is no error")
	}
}
