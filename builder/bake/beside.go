package bake

import (
	"runtime"
	"sync"
)

// workers are what runs beside the recipe.
type workers struct {
	running     sync.WaitGroup
	compressors chan struct{} // one for each that is at work
}

// mostCompressors bounds the memory of those that compress in Go at the best level: 50 MB each.
const mostCompressors = 4

func newWorkers() *workers {
	return &workers{compressors: make(chan struct{}, min(mostCompressors, runtime.GOMAXPROCS(0)))}
}

// beside runs work beside the recipe. Who needs what it leaves calls the function, which waits for it and gives its error.
func (w *workers) beside(work func() error) (wait func() error) {
	done := make(chan error, 1)
	w.running.Go(func() { done <- work() })
	return sync.OnceValue(func() error { return <-done })
}

// compressing waits until one more may compress; the function says that it is done.
func (w *workers) compressing() (done func()) {
	w.compressors <- struct{}{}
	return func() { <-w.compressors }
}
