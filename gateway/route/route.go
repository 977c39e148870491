// Package route holds the gateway's table of functions and their aliases: what each request is matched
// against.
//
// Reads take no lock. Writers (the watchers of the store) learn from each change which revisions no function
// and no alias refers to any more.
package route

import (
	"iter"
	"maps"
	"sync"

	"lambent"
)

// Table maps names to functions and aliases. Its zero value is ready.
type Table struct {
	entries sync.Map   // "namespace/name" -> *entry
	mu      sync.Mutex // held while an entry is replaced
}

// entry is never changed, only replaced. An alias may come before its function and go after it; without one
// it refers to nothing.
type entry struct {
	function *lambent.Function // nil when there is none
	aliases  map[string]*lambent.Alias
}

// New gives an empty table.
func New() *Table { return &Table{} }

func (t *Table) load(namespace, name string) *entry {
	if e, ok := t.entries.Load(namespace + "/" + name); ok {
		return e.(*entry)
	}
	return &entry{}
}

// Lookup gives the function of that name. It must not be changed.
func (t *Table) Lookup(namespace, name string) (*lambent.Function, bool) {
	f := t.load(namespace, name).function
	return f, f != nil
}

// Alias gives an alias of a function, but for latest, which is in the function. It must not be changed.
func (t *Table) Alias(namespace, name, alias string) (*lambent.Alias, bool) {
	e := t.load(namespace, name)
	a, ok := e.aliases[alias]
	return a, ok && e.function != nil
}

// Revision gives a revision by its id, if the function or one of its aliases refers to it. It must not be changed.
func (t *Table) Revision(namespace, name, id string) (*lambent.Revision, bool) {
	for rev := range t.load(namespace, name).revisions() {
		if rev.ID == id {
			return rev, true
		}
	}
	return nil, false
}

// Set puts f into the table and gives the revisions that lost their last reference.
func (t *Table) Set(f *lambent.Function) []*lambent.Revision {
	return t.replace(f.Namespace, f.Name, func(e *entry) { e.function = f })
}

// Delete takes a function out and gives the revisions that lost their last reference: all it had.
func (t *Table) Delete(namespace, name string) []*lambent.Revision {
	return t.replace(namespace, name, func(e *entry) { e.function = nil })
}

// SetAlias puts a into the table and gives the revisions that lost their last reference.
func (t *Table) SetAlias(a *lambent.Alias) []*lambent.Revision {
	return t.replace(a.Namespace, a.Function, func(e *entry) {
		aliases := map[string]*lambent.Alias{a.Name: a}
		for name, other := range e.aliases {
			if name != a.Name {
				aliases[name] = other
			}
		}
		e.aliases = aliases
	})
}

// DeleteAlias takes an alias out and gives the revisions that lost their last reference.
func (t *Table) DeleteAlias(namespace, name, alias string) []*lambent.Revision {
	return t.replace(namespace, name, func(e *entry) {
		e.aliases = maps.Clone(e.aliases)
		delete(e.aliases, alias)
	})
}

func (t *Table) replace(namespace, name string, change func(*entry)) (lost []*lambent.Revision) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.load(namespace, name)
	after := *before
	change(&after)
	if after.function == nil && len(after.aliases) == 0 {
		t.entries.Delete(namespace + "/" + name)
	} else {
		t.entries.Store(namespace+"/"+name, &after)
	}
	live := map[string]bool{}
	for rev := range after.revisions() {
		live[rev.ID] = true
	}
	for rev := range before.revisions() {
		if !live[rev.ID] {
			live[rev.ID] = true // once is enough
			lost = append(lost, rev)
		}
	}
	return lost
}

// revisions gives what the entry refers to; a revision that two refer to is given twice.
func (e *entry) revisions() iter.Seq[*lambent.Revision] {
	return func(yield func(*lambent.Revision) bool) {
		if e.function == nil || !yield(e.function.Latest) {
			return
		}
		for _, a := range e.aliases {
			for _, target := range a.Targets {
				if !yield(target.Revision) {
					return
				}
			}
		}
	}
}

// Refers tells whether a function or one of its aliases refers to rev.
func (t *Table) Refers(rev *lambent.Revision) bool {
	for there := range t.load(rev.Namespace, rev.Function).revisions() {
		if there.ID == rev.ID {
			return true
		}
	}
	return false
}

// Names gives the namespace and name of every function, in no order.
func (t *Table) Names() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, v := range t.entries.Range {
			if f := v.(*entry).function; f != nil && !yield(f.Namespace, f.Name) {
				return
			}
		}
	}
}
