package gateway

import (
	"cmp"
	"slices"
	"sync"

	"lambent"
)

// Open is how many exchanges of a function are under way that have no end of their own.
type Open struct {
	Namespace, Function      string
	WebSockets, EventStreams int
}

// Tally counts them; requests that end by themselves do not pass it. Its zero value has counted nothing.
type Tally struct {
	mu   sync.Mutex
	open map[string]*Open // by namespace/function; guarded by mu
}

// add counts one of inv's function, until it is told that this has ended.
func (t *Tally) add(inv *lambent.Invocation, count func(*Open) *int) (ended func()) {
	rev := inv.Revision
	key := rev.Namespace + "/" + rev.Function
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.open[key]
	if o == nil {
		if t.open == nil {
			t.open = map[string]*Open{}
		}
		o = &Open{Namespace: rev.Namespace, Function: rev.Function}
		t.open[key] = o
	}
	*count(o)++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if *count(o)--; o.WebSockets+o.EventStreams == 0 {
			delete(t.open, key)
		}
	}
}

// Open gives the functions that have any, by name.
func (t *Tally) Open() []Open {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]Open, 0, len(t.open))
	for _, o := range t.open {
		all = append(all, *o)
	}
	slices.SortFunc(all, func(a, b Open) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Function, b.Function))
	})
	return all
}
