package route

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lambent"
)

func TestTable(t *testing.T) {
	table := New()
	one, two := &lambent.Revision{ID: "1"}, &lambent.Revision{ID: "2"}
	prod := &lambent.Alias{Namespace: "a", Function: "f", Name: "prod", Targets: []lambent.Target{{Revision: one, Weight: 1}}}
	lost := func(got []*lambent.Revision, want ...*lambent.Revision) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("lost %v, want %v", got, want)
		}
	}
	lost(table.SetAlias(prod))
	if _, ok := table.Alias("a", "f", "prod"); ok {
		t.Error("an alias of no function was found")
	}
	for range table.Names() {
		t.Error("an alias made a function")
	}
	f := &lambent.Function{Namespace: "a", Name: "f", Latest: one}
	lost(table.Set(f))
	if got, ok := table.Lookup("a", "f"); !ok || got != f {
		t.Errorf("lookup %v %v", got, ok)
	}
	if got, ok := table.Alias("a", "f", "prod"); !ok || got != prod {
		t.Errorf("alias %v %v", got, ok)
	}
	if _, ok := table.Lookup("b", "f"); ok {
		t.Error("found in another namespace")
	}
	lost(table.Set(&lambent.Function{Namespace: "a", Name: "f", Latest: two})) // prod holds it
	lost(table.DeleteAlias("a", "f", "prod"), one)
	lost(table.DeleteAlias("a", "f", "prod"))
	lost(table.SetAlias(prod))
	lost(table.Delete("a", "f"), two, one)
	lost(table.Delete("a", "f"))
	lost(table.DeleteAlias("a", "f", "prod"))
	for range table.entries.Range {
		t.Error("something is left")
	}
}

// The revisions that a change gives are those that were referred to before and are not afterwards, whatever
// the order of changes.
func TestReferences(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := New()
		function := map[string]string{}            // name -> latest
		aliases := map[[2]string]map[string]bool{} // name, alias -> revisions
		live := func() map[string]bool {
			out := map[string]bool{}
			for name, latest := range function {
				out[name+latest] = true
				for key, revs := range aliases {
					for rev := range revs {
						if key[0] == name {
							out[name+rev] = true
						}
					}
				}
			}
			return out
		}
		oneOf := func(label string, n int) string { return fmt.Sprint(rapid.IntRange(0, n-1).Draw(t, label)) }
		revision := func(name, id string) *lambent.Revision { return &lambent.Revision{Function: name, ID: id} }
		for range rapid.IntRange(1, 40).Draw(t, "changes") {
			before := live()
			name, alias := oneOf("name", 2), oneOf("alias", 3)
			var lost []*lambent.Revision
			switch rapid.IntRange(0, 3).Draw(t, "change") {
			case 0:
				function[name] = oneOf("latest", 3)
				lost = table.Set(&lambent.Function{Name: name, Latest: revision(name, function[name])})
			case 1:
				delete(function, name)
				lost = table.Delete("", name)
			case 2:
				a := &lambent.Alias{Function: name, Name: alias}
				aliases[[2]string{name, alias}] = map[string]bool{}
				for range rapid.IntRange(1, 3).Draw(t, "targets") {
					id := oneOf("target", 3)
					aliases[[2]string{name, alias}][id] = true
					a.Targets = append(a.Targets, lambent.Target{Revision: revision(name, id), Weight: 1})
				}
				lost = table.SetAlias(a)
			case 3:
				delete(aliases, [2]string{name, alias})
				lost = table.DeleteAlias("", name, alias)
			}
			after, got := live(), map[string]bool{}
			for _, rev := range lost {
				key := rev.Function + rev.ID
				if got[key] || after[key] || !before[key] {
					t.Fatalf("lost %s, of %v, now %v", key, before, after)
				}
				got[key] = true
			}
			maps.DeleteFunc(before, func(key string, _ bool) bool { return after[key] })
			if !maps.Equal(got, before) {
				t.Fatalf("lost %v, want %v", got, before)
			}
			for _, name := range []string{"0", "1"} {
				f, ok := table.Lookup("", name)
				if latest, want := function[name]; ok != want || ok && f.Latest.ID != latest {
					t.Fatalf("lookup %s: %v, want %v", name, f, want)
				}
				for _, id := range []string{"0", "1", "2"} {
					if table.Refers(revision(name, id)) != after[name+id] {
						t.Fatalf("refers to %s of %s: %t", id, name, !after[name+id])
					}
				}
				for _, alias := range []string{"0", "1", "2"} {
					_, is := function[name]
					_, has := aliases[[2]string{name, alias}]
					if _, ok := table.Alias("", name, alias); ok != (is && has) {
						t.Fatalf("alias %s of %s: %v", alias, name, ok)
					}
				}
			}
		}
	})
}

func TestReadersSeeWholeEntries(t *testing.T) {
	table := New()
	var wg sync.WaitGroup
	for _, id := range []string{"1", "2"} {
		rev := &lambent.Revision{ID: id}
		wg.Go(func() {
			for range 1000 {
				table.Set(&lambent.Function{Name: "f", Latest: rev})
				table.SetAlias(&lambent.Alias{Function: "f", Name: id, Targets: []lambent.Target{{Revision: rev, Weight: 1}}})
				f, ok := table.Lookup("", "f")
				if a, found := table.Alias("", "f", id); !ok || !found || f.Latest == nil || a.Targets[0].Revision != rev {
					t.Errorf("%v %v", f, a)
				}
				table.DeleteAlias("", "f", id)
			}
		})
	}
	wg.Wait()
}

func TestWait(t *testing.T) {
	p := NewProgress()
	p.Applied(3)
	if err := p.Wait(t.Context(), 3); err != nil {
		t.Error(err)
	}
	var wg sync.WaitGroup
	for v := uint64(4); v < 20; v++ {
		wg.Go(func() {
			if err := p.Wait(t.Context(), v); err != nil {
				t.Error(err)
			}
		})
	}
	for v := uint64(4); v < 20; v += 3 {
		p.Applied(v)
	}
	p.Applied(19)
	p.Applied(5) // late news of an earlier version changes nothing
	wg.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := p.Wait(ctx, 20); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
