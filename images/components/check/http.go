package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// maxBody bounds what fetch reads, in bytes.
const maxBody = 1 << 20

// serve answers GET / with the host name and the content of a file, GET /healthz with 200 until a set time is over.
func serve(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	listen := flags.String("listen", ":8080", "address to listen on")
	file := flags.String("file", "", "file whose content is part of the answer")
	failAfter := flags.Duration("healthz-fail-after", 0, "when /healthz begins to fail; 0: never")
	if _, err := arguments(flags, args, 0); err != nil {
		return err
	}
	server := &http.Server{Addr: *listen, Handler: handler(*file, *failAfter), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	return nil
}

func handler(file string, failAfter time.Duration) http.Handler {
	started := time.Now()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if failAfter > 0 && time.Since(started) > failAfter {
			http.Error(w, "failing as told", http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		name, _ := os.Hostname()
		content := []byte{}
		if file != "" {
			var err error
			if content, err = os.ReadFile(file); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		fmt.Fprintf(w, "%s\n%s\n", name, content)
	})
	return mux
}

// fetch prints what a URL answers; anything but 200, or an answer without the expected text, is an error.
func fetch(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("fetch", flag.ContinueOnError)
	again := flags.Duration("retry", 0, "how long to try again")
	expect := flags.String("expect", "", "text the answer must hold")
	rest, err := arguments(flags, args, 1)
	if err != nil {
		return err
	}
	return retry(ctx, *again, func(ctx context.Context) error { return get(ctx, rest[0], *expect) })
}

func get(ctx context.Context, url, expect string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %s", url, response.Status, strings.TrimSpace(string(body)))
	}
	if !strings.Contains(string(body), expect) {
		return fmt.Errorf("%s answers %q, without %q", url, body, expect)
	}
	_, err = os.Stdout.Write(body)
	return err
}
