package provenance

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/images/manifest"
)

func sample() Build {
	d := func(c string) string { return strings.Repeat(c, 64) }
	return Build{
		Origin: Origin{Builder: "https://ci.example.com/slipway", Version: "0.1.0", Invocation: "https://ci.example.com/run/57", Lock: d("1"),
			Source: &Source{URI: "git+https://example.com/images.git", Commit: strings.Repeat("2", 40)}},
		Manifest: &manifest.Manifest{
			APIVersion: manifest.Version, Kind: manifest.Kind, Role: "worker", Version: "0.1.0+ci.57", Arch: "amd64", Plan: d("a"),
			Root:       manifest.Root{Hash: d("b"), Data: 4096},
			Artifacts:  []manifest.Artifact{{Name: "slipway-worker-0.1.0+ci.57-amd64.root", Kind: manifest.KindRoot, Size: 5, SHA256: d("c")}},
			Packages:   []manifest.Package{{Name: "udev", Version: "257.13-1~deb13u1+b2", Arch: "amd64", SHA256: d("d")}},
			Components: []manifest.Component{{Name: "runc", Version: "1.4.3", Key: d("e")}},
			Images:     []manifest.Image{{Reference: "slipway.local/pause:0.1.0", Digest: "sha256:" + d("f")}},
		},
		Definition: d("3"), Role: d("4"), Formats: []string{"disk"}, Epoch: 1700000000, Distribution: "debian",
		Tools:   []Package{{Name: "squashfs-tools", Version: "1:4.6.1-1", Arch: "amd64", SHA256: d("5")}},
		Modules: []Module{{"golang.org/x/net", "v0.2.0", "h1:KVoXO9bZhzVTWPkzHUvMcIUfcyFrmx0V+lB9SJcsjIQ="}, {"stdlib", "1.26.8", ""}},
	}
}

