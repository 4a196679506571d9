package provision

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// maxReasons bounds how many lines are told.
const maxReasons = 5

// explain is what may be told of Ignition's output: only sentences of known form, with paths, unit names and places in the
// document; and of these only such that share no piece of text with a secret of config.
//
// The forms (Ignition 2.24, internal/log and vcontext/report):
//
//	CRITICAL : files: createFilesystemsEntries: createFiles: op(3): [failed]   writing file "/sysroot/etc/x": ...
//	CRITICAL : error at $.storage.files.0.path, line 1 col 99: path not absolute
func explain(output, config []byte) []string {
	secrets := secretsOf(config)
	var reasons []string
	for line := range strings.Lines(string(output)) {
		r := reason(line)
		if r != "" && !slices.Contains(reasons, r) && !leaks(r, secrets) && len(reasons) < maxReasons {
			reasons = append(reasons, r)
		}
	}
	return reasons
}

// reason is one line of known form in our words, or nothing.
func reason(line string) string {
	failed := regexp.MustCompile(`\[failed\]\s+(writing (?:file|unit|systemd drop-in|link)|creating (?:directory|file|link)|setting preset to (?:enabled|disabled) for|processing unit|adding ssh keys to user|creating or modifying user|adding group|getting remote) "([\w@.:/-]{1,200})"`)
	if m := failed.FindStringSubmatch(line); m != nil {
		return fmt.Sprintf("failed %s %s", m[1], m[2])
	}
	fault := regexp.MustCompile(`error at (\$[\w.]{0,200}), line (\d+) col (\d+): ([a-z][a-z ,'()-]{0,80})`)
	if m := fault.FindStringSubmatch(line); m != nil {
		return fmt.Sprintf("%s (line %s, column %s): %s", m[1], m[2], m[3], strings.TrimSpace(m[4]))
	}
	place := regexp.MustCompile(`error at (\$[\w.]{0,200})`)
	if m := place.FindStringSubmatch(line); m != nil {
		return m[1] + " is wrong"
	}
	for _, known := range []string{"config is not valid", "unsupported config version", "not a config (empty)", "no space left on device", "read-only file system", "no such file or directory", "permission denied"} {
		if strings.Contains(line, known) {
			return known
		}
	}
	return ""
}

// piece is how many bytes in a row of a secret make a leak.
const piece = 6

// leaks says if text shares a piece with a secret.
func leaks(text string, secrets [][]byte) bool {
	for i := 0; i+piece <= len(text); i++ {
		for _, s := range secrets {
			if bytes.Contains(s, []byte(text[i:i+piece])) {
				return true
			}
		}
	}
	return false
}

// secretsOf is all texts of a configuration that are not names: contents (as written and decoded), password hashes, unit
// texts, headers. Of one that isn't JSON, everything is a secret.
func secretsOf(config []byte) [][]byte {
	var doc any
	if err := json.Unmarshal(config, &doc); err != nil {
		return [][]byte{config}
	}
	var secrets [][]byte
	var walk func(key string, v any)
	walk = func(key string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				walk(k, e)
			}
		case []any:
			for _, e := range v {
				walk(key, e)
			}
		case string:
			if key != "path" && key != "name" && key != "target" && key != "version" && len(v) >= piece {
				secrets = append(secrets, decodings(v)...)
			}
		}
	}
	walk("", doc)
	return secrets
}

// decodings is a value as it stands and, of a data URL (RFC 2397), what it says.
func decodings(v string) [][]byte {
	all := [][]byte{[]byte(v)}
	head, data, ok := strings.Cut(v, ",")
	if !ok || !strings.HasPrefix(head, "data:") {
		return all
	}
	plain, err := url.PathUnescape(data)
	if err != nil {
		return all
	}
	text := []byte(plain)
	if strings.HasSuffix(head, ";base64") {
		if text, err = base64.StdEncoding.DecodeString(plain); err != nil {
			return all
		}
	}
	all = append(all, text)
	if z, err := gzip.NewReader(bytes.NewReader(text)); err == nil {
		if text, err := io.ReadAll(io.LimitReader(z, maxOutput)); err == nil {
			all = append(all, text)
		}
	}
	return all
}
