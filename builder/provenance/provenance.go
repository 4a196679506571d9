// Package provenance says how an image came to be: SLSA 1.0 provenance (https://slsa.dev/spec/v1.0/provenance) in an in-toto
// statement (https://github.com/in-toto/attestation, Statement v1).
//
// Its subjects are the image's manifest and every artifact that this names. What it tells is what went in: definition, lock, role,
// Debian packages, components, Go modules, the commit. No clock is read: the same bake in the same circumstances has the same
// bytes. A statement is not signed here (builder/sigstore, builder/release), and nothing of it goes into the image or its manifest,
// because a commit that changes no input must not change those.
package provenance

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/package-url/packageurl-go"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/images/manifest"
)

// PredicateType is SLSA's, of statements; BuildType is what says how to read the parameters (docs/pipelines.md).
const (
	PredicateType = "https://slsa.dev/provenance/v1"
	BuildType     = "https://slipway.dev/bake/v1"
)

// LocalBuilder is the builder's id where nobody says another one: somebody's machine, of which nothing is promised.
const LocalBuilder = "https://slipway.dev/builder/local"

// Ext is the extension of an image's statement. The manifest doesn't name that file: it names the manifest.
const Ext = ".provenance.json"

// MaxSize bounds a statement in bytes.
const MaxSize = 16 << 20

// Names of dependencies and algorithms that have no standard ones.
const (
	nameDefinition = "definition.yaml"
	nameLock       = "lock.json"
	nameSource     = "source"
	inputsDigest   = "slipwayInputs" // SHA-256 of everything that went into a component
)

// Origin is who bakes, from where. All of it may be empty.
type Origin struct {
	Builder    string // URI of who runs the bake; empty: LocalBuilder
	Version    string // of the program
	Invocation string // URI or id of the run
	Lock       string // SHA-256 of the lock document
	Source     *Source
}

// Source is the checkout that the definition lies in.
type Source struct {
	URI    string // git+https://..., without credentials; may be empty
	Commit string // hexadecimal
	Dirty  bool   // something differs from the commit
}

// Package is a Debian package that is no part of the image, but of what makes it.
type Package = manifest.Package

// Module is a Go module that was linked into a program.
type Module struct {
	Path, Version string
	Sum           string // h1:..., as in go.sum; may be empty
}

// Build is one bake.
type Build struct {
	Origin
	Manifest     *manifest.Manifest
	Definition   string   // SHA-256 of the definition document
	Role         string   // SHA-256 of the resolved role
	Formats      []string // what was asked for besides the netboot files
	RootSlot     int64    // bytes; 0: the default
	Epoch        int64    // time of the image's files, Unix seconds
	Distribution string   // whose packages these are: debian
	Tools        []Package
	Modules      []Module
	Foreign      []string // digests of the manifest's container images that came as they are
}

// FileName is the name of an image's statement.
func FileName(role, version, arch string) string {
	return bootspec.ArtifactBase(role, version, arch) + Ext
}

// Encode is the statement, canonical: sorted, indented by two spaces, one newline at its end.
func (b Build) Encode() ([]byte, error) {
	text, err := b.encode()
	if err != nil {
		return nil, fmt.Errorf("cannot write provenance of role %s: %w", b.Manifest.Role, err)
	}
	return text, nil
}

