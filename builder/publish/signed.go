package publish

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/slipway-os/slipway/builder/release"
)

// Seal is what makes an index a signed one. It lies in the index itself, so that one rename replaces both. The names are those of
// The Update Framework (TUF specification, chapter 4.3), which tells against whom each is.
type Seal struct {
	Place     string `json:"place"`               // 32 hexadecimal digits, made once: against an index of another place
	Counter   int64  `json:"counter"`             // grows by one with each change: against an older index (rollback)
	Expires   string `json:"expires,omitempty"`   // RFC 3339; empty: never. Against one that is kept from readers (freeze)
	Signature string `json:"signature,omitempty"` // minisign's, of the index without its two signatures
	Bundle    string `json:"bundle,omitempty"`    // Sigstore's
}

func (s *Seal) check() error {
	switch {
	case s == nil:
		return nil
	case len(s.Place) != 32 || strings.Trim(s.Place, "0123456789abcdef") != "":
		return fmt.Errorf("its place %q is not 32 hexadecimal digits", s.Place)
	case s.Counter < 1:
		return fmt.Errorf("its counter is %d", s.Counter)
	case s.Expires == "":
		return nil
	}
	_, err := time.Parse(time.RFC3339, s.Expires)
	return err
}

// text is what is signed: the index as it is encoded, without the signatures. An index that was read strictly has no other meaning.
func (x *Index) text() []byte {
	bare, seal := *x, *x.Seal
	seal.Signature, seal.Bundle = "", ""
	bare.Seal = &seal
	return bare.Encode()
}

// Sealing is who signs an index.
type Sealing struct {
	By      release.Signers
	Trust   *release.Trust // whose signature the index before may have; the keys' own are always good
	Now     time.Time
	Lasts   time.Duration // until the index expires; 0: it never does
	Entropy io.Reader     // for a new place
	Adopt   bool          // sign what is published already and nobody signed
}

// Allow tells whether a change may be made to an index. One that is signed is changed only by somebody who can sign the next, and by
// them only when a key they trust has signed it: else they would sign what an attacker has put there.
func (s *Sealing) Allow(x *Index) error {
	switch {
	case x.Seal != nil && s == nil:
		return fmt.Errorf("%w: their index is signed, and has to be signed again with each change (--key)", ErrRefused)
	case x.Seal != nil:
		_, err := x.Verify(s.Trust.And(s.By.Trust("--key")))
		return err
	case s == nil || s.Adopt || len(x.Releases) == 0:
		return nil
	}
	return fmt.Errorf("%w: %s has no signature so far; look at it (slipway publish list), and sign it: slipway publish sign PLACE --key FILE", ErrRefused, IndexName)
}

// Seal signs an index as the next one.
func (s *Sealing) Seal(x *Index) error {
	seal := Seal{}
	if x.Seal != nil {
		seal.Place, seal.Counter = x.Seal.Place, x.Seal.Counter
	} else {
		var id [16]byte
		if _, err := io.ReadFull(s.Entropy, id[:]); err != nil {
			return err
		}
		seal.Place = fmt.Sprintf("%x", id)
	}
	seal.Counter++
	if s.Lasts > 0 {
		seal.Expires = s.Now.Add(s.Lasts).UTC().Truncate(time.Second).Format(time.RFC3339)
	}
	x.Seal = &seal
	signature, bundle, err := s.By.SignText(x.text(), fmt.Sprintf("slipway releases of place %s, index %d", seal.Place, seal.Counter))
	seal.Signature, seal.Bundle = string(signature), string(bundle)
	return err
}

// Verify wants an index to be signed with a trusted key. Errors wrap release.ErrSignature.
func (x *Index) Verify(t *release.Trust) (release.Key, error) {
	if x.Seal == nil {
		return release.Key{}, fmt.Errorf("%w: nobody has signed %s, so that a channel may name what whoever can write there wants", release.ErrSignature, IndexName)
	}
	return t.VerifyText(IndexName, x.text(), some(x.Seal.Signature), some(x.Seal.Bundle))
}

// some is a text, or nil.
func some(s string) []byte {
	if s == "" {
		return nil
	}
	return []byte(s)
}

// Guard is what a reader wants of an index before it believes one. A nil one wants nothing.
type Guard struct {
	Trust    *release.Trust
	Unsigned bool      // take channels of an index that nobody signed
	Now      time.Time // zero: don't ask whether it has expired
	Memory   *Memory   // nil: none
}

// Wanted tells whether anything is wanted.
func (g *Guard) Wanted() bool { return g != nil && g.Trust.Wanted() }

// Check wants an index of a place to be signed with a trusted key, not expired, and not older than one that was seen here. A reader
// who wants one version, and asks for no channel, takes an unsigned one of a place that had none signed so far: what the version
// is, its release's own signature says.
func (g *Guard) Check(place string, x *Index, channel bool) error {
	if !g.Wanted() {
		return nil
	}
	seen, err := g.Memory.recall(place)
	if err != nil {
		return err
	}
	if x.Seal == nil && seen == nil && (g.Unsigned || !channel) {
		return nil
	}
	if _, err := x.Verify(g.Trust); err != nil {
		return g.hint(err, x, seen)
	}
	if err := seen.allows(x.Seal); err != nil {
		return fmt.Errorf("%w: %w; if the place was made anew on purpose, remove %s", release.ErrSignature, err, g.Memory.file(place))
	}
	if end, err := time.Parse(time.RFC3339, x.Seal.Expires); x.Seal.Expires != "" && !g.Now.IsZero() && (err != nil || !g.Now.Before(end)) {
		return fmt.Errorf("%w: %s has expired at %s: either nobody renewed it (slipway publish sign), or somebody keeps newer ones from this machine, "+
			"or its clock is wrong", release.ErrSignature, IndexName, x.Seal.Expires)
	}
	return g.Memory.remember(place, x.Seal)
}

// Writes tells whether an index may be changed by somebody: s is who signs the next one, nil: nobody. An expired one may be.
func (g *Guard) Writes(place string, x *Index, s *Sealing) error {
	if err := s.Allow(x); err != nil {
		return err
	}
	if x.Seal == nil || g == nil {
		return nil
	}
	writer := Guard{Trust: s.By.Trust("--key").And(g.Trust), Memory: g.Memory}
	return writer.Check(place, x, false)
}

// Wrote keeps which index was written.
func (g *Guard) Wrote(place string, x *Index) error {
	if g == nil || x.Seal == nil {
		return nil
	}
	return g.Memory.remember(place, x.Seal)
}

func (g *Guard) hint(err error, x *Index, seen *memo) error {
	switch {
	case x.Seal != nil:
		return err
	case seen != nil:
		return fmt.Errorf("%w; it was signed before (index %d)", err, seen.Counter)
	}
	return fmt.Errorf("%w; sign it (slipway publish sign), name a version (@VERSION), or take its word (--unsigned-index)", err)
}

// allows wants an index to be of the same place as the one that was seen, and not older.
func (m *memo) allows(s *Seal) error {
	switch {
	case m == nil:
		return nil
	case m.Place != s.Place:
		return errors.New("this is the index of another place than before")
	case s.Counter < m.Counter:
		return fmt.Errorf("this is index %d, and %d was seen before: somebody shows an older one", s.Counter, m.Counter)
	}
	return nil
}
