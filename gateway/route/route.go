// Package route holds the gateway's table of functions: what each request is matched against.
//
// Reads take no lock that another function's traffic or deploys hold. A writer (the watcher of the store)
// applies changes in the order of their versions; [Table.Wait] tells others when it has come so far.
package route

import (
	"context"
	"iter"
	"sync"

	"lambent"
)

// Table maps names to functions. Its zero value is not ready; use New.
type Table struct {
	functions sync.Map // "namespace/name" -> *lambent.Function

	mu      sync.Mutex // guards what follows
	applied uint64
	changed chan struct{} // closed when applied grows
}

// New gives an empty table.
func New() *Table { return &Table{changed: make(chan struct{})} }

// Lookup gives the function of that name. It must not be changed.
func (t *Table) Lookup(namespace, name string) (*lambent.Function, bool) {
	f, ok := t.functions.Load(namespace + "/" + name)
	if !ok {
		return nil, false
	}
	return f.(*lambent.Function), true
}

// Set puts f into the table and gives what was there, or nil.
func (t *Table) Set(f *lambent.Function) *lambent.Function {
	old, had := t.functions.Swap(f.Namespace+"/"+f.Name, f)
	if !had {
		return nil
	}
	return old.(*lambent.Function)
}

// Delete takes a function out and gives it, or nil.
func (t *Table) Delete(namespace, name string) *lambent.Function {
	old, had := t.functions.LoadAndDelete(namespace + "/" + name)
	if !had {
		return nil
	}
	return old.(*lambent.Function)
}

// Names gives the namespace and name of every function, in no order.
func (t *Table) Names() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, v := range t.functions.Range {
			f := v.(*lambent.Function)
			if !yield(f.Namespace, f.Name) {
				return
			}
		}
	}
}

// Applied says that all changes up to version are in the table.
func (t *Table) Applied(version uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if version > t.applied {
		t.applied = version
		close(t.changed)
		t.changed = make(chan struct{})
	}
}

// Wait returns when all changes up to version are in the table, or with ctx's error.
func (t *Table) Wait(ctx context.Context, version uint64) error {
	for {
		t.mu.Lock()
		applied, changed := t.applied, t.changed
		t.mu.Unlock()
		if applied >= version {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
