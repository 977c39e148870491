// Package storetest proves that a store keeps the contract of package store.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lambent/store"
)

// patience bounds every wait; nothing here takes long unless it hangs.
const patience = 30 * time.Second

// Run proves a store. Open gives an empty one, which Run closes.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, store.Store)
	}{
		{"Properties", properties},
		{"Keys", keys},
		{"Values", values},
		{"LostUpdates", lostUpdates},
		{"List", list},
		{"WatchSnapshotThenChanges", watchSnapshot},
		{"WatchPrefix", watchPrefix},
		{"WatchSlowConsumer", watchSlow},
		{"WatchDuringWrites", watchDuringWrites},
		{"WatchEndsWithContext", watchContext},
		{"Close", closing},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := open(t)
			test.run(t, s)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// RunReopen proves that a durable store keeps everything over Close. Each call of reopen gives the same
// store again, the first one empty.
func RunReopen(t *testing.T, reopen func(t *testing.T) store.Store) {
	want := map[string]store.Entry{}
	var last uint64
	for round := range 4 {
		s := reopen(t)
		expect(t, s, "", want)
		values := map[string]string{}
		for key, entry := range want {
			values[key] = string(entry.Value)
		}
		for _, prefix := range []string{"", "k."} {
			watch(t, s, prefix).wantSnapshot(values)
		}
		watch(t, s, "other.").wantSnapshot(map[string]string{})
		for i := range 50 {
			key := fmt.Sprintf("k.%d", (round*17+i)%60)
			if old, ok := want[key]; ok && i%3 == 0 {
				remove(t, s, key, old.Revision)
				delete(want, key)
				continue
			}
			value := fmt.Appendf(nil, "%d/%d", round, i)
			revision, err := s.Put(t.Context(), key, value, want[key].Revision)
			check(t, err)
			if revision <= last {
				t.Fatalf("revision %d after %d", revision, last)
			}
			last = revision
			want[key] = store.Entry{Key: key, Value: value, Revision: revision}
		}
		check(t, s.Close())
	}
}

// properties runs random histories on s and on a plain map.
func properties(t *testing.T, s store.Store) {
	run := 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		prefix := fmt.Sprintf("run%d.", run)
		model := map[string]store.Entry{}
		past := []uint64{0, 1, store.Any}
		last := uint64(0)
		ctx := t.Context()
		key := rapid.Custom(func(r *rapid.T) string {
			return prefix + rapid.SampledFrom([]string{"a", "b", "a.a", "a.b", "A", "a-_9"}).Draw(r, "key")
		})
		expected := func(r *rapid.T, key string) uint64 {
			return rapid.SampledFrom(append(slices.Clone(past), model[key].Revision)).Draw(r, "revision")
		}
		r.Repeat(map[string]func(*rapid.T){
			"put": func(r *rapid.T) {
				k := key.Draw(r, "key")
				at := expected(r, k)
				value := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(r, "value")
				revision, err := s.Put(ctx, k, value, at)
				if at != store.Any && at != model[k].Revision {
					wantError(r, err, store.ErrConflict)
					return
				}
				wantError(r, err, nil)
				if revision <= last {
					r.Fatalf("revision %d after %d", revision, last)
				}
				last = revision
				past = append(past, revision)
				model[k] = store.Entry{Key: k, Value: bytes.Clone(value), Revision: revision}
				clear(value) // the store must have its own
			},
			"delete": func(r *rapid.T) {
				k := key.Draw(r, "key")
				at := expected(r, k)
				revision, err := s.Delete(ctx, k, at)
				entry, exists := model[k]
				switch {
				case !exists && at == store.Any:
					wantError(r, err, store.ErrNotFound)
				case !exists || at != store.Any && at != entry.Revision:
					wantError(r, err, store.ErrConflict)
				default:
					wantError(r, err, nil)
					if revision <= last {
						r.Fatalf("deleted at revision %d after %d", revision, last)
					}
					last = revision
					delete(model, k)
				}
			},
			"get": func(r *rapid.T) {
				k := key.Draw(r, "key")
				got, err := s.Get(ctx, k)
				want, exists := model[k]
				if !exists {
					wantError(r, err, store.ErrNotFound)
					return
				}
				wantError(r, err, nil)
				if !equal(got, want) {
					r.Fatalf("got %v, want %v", got, want)
				}
			},
			"": func(r *rapid.T) {
				for _, p := range []string{prefix, prefix + "a."} {
					got, err := collect(s.List(ctx, p))
					wantError(r, err, nil)
					if want := under(model, p); !maps.EqualFunc(got, want, equal) {
						r.Fatalf("list %q: got %v, want %v", p, got, want)
					}
				}
			},
		})
		got := map[string]store.Entry{}
		for event, err := range s.Watch(ctx, prefix) {
			wantError(r, err, nil)
			if event.Synced {
				break
			}
			got[event.Key] = event.Entry
		}
		if !maps.EqualFunc(got, model, equal) {
			r.Fatalf("watch: got %v, want %v", got, model)
		}
	})
}

