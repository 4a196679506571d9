package sbom

import (
	"reflect"
	"strings"
	"testing"
)

func TestReadModules(t *testing.T) {
	got, err := ReadModules(encoded(t, image(t)))
	if err != nil {
		t.Fatal(err)
	}
	const sum = "h1:KVoXO9bZhzVTWPkzHUvMcIUfcyFrmx0V+lB9SJcsjIQ="
	want := map[string][]Module{
		"agent": {
			{Path: "github.com/opencontainers/runc", Version: "v1.4.3", Sum: sum, Main: true},
			{Path: "golang.org/x/net", Version: "v0.2.0", Sum: sum},
			{Path: "slipway.local/runc", Version: "v1"},
			{Path: "stdlib", Version: "1.26.8"},
		},
		"pause": {},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant\n%+v", got, want)
	}
}

func TestReadModulesRefusesOthers(t *testing.T) {
	good := string(encoded(t, image(t)))
	for name, bad := range map[string]string{
		"nothing": "", "no document": "[]", "another version": strings.Replace(good, "SPDX-2.3", "SPDX-9.9", 1), "cut off": good[:len(good)/2],
		"a component twice": strings.Replace(strings.Replace(good, `"SPDXRef-Package-libc6"`, `"SPDXRef-Component-x"`, 1), `"name": "libc6"`, `"name": "agent"`, 1),
		"too long":          good + strings.Repeat(" ", MaxSize),
	} {
		if _, err := ReadModules([]byte(bad)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func FuzzReadModules(f *testing.F) {
	text, err := Image{Name: "i", Components: []Component{{Name: "c", Version: "1", Programs: []Program{{Path: "/c"}}}}}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"spdxVersion": "SPDX-2.3", "packages": [null, {}], "relationships": [null]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		modules, err := ReadModules(data)
		if (err == nil) != (modules != nil) {
			t.Fatal("neither modules nor an error, or both")
		}
	})
}
