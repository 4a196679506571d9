package provenance

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// Statement is what a statement says, as far as it is needed here.
type Statement struct {
	Subjects     map[string]string `json:"-"` // SHA-256 by name
	Builder      string            `json:"builder"`
	Invocation   string            `json:"invocation,omitempty"`
	Commit       string            `json:"commit,omitempty"`
	Dirty        bool              `json:"dirty,omitempty"`
	Lock         string            `json:"lock,omitempty"` // SHA-256
	Dependencies int               `json:"dependencies"`
}

// Decode reads a statement strictly: unknown fields, another type and subjects without a SHA-256 are errors.
func Decode(data []byte) (*Statement, error) {
	s, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("it is no provenance: %w", err)
	}
	return s, nil
}

func decode(data []byte) (*Statement, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%d bytes are over the limit of %d", len(data), MaxSize)
	}
	var statement intoto.Statement
	if err := protojson.Unmarshal(data, &statement); err != nil {
		return nil, err
	}
	if err := statement.Validate(); err != nil {
		return nil, err
	}
	if statement.PredicateType != PredicateType {
		return nil, fmt.Errorf("predicateType %q is not %s", statement.PredicateType, PredicateType)
	}
	text, err := protojson.Marshal(statement.Predicate)
	if err != nil {
		return nil, err
	}
	var p slsa.Provenance
	if err := protojson.Unmarshal(text, &p); err != nil {
		return nil, err
	}
	if err := p.Validate(); err != nil {
		return nil, err
	}
	return read(&statement, &p)
}

func read(statement *intoto.Statement, p *slsa.Provenance) (*Statement, error) {
	if p.BuildDefinition.BuildType != BuildType {
		return nil, fmt.Errorf("buildType %q is not %s", p.BuildDefinition.BuildType, BuildType)
	}
	dependencies := p.BuildDefinition.ResolvedDependencies
	s := &Statement{
		Subjects: map[string]string{}, Builder: p.RunDetails.Builder.Id, Invocation: p.RunDetails.Metadata.GetInvocationId(), Dependencies: len(dependencies),
	}
	for _, d := range statement.Subject {
		if d.Name == "" || s.Subjects[d.Name] != "" || d.Digest["sha256"] == "" {
			return nil, fmt.Errorf("subject %q has no SHA-256, or comes twice", d.Name)
		}
		s.Subjects[d.Name] = d.Digest["sha256"]
	}
	for _, d := range dependencies {
		switch d.Name {
		case nameLock:
			s.Lock = d.Digest["sha256"]
		case nameSource:
			s.Commit, s.Dirty = d.Digest["gitCommit"], d.Annotations.GetFields()["dirty"].GetBoolValue()
		}
	}
	return s, nil
}

// ErrSubjects is what errors wrap about a statement that is about something else than an image.
var ErrSubjects = errors.New("the provenance is not that of the image")

// Check wants the subjects to be an image's manifest, whose file is text, and its artifacts, all of them and nothing else.
func (s *Statement) Check(m *manifest.Manifest, text []byte) error {
	want := map[string]string{bootspec.ArtifactBase(m.Role, m.Version, m.Arch) + bootspec.ExtManifest: fmt.Sprintf("%x", sha256.Sum256(text))}
	names := []string{bootspec.ArtifactBase(m.Role, m.Version, m.Arch) + bootspec.ExtManifest}
	for _, a := range m.Artifacts {
		want[a.Name] = a.SHA256
		names = append(names, a.Name)
	}
	for _, name := range names {
		switch s.Subjects[name] {
		case want[name]:
		case "":
			return fmt.Errorf("%w: it does not name %s", ErrSubjects, name)
		default:
			return fmt.Errorf("%w: it has SHA-256 %.12s for %s, which is %.12s (baked again since, or changed)", ErrSubjects, s.Subjects[name], name, want[name])
		}
	}
	for name := range s.Subjects {
		if !slices.Contains(names, name) {
			return fmt.Errorf("%w: it names %s, which is no file of that", ErrSubjects, name)
		}
	}
	return nil
}

// Of is a statement with another subject: what its image is elsewhere, such as an artifact in a registry, by name and SHA-256. The
// predicate stays as it is.
func Of(text []byte, name, digest string) ([]byte, error) {
	if _, err := Decode(text); err != nil {
		return nil, err
	}
	var s intoto.Statement
	if err := protojson.Unmarshal(text, &s); err != nil {
		return nil, err
	}
	s.Subject = []*intoto.ResourceDescriptor{{Name: name, Digest: sha(digest)}}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return canonical(&s)
}