func keys(t *testing.T, s store.Store) {
	for _, key := range []string{"", ".", "a.", ".a", "a..b", "a b", "a*", "a.>", "a/b", "ä", "a\n", "$KV", strings.Repeat("x", 256)} {
		if _, err := s.Put(t.Context(), key, nil, store.Any); !errors.Is(err, store.ErrKey) {
			t.Errorf("put %q: %v", key, err)
		}
		if _, err := s.Get(t.Context(), key); !errors.Is(err, store.ErrKey) {
			t.Errorf("get %q: %v", key, err)
		}
		if _, err := s.Delete(t.Context(), key, store.Any); !errors.Is(err, store.ErrKey) {
			t.Errorf("delete %q: %v", key, err)
		}
	}
	for _, prefix := range []string{"a", ".", "a..", "*.", ">"} {
		if _, err := collect(s.List(t.Context(), prefix)); !errors.Is(err, store.ErrKey) {
			t.Errorf("list %q: %v", prefix, err)
		}
		for _, err := range s.Watch(t.Context(), prefix) {
			if !errors.Is(err, store.ErrKey) {
				t.Errorf("watch %q: %v", prefix, err)
			}
		}
	}
	longest := strings.Repeat("x", 255)
	put(t, s, longest, "v")
	if got, err := s.Get(t.Context(), longest); err != nil || string(got.Value) != "v" {
		t.Errorf("got %.20v, %v", got, err)
	}
}

func values(t *testing.T, s store.Store) {
	for _, size := range []int{0, 1, 512 << 10, store.MaxValue} {
		key := fmt.Sprint("size.", size)
		value := bytes.Repeat([]byte{0xff, 0, '\r', '\n'}, size/4+1)[:size]
		revision, err := s.Put(t.Context(), key, value, 0)
		check(t, err)
		got, err := s.Get(t.Context(), key)
		check(t, err)
		if !bytes.Equal(got.Value, value) || got.Revision != revision {
			t.Errorf("%d bytes: got %d bytes at revision %d, not %d", size, len(got.Value), got.Revision, revision)
		}
	}
	got, err := collect(s.List(t.Context(), "size."))
	check(t, err)
	if len(got) != 4 || len(got[fmt.Sprint("size.", store.MaxValue)].Value) != store.MaxValue {
		t.Errorf("listed %d values", len(got))
	}
	if _, err := s.Put(t.Context(), "size.more", make([]byte, store.MaxValue+1), store.Any); !errors.Is(err, store.ErrValue) {
		t.Errorf("got %v", err)
	}
}

// lostUpdates lets goroutines count in one key, and write beside it.
func lostUpdates(t *testing.T, s store.Store) {
	const writers, each = 8, 25
	put(t, s, "counter", "0")
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				put(t, s, fmt.Sprintf("beside.%d", w), fmt.Sprint(i))
				for {
					entry, err := s.Get(t.Context(), "counter")
					if err != nil {
						t.Error(err)
						return
					}
					n, err := strconv.Atoi(string(entry.Value))
					if err != nil {
						t.Error(err)
						return
					}
					_, err = s.Put(t.Context(), "counter", []byte(strconv.Itoa(n+1)), entry.Revision)
					if err == nil {
						break
					}
					if !errors.Is(err, store.ErrConflict) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	entry, err := s.Get(t.Context(), "counter")
	check(t, err)
	if string(entry.Value) != fmt.Sprint(writers*each) {
		t.Errorf("counted %s of %d", entry.Value, writers*each)
	}
}

// list proves that keys which are there all the time are given exactly once, whatever is written meanwhile.
func list(t *testing.T, s store.Store) {
	const n = 300
	for i := range n {
		put(t, s, fmt.Sprintf("list.%d", i), strings.Repeat("v", 1000))
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
				put(t, s, fmt.Sprintf("list.%d", i%n), "new")
			}
		}
	})
	for range 20 {
		seen := map[string]int{}
		for entry, err := range s.List(t.Context(), "list.") {
			check(t, err)
			seen[entry.Key]++
		}
		for key, times := range seen {
			if times != 1 {
				t.Errorf("%s was given %d times", key, times)
			}
		}
		if len(seen) != n {
			t.Errorf("%d keys of %d", len(seen), n)
		}
	}
	close(done)
	wg.Wait()
}

func watchSnapshot(t *testing.T, s store.Store) {
	put(t, s, "w.a", "1")
	put(t, s, "w.b", "2")
	put(t, s, "w.gone", "3")
	remove(t, s, "w.gone", store.Any)
	w := watch(t, s, "")
	w.wantSnapshot(map[string]string{"w.a": "1", "w.b": "2"})
	put(t, s, "w.c", "4")
	w.wantChange("w.c", "4", false)
	remove(t, s, "w.a", store.Any)
	w.wantChange("w.a", "", true)
	put(t, s, "w.a", "")
	w.wantChange("w.a", "", false)
}

