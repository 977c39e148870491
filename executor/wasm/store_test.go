package wasm

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lambent"
	"lambent/executor/wasm/internal/artefact"
)

// newStore makes a store whose compiler calls f and then writes an empty artefact.
func newStore(t *testing.T, dir, version string, f func(context.Context) error) *store {
	t.Helper()
	s := &store{dir: dir, version: version, log: slog.New(slog.DiscardHandler)}
	s.compile = func(ctx context.Context, _ source, to string) error {
		if err := f(ctx); err != nil {
			return err
		}
		for _, name := range []string{artefact.ModuleFile, artefact.NativeFile, artefact.ImageFile, artefact.MetaFile} {
			if err := os.WriteFile(filepath.Join(to, name), []byte("{}"), 0o444); err != nil {
				return err
			}
		}
		return nil
	}
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

func sourceOf(namespace, code, text, warmup string) source {
	m := source{namespace: namespace, code: "sha256:" + strings.Repeat(code, 64), name: "main.wasm", warmup: warmup}
	copy(m.digest[:], text)
	return m
}

func (s *store) must(t *testing.T, m source) {
	t.Helper()
	files, err := s.get(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if err := files.Close(); err != nil {
		t.Error(err)
	}
}

func TestArtefactsAreMadeOnce(t *testing.T) {
	dir := t.TempDir()
	var made atomic.Int64
	gate := make(chan struct{})
	count := func(context.Context) error { made.Add(1); <-gate; return nil }
	s := newStore(t, dir, "1", count)
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() { s.must(t, sourceOf("one", "a", "x", "")) })
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.get(short, sourceOf("one", "a", "x", "")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one who does not wait that long gets %v", err)
	}
	close(gate)
	all.Wait()
	if n := made.Load(); n != 1 {
		t.Errorf("it was made %d times", n)
	}
	large := sourceOf("one", "a", "x", "")
	large.memory = 1
	for _, c := range []struct {
		what string
		s    *store
		m    source
		made int64
	}{
		{"the same", s, sourceOf("one", "a", "x", ""), 1},
		{"the same in another bundle", s, sourceOf("one", "b", "x", ""), 1},
		{"after a restart", newStore(t, dir, "1", count), sourceOf("one", "a", "x", ""), 1},
		{"another namespace", s, sourceOf("two", "a", "x", ""), 2},
		{"another module", s, sourceOf("one", "a", "y", ""), 3},
		{"another warm-up", s, sourceOf("one", "a", "x", "/warm"), 4},
		{"another memory", s, large, 5},
		{"another version", newStore(t, dir, "2", count), sourceOf("one", "a", "x", ""), 6},
	} {
		if c.s.must(t, c.m); made.Load() != c.made {
			t.Errorf("%s: %d have been made, want %d", c.what, made.Load(), c.made)
		}
	}
}

// TestTurns: what is made has a bound, though nobody waits for it any longer, and one namespace does not stand in another's way.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, made atomic.Int64
		gate := make(chan struct{})
		s := newStore(t, t.TempDir(), "1", func(context.Context) error { now.Add(1); <-gate; now.Add(-1); made.Add(1); return nil })
		s.turns, s.all = 4, make(chan struct{}, 4)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for i, namespace := range []string{"one", "one", "one", "one", "two", "three", "four"} {
			if _, err := s.get(gone, sourceOf(namespace, "a", string(rune('a'+i)), "")); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			synctest.Wait()
			if want := []int64{1, 2, 2, 2, 3, 4, 4}[i]; now.Load() != want {
				t.Errorf("%d are under way after %d, want %d", now.Load(), i+1, want)
			}
		}
		close(gate)
		synctest.Wait()
		if made.Load() != 7 {
			t.Errorf("%d have been made", made.Load())
		}
	})
}

func TestRefusalsAreRemembered(t *testing.T) {
	made := 0
	code := lambent.CodeModuleUnsupported
	s := newStore(t, t.TempDir(), "1", func(context.Context) error { made++; return lambent.Errorf(code, "as a test") })
	for range 3 {
		if _, err := s.get(t.Context(), sourceOf("one", "a", "x", "")); !lambent.HasCode(err, code) {
			t.Errorf("got %v", err)
		}
	}
	if made != 1 {
		t.Errorf("it was tried %d times", made)
	}
	code = lambent.CodeSandboxFailed
	for range 3 {
		if _, err := s.get(t.Context(), sourceOf("one", "a", "y", "")); !lambent.HasCode(err, code) {
			t.Errorf("got %v", err)
		}
	}
	if made != 4 {
		t.Errorf("what may be better next time was tried %d times", made-1)
	}
	if left, err := filepath.Glob(filepath.Join(s.dir, "one", "*")); len(left) > 0 || err != nil {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestStoreCloses(t *testing.T) {
	began := make(chan struct{})
	s := newStore(t, t.TempDir(), "1", func(ctx context.Context) error { close(began); <-ctx.Done(); return ctx.Err() })
	done := make(chan error, 1)
	go func() { _, err := s.get(t.Context(), sourceOf("one", "a", "x", "")); done <- err }()
	<-began
	s.close()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := s.get(t.Context(), sourceOf("one", "a", "x", "")); !lambent.HasCode(err, lambent.CodeShuttingDown) {
		t.Errorf("got %v", err)
	}
}

// TestFullDisk: what is there can be used though nothing can be written.
func TestFullDisk(t *testing.T) {
	s := newStore(t, t.TempDir(), "1", func(context.Context) error { return nil })
	m := sourceOf("one", "a", "x", "")
	s.must(t, m)
	marks := filepath.Join(s.path(m), ofDir)
	if err := errors.Join(os.RemoveAll(marks), os.WriteFile(marks, nil, 0o600)); err != nil { // no mark can be made in a file
		t.Fatal(err)
	}
	s.must(t, sourceOf("one", "b", "x", ""))
}

func TestArtefactsAreCollected(t *testing.T) {
	dir := t.TempDir()
	nothing := func(context.Context) error { return nil }
	s, older := newStore(t, dir, "2", nothing), newStore(t, dir, "1", nothing)
	used, shared, alone := sourceOf("one", "a", "x", ""), sourceOf("one", "b", "x", ""), sourceOf("two", "b", "y", "")
	for _, m := range []source{used, shared, alone} {
		s.must(t, m)
	}
	older.must(t, used)
	unfinished := filepath.Join(dir, "one", tmpPrefix+"1")
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{used.code: true, shared.code: true}
	check := func(when string, want ...string) {
		t.Helper()
		if err := s.collect(func(code string) bool { return has[code] }); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		left, err := filepath.Glob(filepath.Join(dir, "*", "*"))
		slices.Sort(want)
		if !slices.Equal(left, want) || err != nil {
			t.Errorf("%s there are %v, want %v; %v", when, left, want, err)
		}
	}
	check("while all is used", s.path(used), s.path(alone), unfinished)
	delete(has, shared.code)
	check("while it may just be used", s.path(used), s.path(alone), unfinished)
	long := time.Now().Add(-24 * time.Hour)
	for _, path := range []string{filepath.Join(s.path(used), ofDir), filepath.Join(s.path(alone), ofDir), unfinished} {
		if err := os.Chtimes(path, long, long); err != nil {
			t.Fatal(err)
		}
	}
	check("later", s.path(used))
	clear(has)
	check("when all is gone", s.path(used))
	if err := os.Chtimes(filepath.Join(s.path(used), ofDir), long, long); err != nil {
		t.Fatal(err)
	}
	check("at the end")
	s.must(t, used)
}
