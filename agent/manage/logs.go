package manage

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// maxSince bounds how far back a journal is asked for: no boot is older.
const maxSince = 10 * 365 * 24 * time.Hour

// unitName is a unit as systemd writes it (systemd.unit(5)); it can't begin like an option.
func unitName(name string) bool {
	return len(name) <= 255 && regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9:_.\\@-]*$`).MatchString(name)
}

// journal is the command line of journalctl for a request, or what is wrong with it.
func journal(unit, since, follow string) ([]string, error) {
	args := []string{"--boot", "--no-pager", "--quiet", "--output=short-iso"}
	if unit != "" {
		if !unitName(unit) {
			return nil, fmt.Errorf("%.60q is not the name of a unit", unit)
		}
		args = append(args, "--unit="+unit)
	}
	if since != "" {
		seconds, err := strconv.ParseInt(since, 10, 64)
		if err != nil || seconds < 0 || seconds > int64(maxSince/time.Second) {
			return nil, errors.New("since is not a number of seconds")
		}
		args = append(args, fmt.Sprintf("--since=-%ds", seconds))
	}
	switch follow {
	case "", "0":
	case "1":
		args = append(args, "--follow", "--lines=all")
	default:
		return nil, errors.New("follow is 1 or 0")
	}
	return args, nil
}

// logs sends the journal as text.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	args, err := journal(q.Get("unit"), q.Get("since"), q.Get("follow"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out := newSender(w)
	if q.Get("follow") == "1" {
		_ = out.control.Flush() // the client knows that it is accepted, also while there is nothing to say
	}
	var words bytes.Buffer
	cmd := exec.CommandContext(r.Context(), s.node.Journal, args...)
	cmd.Stdout, cmd.Stderr = out, &words
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil && r.Context().Err() == nil {
		if out.sent == 0 {
			http.Error(w, fmt.Sprintf("cannot read the journal: %v: %.300s", err, bytes.TrimSpace(words.Bytes())), http.StatusInternalServerError)
			return
		}
		panic(http.ErrAbortHandler) // the client must not take what it has for all
	}
}
