package provision

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// maxReasons bounds how many lines are told.
const maxReasons = 5

// explain is what may be told of Ignition's output: only sentences of known form, with paths, unit names and places in the
// document; and of these only such that share no piece of text with a secret of config. Paths are told without root.
//
// The forms (Ignition 2.24, internal/log, internal/exec/stages/files and vcontext/report):
//
//	CRITICAL : error at $.storage.files.0.path, line 1 col 99: path not absolute
//	CRITICAL : files: createFilesystemsEntries: createFiles: op(3): [failed]   writing file "/sysroot/etc/x": ...
//	CRITICAL : Ignition failed: failed to create files: error creating /sysroot/etc/x: ...
func explain(output, config []byte, root string) []string {
	secrets := secretsOf(config)
	forms := newForms()
	var reasons []string
	for line := range strings.Lines(string(output)) {
		r := strings.ReplaceAll(forms.reason(line), " "+strings.TrimRight(root, "/")+"/", " /")
		if r != "" && !slices.Contains(reasons, r) && !leaks(r, secrets) && len(reasons) < maxReasons {
			reasons = append(reasons, r)
		}
	}
	return reasons
}

// forms are the sentences that may be told.
type forms struct{ place, failed, creating *regexp.Regexp }

func newForms() forms {
	return forms{
		place:    regexp.MustCompile(`error at (\$[\w.]{0,200})(?:, line (\d+) col (\d+))?: (.*)`),
		failed:   regexp.MustCompile(`\[failed\]\s+(writing (?:file|unit|systemd drop-in|link)|creating (?:directory|file|link)|setting preset to (?:enabled|disabled) for|processing unit|adding ssh keys to user|creating or modifying user|adding group) "([\w@.:/-]{1,200})"`),
		creating: regexp.MustCompile(`Ignition failed: .*?(?:error|failed to) (create|creating|resolve|setting)(?: [a-z]+){0,3} "?(/[\w@.:/-]{1,200})"?:(.*)`),
	}
}

// reason is one line of known form in our words, or nothing.
func (f forms) reason(line string) string {
	if m := f.place.FindStringSubmatch(line); m != nil {
		text := known(m[4])
		if text == "" {
			text = "wrong"
		}
		if m[2] != "" {
			return fmt.Sprintf("%s (line %s, column %s): %s", m[1], m[2], m[3], text)
		}
		return m[1] + ": " + text
	}
	if m := f.failed.FindStringSubmatch(line); m != nil {
		return fmt.Sprintf("failed %s %s", m[1], m[2])
	}
	if m := f.creating.FindStringSubmatch(line); m != nil {
		text := "failed at " + m[2]
		if why := known(m[3]); why != "" {
			text += ": " + why
		}
		return text
	}
	if strings.HasPrefix(line, "CRITICAL") {
		return known(line)
	}
	return ""
}

// known is the part of a text that is one of Ignition's own fixed messages (config/shared/errors), or a system error.
func known(text string) string {
	for _, m := range []string{
		"config is not valid", "not a config (empty)", "duplicate entry defined", "unsupported config version",
		"invalid config version", "path not absolute", "path not specified", "path is not fully simplified",
		"file path includes link in config", "directory path includes link in config", "link path includes link in config",
		"path conflicts with systemd unit or dropin", "link target is required", "hard link target is a directory",
		"overwrite must be false if source is unspecified", "source must be specified if verification is specified",
		"source is required", "overwrite is false", "illegal file mode", "cannot set both id and name",
		"invalid systemd unit extension", "no systemd unit extension", "invalid systemd drop-in extension",
		"invalid systemd instantiated unit", "invalid url scheme", "unable to parse url", "malformed hash specifier",
		"incorrect size for hash sum", "unrecognized hash function", "hash verification failed", "invalid compression method",
		"no space left on device", "read-only file system", "no such file or directory", "permission denied",
		"not a directory", "is a directory", "executable file not found", "connection refused", "no route to host",
	} {
		if strings.Contains(text, m) {
			return m
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

// decodings is a value as it stands and, of a data URL, what it says.
func decodings(v string) [][]byte {
	all := [][]byte{[]byte(v)}
	text, err := dataURL(v)
	if err != nil {
		return all
	}
	all = append(all, text)
	if plain, err := unzip(text, maxOutput); err == nil {
		all = append(all, plain)
	}
	return all
}
