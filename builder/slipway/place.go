package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/publish"
	"github.com/slipway-os/slipway/builder/pull"
	"github.com/slipway-os/slipway/builder/registry"
)

// place is where releases are published.
type place interface {
	pull.Source
	Index(context.Context) (*publish.Index, error)
}

// writable is a place that takes releases.
type writable interface {
	place
	Apply(context.Context, publish.Order) (publish.Result, error)
}

const placeHelp = `

A place is a folder, which any HTTP server may serve (http://, https:// reads it), or a repository of an OCI registry,
oci://REGISTRY/REPOSITORY. Registries are asked with the credentials of docker login (~/.docker/config.json, DOCKER_CONFIG).`

// placeFlags say how a place is reached.
type placeFlags struct{ plain bool }

func (f *placeFlags) register(c *cobra.Command) {
	c.Flags().BoolVar(&f.plain, "plain-http", false, "speak HTTP with the registry, not HTTPS (the default for localhost)")
	c.Long += placeHelp
}

// splitPlace takes what follows a place: @VERSION or #CHANNEL. A repository may have :TAG too.
func splitPlace(word string) (place string, want publish.Want, err error) {
	if at := strings.LastIndexAny(word, "#@"); at > 0 {
		if w, err := publish.ParseWant(word[at+1:]); err == nil && (w.Version != "") == (word[at] == '@') {
			return word[:at], w, nil
		}
		if word[at] == '#' {
			return "", publish.Want{}, fmt.Errorf("%q is no name of a channel", word[at+1:])
		}
	}
	if _, path, ok := strings.Cut(strings.TrimPrefix(word, registry.Scheme), "/"); ok && strings.HasPrefix(word, registry.Scheme) {
		if _, tag, ok := strings.Cut(path, ":"); ok {
			w, err := publish.ParseWant(registry.Untag(tag))
			return strings.TrimSuffix(word, ":"+tag), w, err
		}
	}
	return word, publish.Want{}, nil
}

// open opens a place to read. The guard says what is wanted of its index before it is believed.
func (f *placeFlags) open(c *cobra.Command, word string, guard *publish.Guard) (place, error) {
	switch scheme, _, found := strings.Cut(word, "://"); {
	case !found:
		folder, err := publish.OpenFolder(word)
		if err != nil {
			return nil, err
		}
		folder.Guard = guard
		return folder, nil
	case scheme == "http" || scheme == "https":
		site, err := publish.NewSite(word)
		if err != nil {
			return nil, err
		}
		site.Guard = guard
		return site, nil
	case scheme+"://" == registry.Scheme:
		return f.registry(c, word, guard)
	}
	return nil, usage(c, fmt.Errorf("%s is no place of releases: a folder, http://, https:// or oci://", word))
}

// registry opens a repository.
func (f *placeFlags) registry(c *cobra.Command, word string, guard *publish.Guard) (*registry.Repository, error) {
	r, err := registry.Open(word, registry.Options{PlainHTTP: f.plain})
	if err != nil {
		return nil, usage(c, err)
	}
	r.Guard = guard
	return r, nil
}

// openToWrite opens a place to change it. A folder is made where it isn't there.
func (f *placeFlags) openToWrite(a *app, c *cobra.Command, word string, create bool, wait time.Duration, guard *publish.Guard) (writable, error) {
	switch scheme, _, found := strings.Cut(word, "://"); {
	case !found:
		open := publish.OpenFolder
		if create {
			open = publish.CreateFolder
		}
		folder, err := open(word)
		if err != nil {
			return nil, err
		}
		folder.Patience, folder.Guard = wait, guard
		folder.Wait = func(who string) { newProgress(a).note("waiting for another publisher (%s)", who) }
		return folder, nil
	case scheme == "http" || scheme == "https":
		return nil, usage(c, errors.New("a web server's folder can only be read: publish into the folder that it serves"))
	case scheme+"://" == registry.Scheme:
		return f.registry(c, word, guard)
	}
	return nil, usage(c, fmt.Errorf("%s is no place for releases: a folder or oci://", word))
}
