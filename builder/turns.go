package builder

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"lambent"
)

// maxWaiting bounds the builds of a namespace that wait.
const maxWaiting = 16

// turns hands out the right to run. Whoever waits gets it before a namespace that runs more, and among equals
// the namespaces take turns.
type turns struct {
	mu      sync.Mutex
	free    int
	running map[string]int
	waiting []waiter // what begins when its namespace had its last turn the longest ago comes first
}

type waiter struct {
	namespace string
	turn      chan struct{} // closed when it has come
}

func newTurns(n int) *turns { return &turns{free: n, running: map[string]int{}} }

// take returns when it is namespace's turn, which ends with giveBack. It calls waits if that takes time. Errors are
// queue_full and ctx's.
func (t *turns) take(ctx context.Context, namespace string, waits func()) error {
	w := waiter{namespace, make(chan struct{})}
	if err := t.enter(w); err != nil {
		return err
	}
	select {
	case <-w.turn:
		return nil
	default:
		waits()
	}
	select {
	case <-w.turn:
		return nil
	case <-ctx.Done():
	}
	if !t.leave(w) {
		t.giveBack(namespace)
	}
	return ctx.Err()
}

func (t *turns) enter(w waiter) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	count := 0
	for _, other := range t.waiting {
		if other.namespace == w.namespace {
			count++
		}
	}
	if count == maxWaiting {
		return lambent.Errorf(lambent.CodeQueueFull, "%d builds of namespace %s already wait for their turn", count, w.namespace).
			WithHint("try again when some have ended")
	}
	t.waiting = append(t.waiting, w)
	t.next()
	return nil
}

// leave tells whether w was still waiting.
func (t *turns) leave(w waiter) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.waiting, w)
	if i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
	}
	return i >= 0
}

func (t *turns) giveBack(namespace string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running[namespace]--; t.running[namespace] == 0 {
		delete(t.running, namespace)
	}
	t.free++
	t.next()
}

// next gives what is free to those whose turn it is; t.mu is held.
func (t *turns) next() {
	for t.free > 0 && len(t.waiting) > 0 {
		w := slices.MinFunc(t.waiting, func(a, b waiter) int { return cmp.Compare(t.running[a.namespace], t.running[b.namespace]) })
		close(w.turn)
		t.free--
		t.running[w.namespace]++
		var same []waiter
		t.waiting = slices.DeleteFunc(t.waiting, func(other waiter) bool {
			if other.namespace == w.namespace && other != w {
				same = append(same, other)
			}
			return other.namespace == w.namespace
		})
		t.waiting = append(t.waiting, same...)
	}
}
