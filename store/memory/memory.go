// Package memory keeps a store in a map. It is the executable specification of [store.Store], and serves
// tests; nothing outlives Close.
package memory

import (
	"bytes"
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"lambent/store"
	"lambent/store/internal/watch"
)

// Store is a [store.Store] in memory.
type Store struct {
	hub watch.Hub

	mu      sync.Mutex
	last    uint64 // revision of the last write
	entries map[string]store.Entry
	closed  bool
}

var _ store.Store = (*Store)(nil)

// New makes an empty store.
func New() *Store { return &Store{entries: map[string]store.Entry{}} }

// Get implements [store.Store].
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := store.CheckKey(key); err != nil {
		return store.Entry{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return store.Entry{}, err
	}
	entry, ok := s.entries[key]
	if !ok {
		return store.Entry{}, store.ErrNotFound
	}
	return entry, nil
}

// Put implements [store.Store].
func (s *Store) Put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if err := store.CheckValue(value); err != nil {
		return 0, err
	}
	change := store.Event{Entry: store.Entry{Key: key, Value: bytes.Clone(value)}}
	return s.write(ctx, change, revision)
}

// Delete implements [store.Store].
func (s *Store) Delete(ctx context.Context, key string, revision uint64) (uint64, error) {
	return s.write(ctx, store.Event{Entry: store.Entry{Key: key}, Deleted: true}, revision)
}

func (s *Store) write(ctx context.Context, change store.Event, revision uint64) (uint64, error) {
	if err := store.CheckKey(change.Key); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return 0, err
	}
	old, exists := s.entries[change.Key] // a missing key is at revision 0
	switch {
	case change.Deleted && !exists && revision == store.Any:
		return 0, store.ErrNotFound
	case change.Deleted && !exists, revision != store.Any && revision != old.Revision:
		return 0, store.ErrConflict
	}
	s.last++
	change.Revision = s.last
	if change.Deleted {
		delete(s.entries, change.Key)
	} else {
		s.entries[change.Key] = change.Entry
	}
	s.hub.Publish(change)
	return s.last, nil
}

// List implements [store.Store].
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		err := store.CheckPrefix(prefix)
		if err == nil {
			s.mu.Lock()
			err = s.usable(ctx)
			s.mu.Unlock()
		}
		if err != nil {
			yield(store.Entry{}, err)
			return
		}
		_, entries := s.snapshot(prefix)
		for entry, err := range entries {
			if err == nil {
				err = ctx.Err()
			}
			if !yield(entry, err) || err != nil {
				return
			}
		}
	}
}

// Watch implements [store.Store].
func (s *Store) Watch(ctx context.Context, prefix string) iter.Seq2[store.Event, error] {
	snapshot := func() (uint64, iter.Seq2[store.Entry, error]) { return s.snapshot(prefix) }
	return s.hub.Watch(ctx, prefix, snapshot, func() error { return nil })
}

// Close implements [store.Store].
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.hub.Close()
	return nil
}

func (s *Store) usable(ctx context.Context) error {
	if s.closed {
		return store.ErrClosed
	}
	return ctx.Err()
}

func (s *Store) snapshot(prefix string) (uint64, iter.Seq2[store.Entry, error]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := slices.Collect(maps.Values(s.entries))
	return s.last, func(yield func(store.Entry, error) bool) {
		for _, entry := range entries {
			if strings.HasPrefix(entry.Key, prefix) && !yield(entry, nil) {
				return
			}
		}
	}
}
