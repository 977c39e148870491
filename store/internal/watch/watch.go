// Package watch hands the changes of a store to those who watch it.
package watch

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"sync"

	"lambent/store"
)

// Hub knows the watches of one store. Its zero value is ready.
type Hub struct {
	mu     sync.Mutex // guards everything in the feeds, too
	feeds  map[*feed]struct{}
	closed bool
}

// feed holds the changes that a watch has not taken yet, at most one for each key: a slow consumer costs
// no more memory than the keys that it watches.
type feed struct {
	prefix    string
	queue     []store.Event
	at        map[string]int // where in queue the change of a key is
	overtaken int            // entries of queue whose Key is empty, because a later one holds its key
	wake      chan struct{}  // holds one token while there is news
}

// Publish gives changes to all watches. Calls must come in the order of the revisions.
func (h *Hub) Publish(changes ...store.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for f := range h.feeds {
		for _, change := range changes {
			if strings.HasPrefix(change.Key, f.prefix) {
				f.push(change)
			}
		}
	}
}

// Close ends all watches with [store.ErrClosed], once they have given what was published.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for f := range h.feeds {
		f.signal()
	}
}

// Watch implements [store.Store.Watch]. Snapshot is called when the watch has begun to collect changes; it
// gives the last revision and the entries up to it, from which those may be missing that changed while
// they were read. Settle returns when all such changes have been published.
func (h *Hub) Watch(ctx context.Context, prefix string,
	snapshot func() (uint64, iter.Seq2[store.Entry, error]), settle func() error,
) iter.Seq2[store.Event, error] {
	return func(yield func(store.Event, error) bool) {
		fail := func(err error) { yield(store.Event{}, fmt.Errorf("watch %q: %w", prefix, err)) }
		if err := store.CheckPrefix(prefix); err != nil {
			fail(err)
			return
		}
		f, err := h.open(prefix)
		if err != nil {
			fail(err)
			return
		}
		defer h.drop(f)
		last, entries := snapshot()
		for entry, err := range entries {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				fail(err)
				return
			}
			if !yield(store.Event{Entry: entry}, nil) {
				return
			}
		}
		if err := settle(); err != nil {
			fail(err)
			return
		}
		for synced := false; ; {
			changes, closed := h.take(f)
			for _, change := range changes {
				if change.Key == "" || change.Revision <= last {
					continue
				}
				if ctx.Err() != nil {
					fail(ctx.Err())
					return
				}
				if !yield(change, nil) {
					return
				}
			}
			if !synced {
				synced = true
				if !yield(store.Event{Synced: true}, nil) {
					return
				}
			}
			if closed {
				fail(store.ErrClosed)
				return
			}
			select {
			case <-f.wake:
			case <-ctx.Done():
				fail(ctx.Err())
				return
			}
		}
	}
}

func (h *Hub) open(prefix string) (*feed, error) {
	f := &feed{prefix: prefix, at: map[string]int{}, wake: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, store.ErrClosed
	}
	if h.feeds == nil {
		h.feeds = map[*feed]struct{}{}
	}
	h.feeds[f] = struct{}{}
	return f, nil
}

func (h *Hub) drop(f *feed) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.feeds, f)
}

// take gives the changes collected so far, and whether there will be no more.
func (h *Hub) take(f *feed) (changes []store.Event, closed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	changes = f.queue
	f.queue, f.overtaken = nil, 0
	clear(f.at)
	return changes, h.closed
}

func (f *feed) push(change store.Event) {
	if i, ok := f.at[change.Key]; ok {
		f.queue[i] = store.Event{}
		f.overtaken++
	}
	if f.overtaken > len(f.queue)/2 {
		f.compact()
	}
	f.at[change.Key] = len(f.queue)
	f.queue = append(f.queue, change)
	f.signal()
}

func (f *feed) compact() {
	kept := f.queue[:0]
	for _, change := range f.queue {
		if change.Key != "" {
			f.at[change.Key] = len(kept)
			kept = append(kept, change)
		}
	}
	clear(f.queue[len(kept):])
	f.queue, f.overtaken = kept, 0
}

func (f *feed) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}
