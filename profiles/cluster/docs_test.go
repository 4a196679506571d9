package cluster_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/profiles/cluster"
)

// TestDocs keeps docs/cluster-document.md true: its document is valid, and every field is told.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/cluster-document.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\n")
	doc, _, ok := strings.Cut(rest, "```\n")
	if !ok {
		t.Fatal("the page has no document")
	}
	dir := t.TempDir()
	for name, content := range map[string]string{"cluster.yaml": doc, "store.ini": "", "store.crt": ""} { // files that it names
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := cluster.ParseFile(filepath.Join(dir, "cluster.yaml")); err != nil {
		t.Error(err)
	}
	for _, field := range fields(reflect.TypeFor[cluster.Cluster](), map[reflect.Type]bool{}) {
		if !strings.Contains(string(page), field+":") && !strings.Contains(string(page), "`"+field+"`") {
			t.Errorf("the page says nothing of %s", field)
		}
	}
}

// fields are the names of all fields of a document.
func fields(typ reflect.Type, seen map[reflect.Type]bool) []string {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || seen[typ] {
		return nil
	}
	seen[typ] = true
	var names []string
	for i := range typ.NumField() {
		if tag := typ.Field(i).Tag.Get("yaml"); tag != "" {
			names = append(names, tag)
			names = append(names, fields(typ.Field(i).Type, seen)...)
		}
	}
	return names
}
