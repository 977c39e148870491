package jetstream_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lambent/store"
	"lambent/store/jetstream"
)

func text(log *bytes.Buffer) *slog.Logger { return slog.New(slog.NewTextHandler(log, nil)) }

// valueSize makes a few hundred writes fill several blocks of NATS.
const valueSize = 60_000

// fill makes a store with overwritten, deleted and live keys in several blocks, and gives the live ones.
func fill(t *testing.T, dir string) map[string]uint64 {
	t.Helper()
	n := open(t, dir)
	defer func() {
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	live := map[string]uint64{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range 20 {
		wg.Go(func() {
			for i := range 10 {
				key := fmt.Sprintf("k.%d.%d", w, i%7)
				revision, err := n.Put(t.Context(), key, bytes.Repeat([]byte("v"), valueSize), store.Any)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				live[key] = revision
				mu.Unlock()
				if i == 5 {
					if _, err := n.Delete(t.Context(), key, revision); err != nil {
						t.Error(err)
					}
					mu.Lock()
					delete(live, key)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return live
}

// intact tells what of live is not in the store as it was, or is there and was not.
func intact(t *testing.T, n node, live map[string]uint64) error {
	t.Helper()
	found := 0
	for entry, err := range n.List(t.Context(), "") {
		if err != nil {
			return err
		}
		if live[entry.Key] != entry.Revision || len(entry.Value) != valueSize {
			return fmt.Errorf("%s is at revision %d with %d bytes, not %d", entry.Key, entry.Revision, len(entry.Value), live[entry.Key])
		}
		found++
	}
	if found != len(live) {
		return fmt.Errorf("%d keys of %d", found, len(live))
	}
	return nil
}

func TestNoSilentLoss(t *testing.T) {
	original := t.TempDir()
	live := fill(t, original)
	var files []string
	check(t, filepath.WalkDir(original, func(path string, d fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(original, path); err == nil && !d.IsDir() && rel != "lock" {
			files = append(files, rel)
		}
		return err
	}))
	damages := map[string]func(path string, size int64) error{
		"empty":       func(path string, _ int64) error { return os.Truncate(path, 0) },
		"first bytes": func(path string, _ int64) error { return os.Truncate(path, 10) },
		"half":        func(path string, size int64) error { return os.Truncate(path, size/2) },
		"last byte":   func(path string, size int64) error { return os.Truncate(path, size-1) },
		"last 70,000": func(path string, size int64) error { return os.Truncate(path, max(0, size-70_000)) },
		"deleted":     func(path string, _ int64) error { return os.Remove(path) },
		"flipped": func(path string, size int64) error {
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			at := int(size / 2)
			if i := bytes.Index(raw[at:], []byte("vvvvvvvv")); i >= 0 {
				at += i // in a value: embednats tests what NATS does about a changed sequence
			}
			raw[at] ^= 0x40
			return os.WriteFile(path, raw, 0o600)
		},
	}
	for _, file := range files {
		for how, damage := range damages {
			for _, index := range []bool{true, false} {
				name := strings.ReplaceAll(file, "/", "|") + " " + how
				if !index {
					name += " without index"
				}
				if !index && !strings.HasSuffix(file, ".blk") {
					continue // NATS reads the blocks alone only for want of an index
				}
				t.Run(name, func(t *testing.T) {
					dir := t.TempDir()
					check(t, os.CopyFS(dir, os.DirFS(original)))
					path := filepath.Join(dir, file)
					info, err := os.Stat(path)
					check(t, err)
					check(t, damage(path, info.Size()))
					if !index {
						err := os.Remove(filepath.Join(dir, "jetstream/$G/streams/KV_test/msgs/index.db"))
						if err != nil && !errors.Is(err, os.ErrNotExist) {
							t.Fatal(err)
						}
					}
					openDamaged(t, dir, live)
				})
			}
		}
	}
}

// openDamaged opens a damaged store. Either nothing is missing, or it is refused, and opened when the loss is accepted.
func openDamaged(t *testing.T, dir string, live map[string]uint64) {
	t.Helper()
	var log bytes.Buffer
	n, err := tryOpen(t, dir, jetstream.Options{Logger: text(&log)})
	if err == nil {
		if err := intact(t, n, live); err != nil {
			t.Errorf("opened although %v\n%s", err, &log)
		}
		t.Log("opened")
		check(t, n.Close())
		return
	}
	if !errors.Is(err, jetstream.ErrDamaged) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "AcceptLoss") {
		t.Errorf("refused with %v", err)
	}
	t.Log(err)
	log.Reset()
	n, err = tryOpen(t, dir, jetstream.Options{Logger: text(&log), AcceptLoss: true})
	if err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	if !strings.Contains(log.String(), "accepted") {
		t.Errorf("the log does not tell of the loss: %s", &log)
	}
	revision, err := n.Put(t.Context(), "after", make([]byte, valueSize), store.Any)
	check(t, err)
	if highest := slices.Max(slices.Collect(maps.Values(live))); revision <= highest {
		t.Errorf("revision %d after %d", revision, highest)
	}
	left, err := listed(t, n)
	check(t, err)
	t.Logf("kept %d of %d", len(left)-1, len(live))
	check(t, n.Close())
	n, err = tryOpen(t, dir, jetstream.Options{Logger: text(&log)})
	if err != nil {
		t.Fatal(err)
	}
	check(t, intact(t, n, left))
	check(t, n.Close())
}

func listed(t *testing.T, n node) (map[string]uint64, error) {
	out := map[string]uint64{}
	for entry, err := range n.List(t.Context(), "") {
		if err != nil {
			return nil, err
		}
		out[entry.Key] = entry.Revision
	}
	return out, nil
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestCrashBeforeWatermark puts an older watermark back: one batch behind is what a crash may leave, more is not.
func TestCrashBeforeWatermark(t *testing.T) {
	for _, batches := range []int{1, 2} {
		dir := t.TempDir()
		path := filepath.Join(dir, "test.watermark")
		n := open(t, dir)
		for _, key := range []string{"a", "b", "a"} {
			_, err := n.Put(t.Context(), key, make([]byte, valueSize), store.Any)
			check(t, err)
		}
		old, err := os.ReadFile(path)
		check(t, err)
		var revision uint64
		for range batches {
			revision, err = n.Put(t.Context(), "a", make([]byte, valueSize), store.Any)
			check(t, err)
		}
		check(t, n.Close())
		check(t, os.WriteFile(path, old, 0o600))
		var log bytes.Buffer
		n, err = tryOpen(t, dir, jetstream.Options{Logger: text(&log)})
		if batches > 1 {
			if !errors.Is(err, jetstream.ErrDamaged) {
				t.Errorf("two batches behind: %v", err)
			}
			continue
		}
		check(t, err)
		check(t, intact(t, n, map[string]uint64{"a": revision, "b": 2}))
		check(t, n.Close())
	}
}

const writerEnv = "LAMBENT_TEST_WRITER"

// TestKilledWriter kills a process in the midst of its writes, several times over one directory.
func TestKilledWriter(t *testing.T) {
	if dir := os.Getenv(writerEnv); dir != "" {
		writeForever(t, dir)
		return
	}
	dir := t.TempDir()
	acked := map[string]uint64{} // the last acknowledged revision of each key
	for round := range 6 {
		child := exec.Command(os.Args[0], "-test.run=^TestKilledWriter$", "-test.timeout=2m")
		child.Env = append(os.Environ(), writerEnv+"="+dir)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		check(t, err)
		check(t, child.Start())
		enough := 300 + 57*round
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			var key string
			var revision uint64
			if _, err := fmt.Sscanf(lines.Text(), "acked %s %d", &key, &revision); err != nil {
				continue // the test framework's own lines, and one that the kill has cut
			}
			acked[key] = max(acked[key], revision)
			if n == enough {
				check(t, child.Process.Kill())
			}
		}
		if err := child.Wait(); err == nil || len(acked) == 0 {
			t.Fatalf("the writer ended by itself: %v", err)
		}
		n := open(t, dir)
		for key, revision := range acked {
			entry, err := n.Get(t.Context(), key)
			if err != nil || entry.Revision < revision {
				t.Errorf("round %d: %s was acknowledged at %d, found at %d: %v", round, key, revision, entry.Revision, err)
			}
		}
		check(t, n.Close())
	}
}

func writeForever(t *testing.T, dir string) {
	n := open(t, dir)
	for w := range 16 {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("k.%d.%d", w, i%25)
				revision, err := n.Put(t.Context(), key, make([]byte, 300), store.Any)
				if err != nil {
					fmt.Printf("refused %v\n", err)
					time.Sleep(time.Millisecond)
					continue
				}
				fmt.Printf("acked %s %d\n", key, revision) // one write, so lines of goroutines do not mix
			}
		}()
	}
	time.Sleep(time.Minute) // the parent kills this process long before
}
