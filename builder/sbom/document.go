package sbom

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/package-url/packageurl-go"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

const unknown = "NOASSERTION" // SPDX 2.3, chapter 7: no attempt was made to say it

// Relationships, SPDX 2.3, chapter 11.1.
const (
	describes     = common.TypeRelationshipDescribe
	contains      = common.TypeRelationshipContains
	dependsOn     = common.TypeRelationshipDependsOn
	generatedFrom = common.TypeRelationshipGeneratedFrom
)

// writer makes a document of an image's parts.
type writer struct {
	image    Image
	packages map[common.ElementID]*v2_3.Package
	names    map[common.ElementID]string // what has an identifier
	related  map[v2_3.Relationship]bool
	licenses map[string]*v2_3.OtherLicense
}

func (i Image) document() *v2_3.Document {
	w := &writer{
		image: i, packages: map[common.ElementID]*v2_3.Package{}, names: map[common.ElementID]string{},
		related: map[v2_3.Relationship]bool{}, licenses: map[string]*v2_3.OtherLicense{},
	}
	whole := w.addImage()
	w.addPackages(whole)
	w.addComponents(whole)
	w.addContainerImages(whole)
	return &v2_3.Document{
		SPDXVersion: v2_3.Version, DataLicense: v2_3.DataLicense, SPDXIdentifier: "DOCUMENT", DocumentName: i.Name,
		CreationInfo: &v2_3.CreationInfo{
			Creators:       []common.Creator{{CreatorType: "Tool", Creator: "slipway"}},
			Created:        time.Unix(i.Created, 0).UTC().Format(time.RFC3339),
			CreatorComment: "The time is that of the image's files: equal images have equal documents.",
		},
		Packages:      sorted(w.packages, func(p *v2_3.Package) string { return string(p.PackageSPDXIdentifier) }),
		OtherLicenses: sorted(w.licenses, func(l *v2_3.OtherLicense) string { return l.LicenseIdentifier }),
		Relationships: w.relationships(),
	}
}

func sorted[K comparable, V any](m map[K]V, by func(V) string) []V {
	list := make([]V, 0, len(m))
	for _, v := range m {
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b V) int { return strings.Compare(by(a), by(b)) })
	return list
}

func (w *writer) relationships() []*v2_3.Relationship {
	var list []*v2_3.Relationship
	for r := range w.related {
		list = append(list, &r)
	}
	slices.SortFunc(list, func(a, b *v2_3.Relationship) int {
		return cmp.Or(strings.Compare(string(a.RefA.ElementRefID), string(b.RefA.ElementRefID)),
			strings.Compare(a.Relationship, b.Relationship),
			strings.Compare(string(a.RefB.ElementRefID), string(b.RefB.ElementRefID)))
	})
	return list
}

func (w *writer) relate(a common.ElementID, how string, b common.ElementID) {
	w.related[v2_3.Relationship{RefA: common.DocElementID{ElementRefID: a}, Relationship: how, RefB: common.DocElementID{ElementRefID: b}}] = true
}

// id is an identifier for something of a kind, letters, digits, dots and dashes (SPDX 2.3, chapter 7.2). What would have
// the identifier of something else gets a digest behind it.
func (w *writer) id(kind, name string) common.ElementID {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' {
			return r
		}
		return '-'
	}, name)
	id := common.ElementID(kind + "-" + clean)
	if have, taken := w.names[id]; taken && have != name {
		id += common.ElementID(fmt.Sprintf("-%x", sha256.Sum256([]byte(name)))[:9])
	}
	w.names[id] = name
	return id
}

// add adds a package in SPDX's meaning: what has a name and a version. The first of an identifier stays.
func (w *writer) add(id common.ElementID, p v2_3.Package, purl string) common.ElementID {
	if w.packages[id] != nil {
		return id
	}
	p.PackageSPDXIdentifier = id
	p.PackageDownloadLocation = unknown // a lock names no hosts
	p.PackageCopyrightText = unknown
	p.PackageLicenseConcluded = unknown
	p.PackageLicenseDeclared = cmp.Or(p.PackageLicenseDeclared, unknown)
	if p.PackageSupplier == nil {
		p.PackageSupplier = &common.Supplier{Supplier: unknown}
	}
	if purl != "" {
		p.PackageExternalReferences = []*v2_3.PackageExternalReference{{
			Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl,
		}}
	}
	w.packages[id] = &p
	return id
}

func sha(digest string) []common.Checksum {
	return []common.Checksum{{Algorithm: common.SHA256, Value: digest}}
}

func (w *writer) addImage() common.ElementID {
	id := w.add(w.id("Image", w.image.Name), v2_3.Package{
		PackageName: w.image.Name, PackageVersion: w.image.Version, PackageFileName: w.image.Name + ".root",
		PackageChecksums: sha(w.image.Root), PrimaryPackagePurpose: "OPERATING_SYSTEM", // the JSON schema's spelling
	}, "")
	w.relate("DOCUMENT", describes, id)
	return id
}

func (w *writer) addComponents(whole common.ElementID) {
	for _, c := range w.image.Components {
		id := w.add(w.componentID(c.Name), v2_3.Package{
			PackageName: c.Name, PackageVersion: c.Version, PrimaryPackagePurpose: "APPLICATION",
			PackageSourceInfo: "built for the image; SHA-256 of everything that went in: " + c.Key,
		}, "")
		if c.InImage {
			w.relate(whole, contains, id)
		}
		for _, p := range c.Programs {
			w.relate(id, contains, w.addProgram(c, p))
		}
	}
}

func (w *writer) componentID(name string) common.ElementID { return w.id("Component", name) }

func (w *writer) addProgram(c Component, p Program) common.ElementID {
	about := v2_3.Package{
		PackageName: path.Base(p.Path), PackageVersion: c.Version, PackageFileName: p.Path,
		PackageChecksums: sha(p.SHA256), PrimaryPackagePurpose: "APPLICATION",
	}
	if p.Build == nil {
		about.PackageComment = "It has no build information of Go: what was linked into it is not known."
	}
	id := w.add(w.id("Program", c.Name+p.Path), about, "")
	if p.Build != nil {
		w.addModules(id, c, p)
	}
	return id
}

func (w *writer) addContainerImages(whole common.ElementID) {
	for _, i := range w.image.ContainerImages {
		colon := strings.LastIndexByte(i.Reference, ':') // the reference has a tag; a colon before it is a port's
		name, tag := i.Reference[:colon], i.Reference[colon+1:]
		purl := packageurl.NewPackageURL(packageurl.TypeOCI, "", path.Base(name), i.Digest,
			packageurl.QualifiersFromMap(map[string]string{"repository_url": name, "tag": tag}), "")
		id := w.add(w.id("ContainerImage", i.Name), v2_3.Package{
			PackageName: name, PackageVersion: tag, PrimaryPackagePurpose: "CONTAINER",
			PackageChecksums: sha(strings.TrimPrefix(i.Digest, "sha256:")),
		}, purl.ToString())
		w.relate(whole, contains, id)
		if i.Component != "" {
			w.relate(id, contains, w.componentID(i.Component))
		}
	}
}
