package changes_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lambent/internal/changes"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOf(t *testing.T) {
	dir := t.TempDir()
	write := func(name string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("main.py")
	write(".git/index")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seen := make(chan string)
	go func() {
		defer close(seen)
		skip := func(name string) bool { return strings.HasPrefix(name, ".") }
		for path, err := range changes.Of(ctx, dir, 50*time.Millisecond, skip) {
			if err != nil {
				path = err.Error()
			}
			seen <- path
		}
	}()
	// Nothing tells when it begins to watch, so the first change is made again until it is seen.
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	first := ""
	for first == "" {
		select {
		case first = <-seen:
		case <-tick.C:
			write("main.py")
		}
	}
	for _, c := range []struct {
		name string
		do   func()
		want string
	}{
		{"a file, several times", func() { write("main.py"); write("main.py"); write("other.py") }, "other.py"},
		{"a new folder, then a file in it", func() { write("lib/a.py") }, "lib"},
		{"a file in the new folder", func() { write("lib/b.py") }, "lib/b.py"},
		{"a rename over a file, as editors save", func() {
			write(".main.py.swp")
			if err := os.Rename(filepath.Join(dir, ".main.py.swp"), filepath.Join(dir, "main.py")); err != nil {
				t.Fatal(err)
			}
		}, "main.py"},
		{"a removal", func() { os.Remove(filepath.Join(dir, "other.py")) }, "other.py"},
		{"a skipped folder, then another file", func() { write(".git/index"); write("main.py") }, "main.py"},
	} {
		c.do()
		if got := <-seen; !strings.HasPrefix(got, filepath.Join(dir, c.want)) {
			t.Errorf("%s: %s changed, want %s", c.name, got, c.want)
		}
	}
	cancel()
	for range seen {
	}
}
