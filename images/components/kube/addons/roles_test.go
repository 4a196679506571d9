package addons

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestLabelAll(t *testing.T) {
	file := filepath.Join(t.TempDir(), "nodes.json")
	text := `[{"name": "cp-1", "role": "control-plane"}, {"name": "w-1", "role": "worker", "labels": {"rack": "r1"}}, {"name": "later", "role": "worker"}]`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	named := func(name string, labels map[string]string) *core.Node {
		return &core.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	}
	client := fake.NewSimpleClientset(
		named("cp-1", nil),
		named("w-1", map[string]string{"kubernetes.io/arch": "amd64"}),
		named("stranger", nil),
	)
	for range 2 { // the second pass has nothing to do
		client.ClearActions()
		if err := labelAll(t.Context(), client, file); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(client.Actions()); n != 1 {
		t.Errorf("a pass with nothing to do made %d requests, want one list", n)
	}
	nodes, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range nodes.Items {
		got = append(got, n.Name+": "+strings.Join(slices.Sorted(maps.Keys(n.Labels)), " "))
	}
	slices.Sort(got)
	want := []string{"cp-1: node-role.kubernetes.io/control-plane", "stranger: ", "w-1: kubernetes.io/arch node-role.kubernetes.io/worker"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLabelAllWithoutFile(t *testing.T) {
	if err := labelAll(t.Context(), fake.NewSimpleClientset(), filepath.Join(t.TempDir(), "none.json")); err != nil {
		t.Errorf("a missing file: %v", err)
	}
	broken := filepath.Join(t.TempDir(), "nodes.json")
	if err := os.WriteFile(broken, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := labelAll(t.Context(), fake.NewSimpleClientset(), broken); err == nil || !strings.Contains(err.Error(), "cannot read nodes: "+broken) {
		t.Errorf("a broken file: %v", err)
	}
}