func watchPrefix(t *testing.T, s store.Store) {
	put(t, s, "p.a", "1")
	put(t, s, "pp.a", "2")
	put(t, s, "p", "3")
	w := watch(t, s, "p.")
	w.wantSnapshot(map[string]string{"p.a": "1"})
	put(t, s, "p", "4")
	put(t, s, "pp.a", "5")
	put(t, s, "p.x.y", "6")
	w.wantChange("p.x.y", "6", false)
}

// watchSlow writes far more than a consumer takes: it may miss overtaken changes, but ends with the state.
func watchSlow(t *testing.T, s store.Store) {
	put(t, s, "slow.first", "x")
	const n, keys = 3000, 7
	var wg sync.WaitGroup
	last := uint64(0)
	state := map[string]string{}
	for event, err := range s.Watch(t.Context(), "slow.") {
		check(t, err)
		if event.Synced { // everything is written while the consumer stands still
			for w := range keys {
				wg.Go(func() {
					for i := range n / keys {
						put(t, s, fmt.Sprintf("slow.%d", w), fmt.Sprint(i))
					}
				})
			}
			wg.Wait()
			put(t, s, "slow.last", "x")
			continue
		}
		if event.Revision <= last {
			t.Errorf("revision %d after %d", event.Revision, last)
		}
		last = event.Revision
		state[event.Key] = string(event.Value)
		if event.Key == "slow.last" {
			break
		}
	}
	for w := range keys {
		if got, want := state[fmt.Sprintf("slow.%d", w)], fmt.Sprint(n/keys-1); got != want {
			t.Errorf("slow.%d: %q, want %q", w, got, want)
		}
	}
}

// watchDuringWrites begins watches in the midst of writes; what they fold must be what is listed in the end.
func watchDuringWrites(t *testing.T, s store.Store) {
	const watches, writers, each = 4, 4, 150
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				key := fmt.Sprintf("d.%d.%d", w, i%10)
				put(t, s, key, fmt.Sprint(i))
				if i%7 == 6 {
					remove(t, s, key, store.Any)
				}
			}
		})
	}
	states := make([]map[string]store.Entry, watches)
	var watching sync.WaitGroup
	for i := range watches {
		watching.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			states[i] = map[string]store.Entry{}
			last, synced, ended := uint64(0), false, false
			for event, err := range s.Watch(ctx, "d.") {
				switch {
				case err != nil:
					t.Error(err)
					return
				case event.Synced && synced:
					t.Error("synced twice")
				case event.Synced:
					synced = true
				case synced && event.Revision <= last:
					t.Errorf("revision %d after %d", event.Revision, last)
				case event.Key == "d.end":
					ended = true
				case event.Deleted:
					delete(states[i], event.Key)
				default:
					states[i][event.Key] = event.Entry
				}
				last = max(last, event.Revision)
				if synced && ended {
					return
				}
			}
		})
	}
	wg.Wait()
	put(t, s, "d.end", "")
	watching.Wait()
	want, err := collect(s.List(t.Context(), "d."))
	check(t, err)
	delete(want, "d.end")
	for i, got := range states {
		if !maps.EqualFunc(got, want, equal) {
			t.Errorf("watch %d: got %v, want %v", i, got, want)
		}
	}
}

func watchContext(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got error
	for event, err := range s.Watch(ctx, "") {
		if event.Synced {
			cancel()
		}
		got = err
	}
	if !errors.Is(got, context.Canceled) {
		t.Errorf("got %v", got)
	}
	if _, err := s.Put(ctx, "late", nil, store.Any); !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
	if _, err := s.Get(ctx, "late"); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
}

func closing(t *testing.T, s store.Store) {
	put(t, s, "k", "v")
	const watches = 3
	ended := make(chan error, watches)
	synced := make(chan struct{}, watches)
	for range watches {
		go func() {
			var last error
			for event, err := range s.Watch(t.Context(), "") {
				if event.Synced {
					synced <- struct{}{}
				}
				last = err
			}
			ended <- last
		}()
	}
	for range watches {
		receive(t, synced)
	}
	check(t, s.Close())
	for range watches {
		if err := receive(t, ended); !errors.Is(err, store.ErrClosed) {
			t.Errorf("watch: %v", err)
		}
	}
	if _, err := s.Get(t.Context(), "k"); !errors.Is(err, store.ErrClosed) {
		t.Errorf("get: %v", err)
	}
	if _, err := s.Put(t.Context(), "k", nil, store.Any); !errors.Is(err, store.ErrClosed) {
		t.Errorf("put: %v", err)
	}
	if _, err := s.Delete(t.Context(), "k", store.Any); !errors.Is(err, store.ErrClosed) {
		t.Errorf("delete: %v", err)
	}
	if _, err := collect(s.List(t.Context(), "")); !errors.Is(err, store.ErrClosed) {
		t.Errorf("list: %v", err)
	}
	for _, err := range s.Watch(t.Context(), "") {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("a new watch: %v", err)
		}
	}
}
