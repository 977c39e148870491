package storetest

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"maps"
	"strings"
	"testing"
	"time"

	"lambent/store"
)

// watcher takes the events of a watch one at a time.
type watcher struct {
	t    *testing.T
	next func() (store.Event, error, bool)
	last uint64
}

func watch(t *testing.T, s store.Store, prefix string) *watcher {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	next, stop := iter.Pull2(s.Watch(ctx, prefix))
	t.Cleanup(func() { stop(); cancel() })
	return &watcher{t: t, next: next}
}

func (w *watcher) event() store.Event {
	w.t.Helper()
	event, err, ok := w.next()
	if err != nil || !ok {
		w.t.Fatalf("the watch ended: %v", err)
	}
	return event
}

func (w *watcher) wantSnapshot(want map[string]string) {
	w.t.Helper()
	got := map[string]string{}
	for {
		event := w.event()
		if event.Synced {
			break
		}
		got[event.Key] = string(event.Value)
		w.last = max(w.last, event.Revision)
	}
	if !maps.Equal(got, want) {
		w.t.Errorf("snapshot %v, want %v", got, want)
	}
}

func (w *watcher) wantChange(key, value string, deleted bool) {
	w.t.Helper()
	event := w.event()
	if event.Key != key || string(event.Value) != value || event.Deleted != deleted || event.Synced || event.Revision <= w.last {
		w.t.Errorf("got %+v after revision %d, want %s=%q, deleted %v", event, w.last, key, value, deleted)
	}
	w.last = event.Revision
}

func put(t *testing.T, s store.Store, key, value string) {
	t.Helper()
	if _, err := s.Put(t.Context(), key, []byte(value), store.Any); err != nil {
		t.Errorf("put %s: %v", key, err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func remove(t *testing.T, s store.Store, key string, revision uint64) {
	t.Helper()
	_, err := s.Delete(t.Context(), key, revision)
	check(t, err)
}

func wantError(t interface{ Fatalf(string, ...any) }, err, want error) {
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func expect(t *testing.T, s store.Store, prefix string, want map[string]store.Entry) {
	t.Helper()
	got, err := collect(s.List(t.Context(), prefix))
	check(t, err)
	if !maps.EqualFunc(got, want, equal) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func collect(entries iter.Seq2[store.Entry, error]) (map[string]store.Entry, error) {
	got := map[string]store.Entry{}
	for entry, err := range entries {
		if err != nil {
			return got, err
		}
		got[entry.Key] = entry
	}
	return got, nil
}

func under(model map[string]store.Entry, prefix string) map[string]store.Entry {
	out := maps.Clone(model)
	maps.DeleteFunc(out, func(key string, _ store.Entry) bool { return !strings.HasPrefix(key, prefix) })
	return out
}

func equal(a, b store.Entry) bool {
	return a.Key == b.Key && bytes.Equal(a.Value, b.Value) && a.Revision == b.Revision
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("not reached")
	}
}
