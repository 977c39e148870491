package route

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"lambent"
)

func TestTable(t *testing.T) {
	table := New()
	f := &lambent.Function{Namespace: "a", Name: "f"}
	if old := table.Set(f); old != nil {
		t.Errorf("old %v", old)
	}
	g := &lambent.Function{Namespace: "a", Name: "f", Version: 2}
	if old := table.Set(g); old != f {
		t.Errorf("old %v", old)
	}
	if got, ok := table.Lookup("a", "f"); !ok || got != g {
		t.Errorf("lookup %v %v", got, ok)
	}
	if _, ok := table.Lookup("b", "f"); ok {
		t.Error("found in another namespace")
	}
	if old := table.Delete("a", "f"); old != g || table.Delete("a", "f") != nil {
		t.Errorf("deleted %v", old)
	}
}

func TestWait(t *testing.T) {
	table := New()
	table.Applied(3)
	if err := table.Wait(t.Context(), 3); err != nil {
		t.Error(err)
	}
	var wg sync.WaitGroup
	for v := uint64(4); v < 20; v++ {
		wg.Go(func() {
			if err := table.Wait(t.Context(), v); err != nil {
				t.Error(err)
			}
		})
	}
	for v := uint64(4); v < 20; v += 3 {
		table.Applied(v)
	}
	table.Applied(19)
	table.Applied(5) // late news of an earlier version changes nothing
	wg.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := table.Wait(ctx, 20); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
