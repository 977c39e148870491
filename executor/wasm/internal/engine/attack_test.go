package engine

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// attack starts n calls of target that end at the deadline, and gives what waits for their ends: how long after it each was.
func attack(t *testing.T, p *Program, n int, target string, deadline time.Time) (ends func() []time.Duration) {
	var wg sync.WaitGroup
	late := make([]time.Duration, n)
	for i := range n {
		wg.Go(func() {
			_, _, err := callWith(context.Background(), p, to(target), Limits{Deadline: deadline})
			late[i] = time.Since(deadline)
			var failed *Error
			if !errors.As(err, &failed) || failed.Reason != Deadline {
				t.Errorf("%s: %v", target, err)
			}
		})
	}
	return func() []time.Duration { wg.Wait(); return late }
}

// TestNeighbours: loops do not keep others from their turn, nor the process from collecting its garbage while they run, and
// they end in time. The bounds are for a machine that is busy with other things; what is promised of one that is not,
// `make bench-wasm` measures.
func TestNeighbours(t *testing.T) {
	e := open(t, Options{})
	p := load(t, e, cGuest(t), 16<<20)
	for _, target := range []string{"/loop", "/fill"} {
		deadline := time.Now().Add(2 * time.Second)
		ends := attack(t, p, 8, target, deadline)
		var calls, collections []time.Duration
		for time.Until(deadline) > 50*time.Millisecond {
			begun := time.Now()
			if got, _, err := call(t, p, to("/count"), Limits{}); got != "42" {
				t.Fatalf("%q, %v", got, err)
			}
			calls = append(calls, time.Since(begun))
			begun = time.Now()
			runtime.GC()
			collections = append(collections, time.Since(begun))
		}
		late := ends()
		slices.Sort(calls)
		p99 := calls[len(calls)*99/100]
		t.Logf("%s: %d calls, p50 %v, p99 %v; slowest collection %v; slowest end %v",
			target, len(calls), calls[len(calls)/2], p99, slices.Max(collections), slices.Max(late))
		if len(calls) < 2 || p99 > 500*time.Millisecond || slices.Max(late) > time.Second {
			t.Errorf("%s: too slow", target)
		}
	}
}
