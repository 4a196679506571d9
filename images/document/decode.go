package document

import (
	"encoding"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decoder walks a document and a Go value side by side.
type decoder struct {
	source *Source
	faults Faults
	values int
	full   bool // a bound was passed; nothing more is read
}

// maxCollected bounds the faults that are collected, so that a large file of nonsense is refused at once.
const maxCollected = 10 * MaxFaults

func (d *decoder) fault(n *yaml.Node, path, message, hint string) {
	if len(d.faults) >= maxCollected {
		d.full = true
		return
	}
	d.faults = append(d.faults, Fault{File: d.source.name, Line: n.Line, Col: n.Column, Path: path, Message: message, Hint: hint})
}

// bounded says whether n may be read: a document of a few lines can mean billions of values by aliases of aliases.
func (d *decoder) bounded(path string, n *yaml.Node, depth int) bool {
	if d.full {
		return false
	}
	d.values++
	if depth > MaxDepth {
		d.fault(n, path, fmt.Sprintf("values are nested over %d deep", MaxDepth), "an alias may not lie in its own anchor")
		d.full = true
	} else if d.values > MaxValues {
		d.fault(n, path, fmt.Sprintf("the document has over %d values", MaxValues), "use fewer aliases")
		d.full = true
	}
	return !d.full
}

func (d *decoder) value(path string, n *yaml.Node, out reflect.Value, depth int) {
	if !d.bounded(path, n, depth) {
		return
	}
	if n.Kind == yaml.AliasNode {
		d.value(path, n.Alias, out, depth+1)
		return
	}
	if !knownTag(n) {
		d.fault(n, path, fmt.Sprintf("tag %s is not supported", n.ShortTag()), "remove it")
		return
	}
	if n.ShortTag() == "!!null" {
		return
	}
	if out.Kind() == reflect.Pointer {
		out.Set(reflect.New(out.Type().Elem()))
		d.value(path, n, out.Elem(), depth)
		return
	}
	if u, ok := out.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(path, n, u)
		return
	}
	switch out.Kind() {
	case reflect.Struct:
		d.structure(path, n, out, depth)
	case reflect.Map:
		d.mapping(path, n, out, depth)
	case reflect.Slice:
		d.sequence(path, n, out, depth)
	case reflect.Interface:
		d.anything(path, n, out, depth)
	default:
		d.scalar(path, n, out)
	}
}

func knownTag(n *yaml.Node) bool {
	switch n.ShortTag() {
	case "!!str", "!!int", "!!float", "!!bool", "!!null", "!!map", "!!seq", "!!timestamp":
		return true
	}
	return false
}

// isKind reports a fault unless n is of the wanted kind.
func (d *decoder) isKind(path string, n *yaml.Node, kind yaml.Kind) bool {
	if n.Kind == kind {
		return true
	}
	hint := map[yaml.Kind]string{yaml.MappingNode: "write it as key: value lines", yaml.SequenceNode: "write it as a list: [a, b], or lines that begin with -"}
	d.fault(n, path, fmt.Sprintf("is %s, not %s", kindName(n), kindNames[kind]), hint[kind])
	return false
}

var kindNames = map[yaml.Kind]string{yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}

func kindName(n *yaml.Node) string {
	switch n.ShortTag() {
	case "!!str", "!!timestamp":
		return fmt.Sprintf("the text %q", shorten(n.Value))
	case "!!int", "!!float":
		return "the number " + shorten(n.Value)
	case "!!bool":
		return "the truth value " + n.Value
	}
	return kindNames[n.Kind]
}

func shorten(s string) string {
	if len(s) > 60 {
		return strings.ToValidUTF8(s[:57], "") + "..."
	}
	return s
}

// pairs calls visit for each key of a mapping that is a plain word and not a duplicate.
func (d *decoder) pairs(path string, n *yaml.Node, visit func(key, value *yaml.Node)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content) && !d.full; i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!null" {
			d.fault(key, path, "a key is not a plain word", "")
			continue
		}
		if key.ShortTag() == "!!merge" {
			d.fault(key, path, "merge keys (<<) are not supported", "write the fields out, or use an alias for a whole value")
			continue
		}
		if line, ok := seen[key.Value]; ok {
			d.fault(key, join(path, key.Value), fmt.Sprintf("is set twice, first in line %d", line), "remove one of them")
			continue
		}
		seen[key.Value] = key.Line
		visit(key, n.Content[i+1])
	}
}

func (d *decoder) structure(path string, n *yaml.Node, out reflect.Value, depth int) {
	if !d.isKind(path, n, yaml.MappingNode) {
		return
	}
	fields := map[string]reflect.Value{}
	names := structFields(out, fields, nil)
	d.pairs(path, n, func(key, value *yaml.Node) {
		field, ok := fields[key.Value]
		if !ok {
			d.fault(key, join(path, key.Value), "unknown field", suggest(key.Value, names))
			return
		}
		d.value(join(path, key.Value), value, field, depth+1)
	})
}

// structFields fills fields by name and returns the names in the order of the struct.
func structFields(out reflect.Value, fields map[string]reflect.Value, names []string) []string {
	for i := range out.NumField() {
		tag, ok := out.Type().Field(i).Tag.Lookup("yaml")
		name, options, _ := strings.Cut(tag, ",")
		switch {
		case strings.Contains(options, "inline"):
			names = structFields(out.Field(i), fields, names)
		case ok && name != "-" && name != "":
			fields[name] = out.Field(i)
			names = append(names, name)
		}
	}
	return names
}

