package sbom

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// reading is as much of a document as tells what is in programs (SPDX 2.3, JSON schema). The library that writes documents is not
// for those of others: it panics on a null among the packages.
type reading struct {
	Version  string `json:"spdxVersion"`
	Packages []struct {
		ID      string `json:"SPDXID"`
		Name    string `json:"name"`
		Version string `json:"versionInfo"`
		Source  string `json:"sourceInfo"`
	} `json:"packages"`
	Relationships []struct {
		A   string `json:"spdxElementId"`
		How string `json:"relationshipType"`
		B   string `json:"relatedSpdxElement"`
	} `json:"relationships"`
}

// ReadModules reads a document that Encode wrote: the Go modules that were linked into each component's programs, by the
// component's name, sorted by path and version. A component without any, such as one that wasn't made by Go, has an empty
// list. Sums come back; which module is a program's main one is said where any of the component's programs says so.
func ReadModules(data []byte) (map[string][]Module, error) {
	modules, err := readModules(data)
	if err != nil {
		return nil, fmt.Errorf("cannot read bill of materials: %w", err)
	}
	return modules, nil
}

func readModules(data []byte) (map[string][]Module, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%d bytes are over the limit of %d", len(data), MaxSize)
	}
	doc := reading{}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	if doc.Version != v2_3.Version {
		return nil, fmt.Errorf("spdxVersion %q is not %q", doc.Version, v2_3.Version)
	}
	modules := map[string]Module{}    // by identifier
	found := map[string][]Module{}    // by component
	components := map[string]string{} // names by identifier
	for _, p := range doc.Packages {
		switch _, twice := found[p.Name]; {
		case p.ID == "":
			return nil, errors.New("a package has no identifier")
		case is("GoModule", p.ID):
			sum, _ := strings.CutPrefix(p.Source, sumPrefix)
			modules[p.ID] = Module{Path: p.Name, Version: p.Version, Sum: sum}
		case is("Component", p.ID) && twice:
			return nil, fmt.Errorf("component %q comes twice", p.Name)
		case is("Component", p.ID):
			found[p.Name], components[p.ID] = []Module{}, p.Name
		}
	}
	programs := map[string]string{} // identifiers, and the component's name
	for _, r := range doc.Relationships {
		if name, ok := components[r.A]; ok && r.How == contains && is("Program", r.B) {
			programs[r.B] = name
		}
	}
	for _, r := range doc.Relationships {
		m, ok := modules[r.B]
		name, of := programs[r.A]
		if ok && of && (r.How == dependsOn || r.How == generatedFrom) {
			m.Main = r.How == generatedFrom
			found[name] = append(found[name], m)
		}
	}
	for name, list := range found {
		found[name] = distinct(list)
	}
	return found, nil
}

// is tells whether an identifier is one of a kind (writer.id).
func is(kind, id string) bool { return strings.HasPrefix(id, "SPDXRef-"+kind+"-") }

// distinct is the list sorted, each module once: as main if one of them is.
func distinct(list []Module) []Module {
	slices.SortFunc(list, func(a, b Module) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.Version, b.Version), strings.Compare(a.Sum, b.Sum), compareMain(a, b))
	})
	return slices.CompactFunc(list, func(a, b Module) bool { return a.Path == b.Path && a.Version == b.Version && a.Sum == b.Sum })
}

func compareMain(a, b Module) int {
	switch {
	case a.Main == b.Main:
		return 0
	case a.Main:
		return -1
	}
	return 1
}
