package sbom

import (
	"cmp"
	"strings"

	"github.com/package-url/packageurl-go"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/slipway-os/slipway/builder/deb"
)

func (w *writer) addPackages(whole common.ElementID) {
	for _, p := range w.image.Packages {
		id := w.add(w.packageID(p.Name), w.describe(p), w.purl(p.Name, p.Version, p.Arch))
		w.relate(whole, contains, id)
		w.relate(id, generatedFrom, w.addSource(p))
	}
	w.addDependencies()
}

func (w *writer) packageID(name string) common.ElementID { return w.id("Package", name) }

func (w *writer) describe(p Package) v2_3.Package {
	about := v2_3.Package{
		PackageName: p.Name, PackageVersion: p.Version, PackageSupplier: w.supplier(), PackageOriginator: originator(p.Maintainer),
		PackageChecksums: sha(p.SHA256), PackageHomePage: homepage(p.Homepage), PackageSourceInfo: p.Path,
	}
	declared, others := declaredLicense(p.Copyright)
	about.PackageLicenseDeclared = declared
	for _, l := range others {
		w.licenses[l.LicenseIdentifier] = l
	}
	if declared == "" {
		about.PackageLicenseComments = "Its copyright file, if it has one, is not machine-readable (DEP-5)."
	}
	return about
}

func (w *writer) supplier() *common.Supplier {
	return &common.Supplier{SupplierType: "Organization", Supplier: cmp.Or(w.image.Distribution.Name, w.image.Distribution.ID, "unknown")}
}

// teams are words in the names of maintainers that are no single person.
var teams = []string{"team", "maintainers", "developers", "group", "package", "debian "}

func originator(maintainer string) *common.Originator {
	name, address, ok := strings.Cut(maintainer, "<")
	name, address = strings.TrimSpace(name), strings.TrimSuffix(strings.TrimSpace(address), ">")
	if name == "" {
		return nil
	}
	kind := "Person"
	for _, t := range teams {
		if strings.Contains(strings.ToLower(name), t) {
			kind = "Organization"
		}
	}
	if ok && address != "" {
		name += " (" + address + ")"
	}
	return &common.Originator{OriginatorType: kind, Originator: name}
}

// homepage is an address as SPDX wants one, or nothing.
func homepage(s string) string {
	if !strings.HasPrefix(s, "https://") && !strings.HasPrefix(s, "http://") || strings.ContainsAny(s, " \t\n") {
		return ""
	}
	return s
}

func (w *writer) purl(name, version, arch string) string {
	d := w.image.Distribution
	q := map[string]string{"arch": arch}
	if d.Version != "" {
		q["distro"] = d.ID + "-" + d.Version
	}
	return packageurl.NewPackageURL(packageurl.TypeDebian, d.ID, name, version, packageurl.QualifiersFromMap(q), "").ToString()
}

// addSource adds the source package that a package was built from. Its version is the package's unless the Source field
// says another one: systemd (257.13-1) (Debian policy, chapter 5.6.1).
func (w *writer) addSource(p Package) common.ElementID {
	name, version, _ := strings.Cut(p.Source, " ")
	name = cmp.Or(name, p.Name)
	version = cmp.Or(strings.Trim(version, "() "), p.Version)
	return w.add(w.id("Source", name+"@"+version), v2_3.Package{
		PackageName: name, PackageVersion: version, PackageSupplier: w.supplier(), PrimaryPackagePurpose: "SOURCE",
	}, w.purl(name, version, "source"))
}

// addDependencies relates packages to those that satisfy what they depend on. A clause that nothing in the image
// satisfies was left out on purpose (the definition's omit) and has no relationship.
func (w *writer) addDependencies() {
	by := map[string][]string{} // packages that are there under a name
	for _, p := range w.image.Packages {
		by[p.Name] = append(by[p.Name], p.Name)
		for _, c := range relations(p.Provides) {
			by[c[0].Name] = append(by[c[0].Name], p.Name)
		}
	}
	for _, p := range w.image.Packages {
		for _, c := range append(relations(p.PreDepends), relations(p.Depends)...) {
			if found := satisfied(c, by); found != "" && found != p.Name {
				w.relate(w.packageID(p.Name), dependsOn, w.packageID(found))
			}
		}
	}
}

// satisfied is the package that satisfies a clause: of its first alternative that is there, the one of that name, else the
// first that provides it.
func satisfied(c deb.Clause, by map[string][]string) string {
	for _, r := range c {
		if found := by[r.Name]; len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

// relations reads a field; the resolver has complained about a bad one already.
func relations(field string) []deb.Clause {
	clauses, err := deb.ParseRelations(field)
	if err != nil {
		return nil
	}
	return clauses
}
