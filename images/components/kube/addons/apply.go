package addons

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"k8s.io/klog/v2"
)

const (
	fieldManager = "slipway-addons"
	// again is how often everything is applied, so that what was deleted by hand comes back.
	again = 10 * time.Minute
	// tryDeadline bounds one pass over all manifests.
	tryDeadline = 2 * time.Minute
	// glance is how often the directories are looked at for changes.
	glance = 5 * time.Second
	// firstWait and longestWait bound the time between passes that fail; it doubles each time.
	firstWait, longestWait = time.Second, 15 * time.Second
)

type applier struct {
	discovery   discovery.DiscoveryInterface
	objects     dynamic.Interface
	directories []string
}

// applyForever applies all manifests, calls ready after the first pass without an error, and goes on until ctx ends:
// every ten minutes, and when a file changes.
func (a *applier) applyForever(ctx context.Context, ready func()) {
	failed := firstWait
	for ctx.Err() == nil {
		applied := fingerprint(a.directories)
		pass, cancel := context.WithTimeout(ctx, tryDeadline)
		err := a.applyAll(pass)
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				klog.ErrorS(err, "Cannot apply manifests yet; trying again", "in", failed)
			}
			sleep(ctx, failed)
			failed = min(2*failed, longestWait)
			continue
		}
		failed = firstWait
		if ready != nil {
			klog.Info("all manifests are applied")
			ready()
			ready = nil
		}
		for end := time.Now().Add(again); time.Now().Before(end) && ctx.Err() == nil; {
			sleep(ctx, glance)
			if fingerprint(a.directories) != applied {
				break
			}
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// fingerprint changes when a manifest is added, removed or written.
func fingerprint(directories []string) string {
	var b strings.Builder
	for _, directory := range directories {
		files, _ := filepath.Glob(filepath.Join(directory, "*.yaml")) // the pattern is right; read reports what is wrong
		for _, file := range files {
			if info, err := os.Stat(file); err == nil {
				fmt.Fprintln(&b, file, info.Size(), info.ModTime().UnixNano())
			}
		}
	}
	return b.String()
}

func (a *applier) applyAll(ctx context.Context) error {
	manifests, err := read(a.directories)
	if err != nil {
		return err
	}
	groups, err := restmapper.GetAPIGroupResources(a.discovery)
	if err != nil {
		return fmt.Errorf("cannot reach the API server: %w", err)
	}
	mapper := restmapper.NewDiscoveryRESTMapper(groups)
	var faults []error
	for _, m := range manifests {
		if err := a.apply(ctx, mapper, m); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

func (a *applier) apply(ctx context.Context, mapper meta.RESTMapper, m manifest) error {
	kind := m.object.GroupVersionKind()
	what := fmt.Sprintf("%s: %s %s", m.file, kind.Kind, m.object.GetName())
	mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return fmt.Errorf("cannot apply %s: %w", what, err)
	}
	var target dynamic.ResourceInterface = a.objects.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		namespace := m.object.GetNamespace()
		if namespace == "" {
			namespace = metav1.NamespaceDefault
		}
		target = a.objects.Resource(mapping.Resource).Namespace(namespace)
	}
	options := metav1.ApplyOptions{FieldManager: fieldManager, Force: true}
	if _, err := target.Apply(ctx, m.object.GetName(), m.object, options); err != nil {
		return fmt.Errorf("cannot apply %s: %w", what, err)
	}
	return nil
}

type manifest struct {
	file   string
	object *unstructured.Unstructured
}

// read reads every *.yaml of the directories, in order of directory and file name. A directory that is missing is empty.
func read(directories []string) ([]manifest, error) {
	var all []manifest
	for _, directory := range directories {
		files, err := filepath.Glob(filepath.Join(directory, "*.yaml"))
		if err != nil {
			return nil, fmt.Errorf("cannot list %s: %w", directory, err)
		}
		slices.Sort(files)
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, fmt.Errorf("cannot read manifests: %w", err)
			}
			manifests, err := decode(file, text)
			if err != nil {
				return nil, err
			}
			all = append(all, manifests...)
		}
	}
	return all, nil
}

// decode splits a file into its YAML documents; empty ones are skipped.
func decode(file string, text []byte) ([]manifest, error) {
	var all []manifest
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for n := 1; ; n++ {
		object := map[string]any{}
		err := decoder.Decode(&object)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read %s, document %d: %w", file, n, err)
		}
		if len(object) == 0 {
			continue
		}
		m := manifest{file: file, object: &unstructured.Unstructured{Object: object}}
		if m.object.GetKind() == "" || m.object.GetAPIVersion() == "" || m.object.GetName() == "" {
			return nil, fmt.Errorf("cannot read %s, document %d: apiVersion, kind and metadata.name must be set", file, n)
		}
		all = append(all, m)
	}
}
