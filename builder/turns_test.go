package builder

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"lambent"
)

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(2)
		var order []string
		var all sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		wait := func(ctx context.Context, namespace string) {
			all.Go(func() {
				if err := q.take(ctx, namespace, func() {}); err == nil {
					order = append(order, namespace) // one at a time: each turn is given by the test
				}
			})
			synctest.Wait()
		}
		for _, namespace := range strings.Fields("a a a a a b a c a b") {
			wait(t.Context(), namespace)
		}
		wait(ctx, "d")
		cancel() // leaves
		synctest.Wait()
		// Each is the end of a turn.
		for _, namespace := range strings.Fields("a a b a c b a a a a") {
			q.giveBack(namespace)
			synctest.Wait()
		}
		all.Wait()
		if got, want := strings.Join(order, " "), "a a b a c b a a a a"; got != want {
			t.Errorf("the order is %s, want %s", got, want)
		}
		if q.free != 2 || len(q.running)+len(q.waiting) > 0 {
			t.Errorf("left over: %+v", q)
		}
	})
}

func TestTurnsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(1)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for i := range maxWaiting + 2 {
			all.Go(func() {
				err := q.take(ctx, "a", func() {})
				switch {
				case i == 0 && err == nil, i > maxWaiting && lambent.HasCode(err, lambent.CodeQueueFull):
				case !errors.Is(err, context.Canceled):
					t.Errorf("%d got %v", i, err)
				}
			})
			synctest.Wait()
		}
		all.Go(func() {
			if err := q.take(t.Context(), "b", func() {}); err != nil {
				t.Errorf("another namespace got %v", err)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		q.giveBack("a")
		all.Wait()
		q.giveBack("b")
	})
}
