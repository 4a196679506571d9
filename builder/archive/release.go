package archive

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-os/slipway/builder/deb"
)

// maxSkew is how far in the future an index's Date may lie before the clock is taken to be wrong.
const maxSkew = 24 * time.Hour

// clock is the time at which an index is judged.
type clock struct {
	now          time.Time
	snapshot     Snapshot // judged at this moment instead
	allowExpired bool
}

// readRelease reads a verified index and checks that it is the one that was asked for, at this time.
func readRelease(text []byte, suite Suite, c clock) (*Release, error) {
	p, err := deb.NewReader(bytes.NewReader(text)).Next()
	if err != nil {
		return nil, err
	}
	if p.Get("Suite") != suite.Name && p.Get("Codename") != suite.Name {
		return nil, fmt.Errorf("it is of suite %q (%s), not %s", p.Get("Suite"), p.Get("Codename"), suite.Name)
	}
	if !slices.Contains(strings.Fields(p.Get("Architectures")), suite.Arch) {
		return nil, fmt.Errorf("it has no architecture %s", suite.Arch)
	}
	r := &Release{Suite: suite, byHash: p.Get("Acquire-By-Hash") == "yes"}
	if err := r.times(p, c); err != nil {
		return nil, err
	}
	r.files, err = releaseFiles(p.Get("SHA256"), suite)
	return r, err
}

// times reads Date and Valid-Until and compares them with the clock.
func (r *Release) times(p deb.Paragraph, c clock) error {
	var err error
	if r.Date, err = releaseTime(p.Get("Date")); err != nil {
		return fmt.Errorf("its Date: %w", err)
	}
	now, said := c.now, "now"
	if c.snapshot != "" {
		now, said = c.snapshot.Time(), "the snapshot is of"
		if r.Date.After(now) {
			return fmt.Errorf("its date %s is after the snapshot's (%s): the mirror has no snapshots, or takes no notice of the date", stamp(r.Date), c.snapshot)
		}
	} else if r.Date.After(now.Add(maxSkew)) {
		return fmt.Errorf("its date %s is in the future: is this machine's clock right? (%s)", stamp(r.Date), stamp(now))
	}
	until := p.Get("Valid-Until")
	if until == "" {
		return nil
	}
	if r.ValidUntil, err = releaseTime(until); err != nil {
		return fmt.Errorf("its Valid-Until: %w", err)
	}
	if r.Expired = now.After(r.ValidUntil); r.Expired && !c.allowExpired {
		return fmt.Errorf("%w on %s (%s %s): the mirror is out of date, or the clock is wrong", ErrExpired, stamp(r.ValidUntil), said, stamp(now))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// releaseTime reads the RFC 1123 form with the zone that Release files use.
func releaseTime(s string) (time.Time, error) {
	for _, layout := range []string{"Mon, 02 Jan 2006 15:04:05 MST", "Mon, 2 Jan 2006 15:04:05 MST", time.RFC1123Z} {
		if t, err := time.Parse(layout, s); err == nil {
			if name, offset := t.Zone(); offset != 0 || name == "UTC" || name == "GMT" || name == "" {
				return t.UTC(), nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time in UTC", s)
}

// releaseFiles reads the SHA256 field: digest, size and path per line.
func releaseFiles(field string, suite Suite) (map[string]File, error) {
	files := map[string]File{}
	for line := range strings.SplitSeq(field, "\n") {
		parts := strings.Fields(line)
		if len(parts) == 0 {
			continue
		}
		if len(parts) != 3 {
			return nil, fmt.Errorf("bad line in SHA256: %.100q", line)
		}
		size, err := strconv.ParseInt(parts[1], 10, 64)
		if err != nil || size < 0 || !isDigest(parts[0]) {
			return nil, fmt.Errorf("bad line in SHA256: %.100q", line)
		}
		files[parts[2]] = File{Path: suite.Archive + "/dists/" + suite.Name + "/" + parts[2], Size: size, SHA256: parts[0]}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("it lists no files with SHA256")
	}
	return files, nil
}

// isDigest: 64 lower-case hexadecimal digits.
func isDigest(s string) bool {
	_, err := hex.DecodeString(s)
	return len(s) == 64 && err == nil && s == strings.ToLower(s)
}
