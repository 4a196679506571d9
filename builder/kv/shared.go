package kv

import (
	"context"
	"errors"
)

// ErrAway: the store could not be reached, or didn't answer in time. Whether a commit that ends so was kept is not known: its entry
// may be as it was, or as the commit wanted it.
var ErrAway = errors.New("the store is away")

// Shared is a Store that other programs use at the same time. Each of its methods ends within a bounded time when the store is away,
// with ErrAway.
type Shared interface {
	Store
	// Watch tells of the entries under a prefix until ctx ends: first as they are (whole: what isn't among them isn't there), then of each
	// change in order, whoever made it; Value nil: the entry was deleted. After an interruption it begins again with the whole. changed is
	// called by one goroutine.
	Watch(ctx context.Context, prefix string, changed func(whole bool, entries []Entry))
	// Away says why the store can't be reached now; nil: it can.
	Away() error
}