func (d *decoder) mapping(path string, n *yaml.Node, out reflect.Value, depth int) {
	if !d.isKind(path, n, yaml.MappingNode) {
		return
	}
	out.Set(reflect.MakeMap(out.Type()))
	d.pairs(path, n, func(key, value *yaml.Node) {
		element := reflect.New(out.Type().Elem()).Elem()
		d.value(join(path, key.Value), value, element, depth+1)
		out.SetMapIndex(reflect.ValueOf(key.Value).Convert(out.Type().Key()), element)
	})
}

func (d *decoder) sequence(path string, n *yaml.Node, out reflect.Value, depth int) {
	if !d.isKind(path, n, yaml.SequenceNode) {
		return
	}
	out.Set(reflect.MakeSlice(out.Type(), len(n.Content), len(n.Content)))
	for i, c := range n.Content {
		d.value(fmt.Sprintf("%s[%d]", path, i), c, out.Index(i), depth+1)
	}
}

// anything reads into an interface: map[string]any, []any, string, int64, float64 or bool.
func (d *decoder) anything(path string, n *yaml.Node, out reflect.Value, depth int) {
	var kind reflect.Type
	switch n.ShortTag() {
	case "!!map":
		kind = reflect.TypeFor[map[string]any]()
	case "!!seq":
		kind = reflect.TypeFor[[]any]()
	case "!!int":
		kind = reflect.TypeFor[int64]()
	case "!!float":
		kind = reflect.TypeFor[float64]()
	case "!!bool":
		kind = reflect.TypeFor[bool]()
	default:
		kind = reflect.TypeFor[string]()
	}
	v := reflect.New(kind).Elem()
	switch v.Kind() {
	case reflect.Map:
		d.mapping(path, n, v, depth)
	case reflect.Slice:
		d.sequence(path, n, v, depth)
	default:
		d.scalar(path, n, v)
	}
	out.Set(v)
}

// text reads a scalar into a type that knows its own text form.
func (d *decoder) text(path string, n *yaml.Node, out encoding.TextUnmarshaler) {
	if !d.isKind(path, n, yaml.ScalarNode) {
		return
	}
	err := out.UnmarshalText([]byte(n.Value))
	if err == nil {
		return
	}
	switch out.(type) {
	case *netip.Addr:
		d.fault(n, path, fmt.Sprintf("%q is not an IP address", shorten(n.Value)), "write it like 10.1.0.11")
	case *netip.Prefix:
		d.fault(n, path, fmt.Sprintf("%q is not an IP prefix", shorten(n.Value)), "write it like 10.1.0.0/24")
	default:
		hint := ""
		if h, ok := err.(interface{ Hint() string }); ok {
			hint = h.Hint()
		}
		d.fault(n, path, err.Error(), hint)
	}
}

func (d *decoder) scalar(path string, n *yaml.Node, out reflect.Value) {
	if !d.isKind(path, n, yaml.ScalarNode) {
		return
	}
	wrong := func(want, hint string) { d.fault(n, path, "is "+kindName(n)+", not "+want, hint) }
	tag := n.ShortTag()
	if out.Type() == reflect.TypeFor[time.Duration]() {
		if v, err := time.ParseDuration(n.Value); err == nil {
			out.SetInt(int64(v))
		} else {
			wrong("a duration", "write it like 90s, 10m or 24h")
		}
		return
	}
	switch {
	case out.Kind() == reflect.String && (tag == "!!str" || tag == "!!timestamp"):
		out.SetString(n.Value)
	case out.Kind() == reflect.String:
		wrong("text", fmt.Sprintf("put it in quotes: %q", shorten(n.Value)))
	case out.Kind() == reflect.Bool:
		if tag != "!!bool" {
			wrong("a truth value", "true or false")
			return
		}
		out.SetBool(strings.EqualFold(n.Value, "true"))
	case out.CanInt() || out.CanUint():
		d.integer(n, out, wrong)
	case out.CanFloat():
		v, err := strconv.ParseFloat(n.Value, 64)
		if err != nil {
			wrong("a number", "")
			return
		}
		out.SetFloat(v)
	default:
		d.fault(n, path, fmt.Sprintf("cannot read into a %s", out.Type()), "this is a fault of the program")
	}
}

func (d *decoder) integer(n *yaml.Node, out reflect.Value, wrong func(want, hint string)) {
	if n.ShortTag() != "!!int" {
		wrong("a whole number", "")
		return
	}
	digits := strings.TrimLeft(n.Value, "+-")
	if len(digits) > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9' {
		wrong("a clear number", "a leading 0 means octal to some; write 0o"+strings.TrimLeft(digits, "0")+" or leave it out")
		return
	}
	if out.CanInt() {
		v, err := strconv.ParseInt(n.Value, 0, 64)
		if err != nil || out.OverflowInt(v) {
			wrong("in the range of this field", "")
			return
		}
		out.SetInt(v)
		return
	}
	v, err := strconv.ParseUint(n.Value, 0, 64)
	if err != nil || out.OverflowUint(v) {
		wrong("in the range of this field", "")
		return
	}
	out.SetUint(v)
}