func (b Build) encode() ([]byte, error) {
	predicate, err := b.predicate()
	if err != nil {
		return nil, err
	}
	if err := predicate.Validate(); err != nil {
		return nil, err
	}
	s := &intoto.Statement{Type: intoto.StatementTypeUri, PredicateType: PredicateType, Subject: b.subjects(), Predicate: &structpb.Struct{}}
	text, err := protojson.Marshal(predicate)
	if err != nil {
		return nil, err
	}
	if err := protojson.Unmarshal(text, s.Predicate); err != nil {
		return nil, err
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return canonical(s)
}

// canonical is a message as JSON. protojson changes its white space from build to build, on purpose, and so it is laid out again.
func canonical(m proto.Message) ([]byte, error) {
	text, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = json.Indent(&b, text, "", "  ")
	b.WriteByte('\n')
	return b.Bytes(), err
}

func (b Build) subjects() []*intoto.ResourceDescriptor {
	m := b.Manifest
	list := []*intoto.ResourceDescriptor{{
		Name: bootspec.ArtifactBase(m.Role, m.Version, m.Arch) + bootspec.ExtManifest, Digest: sha(fmt.Sprintf("%x", sha256.Sum256(m.Encode()))),
	}}
	for _, a := range m.Artifacts {
		list = append(list, &intoto.ResourceDescriptor{Name: a.Name, Digest: sha(a.SHA256)})
	}
	return list
}

func sha(digest string) map[string]string { return map[string]string{"sha256": digest} }

func (b Build) predicate() (*slsa.Provenance, error) {
	m := b.Manifest
	formats := []any{}
	for _, f := range b.Formats {
		formats = append(formats, f)
	}
	external, err := structpb.NewStruct(map[string]any{"role": m.Role, "version": m.Version, "arch": m.Arch, "formats": formats, "rootSlot": float64(b.RootSlot)})
	if err != nil {
		return nil, err
	}
	internal, err := structpb.NewStruct(map[string]any{"planSha256": m.Plan, "epoch": float64(b.Epoch)})
	if err != nil {
		return nil, err
	}
	dependencies, err := b.dependencies()
	if err != nil {
		return nil, err
	}
	p := &slsa.Provenance{
		BuildDefinition: &slsa.BuildDefinition{BuildType: BuildType, ExternalParameters: external, InternalParameters: internal, ResolvedDependencies: dependencies},
		RunDetails:      &slsa.RunDetails{Builder: &slsa.Builder{Id: b.Builder}, Byproducts: b.byproducts()},
	}
	if b.Builder == "" {
		p.RunDetails.Builder.Id = LocalBuilder
	}
	if b.Version != "" {
		p.RunDetails.Builder.Version = map[string]string{"slipway": b.Version}
	}
	if b.Invocation != "" {
		p.RunDetails.Metadata = &slsa.BuildMetadata{InvocationId: b.Invocation}
	}
	return p, nil
}

// dependencies are what went in, in the order of a definition: documents, packages, tools, components, modules.
func (b Build) dependencies() ([]*intoto.ResourceDescriptor, error) {
	var list []*intoto.ResourceDescriptor
	for _, d := range []struct{ name, digest string }{
		{nameDefinition, b.Definition}, {nameLock, b.Lock}, {"roles/" + b.Manifest.Role, b.Role},
	} {
		if d.digest != "" {
			list = append(list, &intoto.ResourceDescriptor{Name: d.name, Digest: sha(d.digest)})
		}
	}
	if b.Source != nil {
		dirty, err := structpb.NewStruct(map[string]any{"dirty": b.Source.Dirty})
		if err != nil {
			return nil, err
		}
		list = append(list, &intoto.ResourceDescriptor{Name: nameSource, Uri: b.Source.URI, Digest: map[string]string{"gitCommit": b.Source.Commit}, Annotations: dirty})
	}
	for _, p := range b.Manifest.Packages {
		list = append(list, b.debian(p))
	}
	for _, p := range b.Tools {
		d := b.debian(p)
		d.Annotations = &structpb.Struct{Fields: map[string]*structpb.Value{"tool": structpb.NewBoolValue(true)}}
		list = append(list, d)
	}
	for _, c := range b.Manifest.Components {
		list = append(list, &intoto.ResourceDescriptor{Name: "components/" + c.Name + "@" + c.Version, Digest: map[string]string{inputsDigest: c.Key}})
	}
	for _, m := range b.Modules {
		d, err := module(m)
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return append(list, b.images(true)...), nil
}

func (b Build) debian(p Package) *intoto.ResourceDescriptor {
	q := packageurl.QualifiersFromMap(map[string]string{"arch": p.Arch})
	return &intoto.ResourceDescriptor{
		Uri: packageurl.NewPackageURL(packageurl.TypeDebian, b.Distribution, p.Name, p.Version, q, "").ToString(), Digest: sha(p.SHA256),
	}
}

// module is a Go module. Its sum is dirHash of in-toto's digest sets: Go's h1, in hexadecimal.
func module(m Module) (*intoto.ResourceDescriptor, error) {
	namespace, name := path.Split(m.Path)
	d := &intoto.ResourceDescriptor{Uri: packageurl.NewPackageURL(packageurl.TypeGolang, strings.TrimSuffix(namespace, "/"), name, m.Version, nil, "").ToString()}
	if m.Sum == "" {
		return d, nil
	}
	sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:"))
	if err != nil {
		return nil, fmt.Errorf("module %s: sum %q: %w", m.Path, m.Sum, err)
	}
	d.Digest = map[string]string{"dirHash": fmt.Sprintf("%x", sum)}
	return d, nil
}

// byproducts are the container images that a bake makes of components and puts into the root image.
func (b Build) byproducts() []*intoto.ResourceDescriptor { return b.images(false) }

// images are the container images that came as they are, or the others.
func (b Build) images(foreign bool) []*intoto.ResourceDescriptor {
	var list []*intoto.ResourceDescriptor
	for _, i := range b.Manifest.Images {
		if slices.Contains(b.Foreign, i.Digest) != foreign {
			continue
		}
		colon := strings.LastIndex(i.Reference, ":") // before it there may be a port
		name, tag := i.Reference[:max(colon, 0)], i.Reference[colon+1:]
		q := packageurl.QualifiersFromMap(map[string]string{"repository_url": name, "tag": tag})
		list = append(list, &intoto.ResourceDescriptor{
			Name: i.Reference, Uri: packageurl.NewPackageURL(packageurl.TypeOCI, "", path.Base(name), i.Digest, q, "").ToString(),
			Digest: sha(strings.TrimPrefix(i.Digest, "sha256:")),
		})
	}
	return list
}
