package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/slipway-os/slipway/profiles/role"
)

// MaxSize bounds a plan document in bytes.
const MaxSize = 16 << 20

// Decode reads a plan that JSON has written, strictly: unknown fields, anything after it, packages whose digests are none
// are errors.
func Decode(data []byte) (*Plan, error) {
	p, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("cannot read plan: %w", err)
	}
	return p, nil
}

func decode(data []byte) (*Plan, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%d bytes are over the limit of %d", len(data), MaxSize)
	}
	p := &Plan{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something comes after it")
	}
	if p.APIVersion != APIVersion || p.Kind != "Plan" {
		return nil, fmt.Errorf("apiVersion %q and kind %q are not %q and %q", p.APIVersion, p.Kind, APIVersion, "Plan")
	}
	if err := checkPackages(p.Arch, slices.Concat(p.Packages, []Package{p.Kernel}, p.Libraries)); err != nil {
		return nil, err
	}
	for arch, tools := range p.Tools {
		if err := checkPackages(arch, tools); err != nil {
			return nil, err
		}
	}
	for _, i := range p.ContainerImages {
		if i.Digest != "" && !imageDigest.MatchString(i.Digest) {
			return nil, fmt.Errorf("container image %q: bad digest %q", i.Name, i.Digest)
		}
	}
	return p, nil
}

func checkPackages(arch string, list []Package) error {
	for _, p := range list {
		if err := p.check(arch); err != nil {
			return fmt.Errorf("package %q: %w", p.Name, err)
		}
	}
	return nil
}

// Restore gives a plan that was read what its JSON doesn't have: the content of the definition's files, and where container
// images that come as they are come from. What the definition doesn't have any more is an error.
func (d *Definition) Restore(p *Plan) error {
	for i := range p.Files {
		f := &p.Files[i]
		j := slices.IndexFunc(d.files, func(o File) bool { return o.Path == f.Path && o.SHA256 == f.SHA256 })
		if j >= 0 {
			f.Content = d.files[j].Content
		} else if f.SHA256 != "" {
			return fmt.Errorf("the definition has no file %s with SHA-256 %s", f.Path, f.SHA256)
		}
	}
	for i := range p.ContainerImages {
		image := &p.ContainerImages[i]
		if !image.external() {
			continue
		}
		j := slices.IndexFunc(d.ContainerImages, func(o ContainerImage) bool { return o.Name == image.Name && o.external() })
		if j < 0 {
			return fmt.Errorf("the definition has no container image %s that comes as it is", image.Name)
		}
		image.Archive, image.Source = d.ContainerImages[j].Archive, d.ContainerImages[j].Source
	}
	return nil
}

// RoleDigest is a plan's RoleDigest for a role.
func RoleDigest(r *role.Role) string { return roleDigest(r) }

// Differences says field by field, by the names they have in JSON, where two plans differ; an empty list: they are the same.
func Differences(was, now *Plan) []string {
	list := []string{}
	a, b := reflect.ValueOf(*was), reflect.ValueOf(*now)
	for i := range a.NumField() {
		name, _, _ := strings.Cut(a.Type().Field(i).Tag.Get("json"), ",")
		list = append(list, fieldDifferences(name, a.Field(i).Interface(), b.Field(i).Interface())...)
	}
	return list
}

func fieldDifferences(name string, was, now any) []string {
	if equal(was, now) {
		return nil
	}
	switch x := was.(type) {
	case []Package:
		return packageDifferences(name, x, now.([]Package))
	case map[string][]Package:
		y := now.(map[string][]Package)
		var list []string
		for _, arch := range slices.Sorted(maps.Keys(both(x, y))) {
			list = append(list, packageDifferences(name+"."+arch, x[arch], y[arch])...)
		}
		return list
	case Package:
		return packageDifferences(name, []Package{x}, []Package{now.(Package)})
	case []string:
		if list := listChanges(name, x, now.([]string)); list != nil {
			return list
		}
		return []string{name + ": another order"}
	case string, int64:
		return []string{fmt.Sprintf("%s: %v -> %v", name, was, now)}
	}
	return []string{fmt.Sprintf("%s: %s -> %s", name, compact(was), compact(now))}
}

func both[V any](a, b map[string]V) map[string]V {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]V{}
	}
	maps.Copy(all, b)
	return all
}

// equal compares what would be written: nil and empty are the same.
func equal(a, b any) bool { return compact(a) == compact(b) }

func compact(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic("plan: " + err.Error()) // plain values always encode
	}
	if string(text) == "null" {
		return "[]"
	}
	return string(text)
}

func packageDifferences(field string, was, now []Package) []string {
	list := []string{}
	before := map[string]Package{}
	for _, p := range was {
		before[p.Name] = p
	}
	for _, p := range now {
		q, ok := before[p.Name]
		delete(before, p.Name)
		switch {
		case !ok:
			list = append(list, fmt.Sprintf("%s: +%s %s", field, p.Name, p.Version))
		case q.Version != p.Version:
			list = append(list, fmt.Sprintf("%s: %s %s -> %s", field, p.Name, q.Version, p.Version))
		case q != p:
			list = append(list, fmt.Sprintf("%s: %s %s is another file (SHA-256 %.12s -> %.12s)", field, p.Name, p.Version, q.SHA256, p.SHA256))
		}
	}
	for _, p := range was {
		if _, gone := before[p.Name]; gone {
			list = append(list, fmt.Sprintf("%s: -%s %s", field, p.Name, p.Version))
		}
	}
	if len(list) == 0 {
		list = append(list, field+": another order")
	}
	return list
}
