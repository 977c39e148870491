package engine

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestNeighbours: loops do not keep others from their turn, nor the process from collecting its garbage while they run.
// How long that takes `make bench-wasm` measures, on a machine that is not busy with other things.
func TestNeighbours(t *testing.T) {
	e := open(t, Options{})
	p := load(t, e, cGuest(t), 16<<20)
	for _, target := range []string{"/loop", "/fill"} {
		ctx, cancel := context.WithCancel(t.Context())
		var attackers sync.WaitGroup
		for range 8 {
			attackers.Go(func() {
				if _, _, err := callWith(ctx, p, to(target), Limits{}); reason(err) != Cancelled {
					t.Errorf("%s: %v", target, err)
				}
			})
		}
		var calls, collections []time.Duration
		for range 20 {
			begun := time.Now()
			if got, _, err := call(t, p, to("/count"), Limits{}); got != "42" {
				t.Errorf("%q, %v", got, err)
			}
			calls = append(calls, time.Since(begun))
			begun = time.Now()
			runtime.GC()
			collections = append(collections, time.Since(begun))
		}
		begun := time.Now()
		cancel()
		attackers.Wait()
		t.Logf("%s: slowest call %v, collection %v; all loops ended after %v", target, slices.Max(calls), slices.Max(collections), time.Since(begun))
	}
}