func encode(t *testing.T, b Build) []byte {
	t.Helper()
	text, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestForeignImages: container images that come as they are went in, and are not what a bake makes.
func TestForeignImages(t *testing.T) {
	b := sample()
	digest := "sha256:" + strings.Repeat("9", 64)
	b.Manifest.Images = append(b.Manifest.Images, manifest.Image{Reference: "r.example:5000/team/tool:1.2", Digest: digest})
	b.Foreign = []string{digest}
	p, err := b.predicate()
	if err != nil {
		t.Fatal(err)
	}
	dependencies := p.BuildDefinition.ResolvedDependencies
	last := dependencies[len(dependencies)-1]
	if want := "pkg:oci/tool@sha256:" + strings.Repeat("9", 64) + "?repository_url=r.example:5000%2Fteam%2Ftool&tag=1.2"; last.Uri != want || last.Digest["sha256"] != strings.Repeat("9", 64) {
		t.Errorf("got %s %v, want %s", last.Uri, last.Digest, want)
	}
	if made := p.RunDetails.Byproducts; len(made) != 1 || made[0].Name != "slipway.local/pause:0.1.0" {
		t.Errorf("byproducts %v", made)
	}
}

// TestEncode holds a statement against what SLSA's and in-toto's specifications name its fields, by its JSON alone.
func TestEncode(t *testing.T) {
	text := encode(t, sample())
	var s struct {
		Type          string `json:"_type"`
		PredicateType string
		Subject       []struct {
			Name   string
			Digest map[string]string
		}
		Predicate struct {
			BuildDefinition struct {
				BuildType                              string
				ExternalParameters, InternalParameters map[string]any
				ResolvedDependencies                   []struct {
					Name, URI   string
					Digest      map[string]string
					Annotations map[string]any
				}
			}
			RunDetails struct {
				Builder struct {
					ID      string
					Version map[string]string
				}
				Metadata   struct{ InvocationID string }
				Byproducts []struct {
					Name, URI string
					Digest    map[string]string
				}
			}
		}
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		t.Fatal(err)
	}
	if s.Type != "https://in-toto.io/Statement/v1" || s.PredicateType != "https://slsa.dev/provenance/v1" || len(s.Subject) != 2 {
		t.Errorf("%+v", s)
	}
	var got []string
	for _, r := range s.Predicate.BuildDefinition.ResolvedDependencies {
		line := r.Name + " " + r.URI
		for algorithm, digest := range r.Digest {
			line += " " + algorithm + ":" + digest[:4]
		}
		for name := range r.Annotations {
			line += " " + name
		}
		got = append(got, line)
	}
	want := `definition.yaml  sha256:3333
lock.json  sha256:1111
roles/worker  sha256:4444
source git+https://example.com/images.git gitCommit:2222 dirty
 pkg:deb/debian/udev@257.13-1~deb13u1%2Bb2?arch=amd64 sha256:dddd
 pkg:deb/debian/squashfs-tools@1:4.6.1-1?arch=amd64 sha256:5555 tool
components/runc@1.4.3  slipwayInputs:eeee
 pkg:golang/golang.org/x/net@v0.2.0 dirHash:295a
 pkg:golang/stdlib@1.26.8`
	if words := strings.Join(got, "\n"); words != want {
		t.Errorf("dependencies:\n%s\nwant:\n%s", words, want)
	}
	run := s.Predicate.RunDetails
	if run.Builder.ID != "https://ci.example.com/slipway" || run.Metadata.InvocationID != "https://ci.example.com/run/57" || len(run.Byproducts) != 1 {
		t.Errorf("%+v", run)
	}
	if !bytes.Equal(encode(t, sample()), text) {
		t.Error("the same build, other bytes")
	}
}

func TestDecode(t *testing.T) {
	b := sample()
	text := encode(t, b)
	s, err := Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(b.Manifest, b.Manifest.Encode()); err != nil {
		t.Error(err)
	}
	if s.Dependencies != 9 || s.Dirty || s.Commit != b.Source.Commit || s.Lock != b.Lock {
		t.Errorf("%+v", s)
	}
	b.Origin = Origin{}
	if s, err = Decode(encode(t, b)); err != nil || s.Builder != LocalBuilder || s.Commit != "" {
		t.Errorf("%+v, %v", s, err)
	}
	for name, bad := range map[string]string{
		"empty": "", "other type": strings.Replace(string(text), "Statement/v1", "Statement/v2", 1), "other predicate": strings.Replace(string(text), "provenance/v1", "provenance/v2", 1),
		"other build": strings.Replace(string(text), "/bake/v1", "/bake/v9", 1), "cut": string(text[:len(text)/2]), "unknown field": strings.Replace(string(text), `"subject"`, `"subjects"`, 1),
		"no builder": strings.Replace(string(text), "https://ci.example.com/slipway", "", 1), "no digest": strings.Replace(string(text), strings.Repeat("c", 64), "c", 1),
		"no sha256": strings.Replace(string(text), `"sha256": "`+strings.Repeat("c", 64), `"sha512": "`+strings.Repeat("c", 128), 1), "too long": string(text) + strings.Repeat(" ", MaxSize),
	} {
		if _, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestOf(t *testing.T) {
	text, err := Of(encode(t, sample()), "worker", strings.Repeat("7", 64))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Decode(text)
	if err != nil || len(s.Subjects) != 1 || s.Subjects["worker"] != strings.Repeat("7", 64) || s.Lock != sample().Lock {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"", "7"} {
		if _, err := Of(encode(t, sample()), "worker", bad); err == nil {
			t.Errorf("digest %q was taken", bad)
		}
	}
	if _, err := Of([]byte("{}"), "worker", strings.Repeat("7", 64)); err == nil {
		t.Error("no provenance was taken")
	}
}

func TestCheck(t *testing.T) {
	b := sample()
	s, err := Decode(encode(t, b))
	if err != nil {
		t.Fatal(err)
	}
	text := b.Manifest.Encode()
	for name, c := range map[string]struct {
		change func(m *manifest.Manifest)
		words  string
	}{
		"another artifact": {func(m *manifest.Manifest) { m.Artifacts[0].SHA256 = strings.Repeat("9", 64) }, "which is 999999999999"},
		"one more": {func(m *manifest.Manifest) {
			m.Artifacts = append(m.Artifacts, manifest.Artifact{Name: "x", SHA256: strings.Repeat("9", 64)})
		}, "does not name x"},
		"one less":     {func(m *manifest.Manifest) { m.Artifacts = nil }, "no file of that"},
		"another role": {func(m *manifest.Manifest) { m.Role = "other" }, "does not name slipway-other-0.1.0+ci.57-amd64.json"},
	} {
		m := *b.Manifest
		m.Artifacts = append([]manifest.Artifact{}, m.Artifacts...)
		c.change(&m)
		if err := s.Check(&m, text); !errors.Is(err, ErrSubjects) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Check(b.Manifest, append(text, ' ')); !errors.Is(err, ErrSubjects) {
		t.Errorf("another manifest: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	b := sample()
	text, err := b.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"a","digest":{"sha256":"00"}}],"predicateType":"https://slsa.dev/provenance/v1","predicate":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Decode(data)
		if err != nil {
			return
		}
		for name, digest := range s.Subjects {
			if name == "" || len(digest) != 64 {
				t.Fatalf("subject %q with %q was taken", name, digest)
			}
		}
		if s.Builder == "" {
			t.Fatal("no builder was taken")
		}
	})
}
