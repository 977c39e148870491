package journal

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type entry struct {
	Key string `json:"key"`
	Pad string `json:"pad"`
}

func sample(n int) *entry { return &entry{fmt.Sprint(n), strings.Repeat("x", 300)} }

func open(t testing.TB, opt Options[entry]) *Journal[entry] {
	t.Helper()
	opt.What = "entries"
	opt.ID = func(e *entry) string { return e.Key }
	if opt.Ring == 0 {
		opt.Ring, opt.Segments, opt.SegmentBytes = 1024, 8, 1<<20
	}
	j, err := Open[entry](opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func shut(t *testing.T, j *Journal[entry]) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// keys are those of what v has, the latest first.
func keys(v View[entry], mark string, since time.Time) string {
	var all []string
	for _, e := range v.Latest(1<<20, []byte(mark), since, func(*entry) bool { return true }) {
		all = append(all, e.Key)
	}
	return strings.Join(all, " ")
}

func TestRestart(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options[entry]{Dir: dir})
	for i := range 3 {
		j.Add(sample(i))
	}
	shut(t, j)
	j = open(t, Options[entry]{Dir: dir})
	if len(j.View().memory) > 0 {
		t.Error("there is something in memory")
	}
	j.Add(sample(3))
	shut(t, j)
	for range 2 {
		if got := keys(j.View(), "", time.Time{}); got != "3 2 1 0" {
			t.Errorf("got %q", got)
		}
		j = open(t, Options[entry]{Dir: dir})
	}
	if got := keys(j.View(), `"key":"2"`, time.Time{}); got != "2" {
		t.Errorf("got %q", got)
	}
}

func TestTruncatedLine(t *testing.T) {
	for name, cut := range map[string]int64{"in the last line": 10, "the line end only": 1, "all": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j := open(t, Options[entry]{Dir: dir})
			j.Add(sample(1))
			j.Add(sample(2))
			shut(t, j)
			file := files(t, dir)[0]
			info, _ := os.Stat(file)
			if err := os.Truncate(file, max(0, info.Size()-cut)); err != nil {
				t.Fatal(err)
			}
			j = open(t, Options[entry]{Dir: dir})
			j.Add(sample(3))
			shut(t, j)
			j = open(t, Options[entry]{Dir: dir})
			want := "3 1"
			if cut > 1000 {
				want = "3"
			}
			if got := keys(j.View(), "", time.Time{}); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestRotation(t *testing.T) {
	dir := t.TempDir()
	opt := Options[entry]{Dir: dir, Ring: 8, Segments: 3, SegmentBytes: 1000}
	var began time.Time    // of the last round
	for round := range 5 { // a batch goes to one file whole, so restarts make the sizes certain
		time.Sleep(2 * time.Millisecond) // files are named by the millisecond
		began = time.Now()
		j := open(t, opt)
		for i := range 4 {
			j.Add(sample(10*round + i))
		}
		shut(t, j)
	}
	if n := len(files(t, dir)); n > opt.Segments {
		t.Errorf("%d files", n)
	}
	j := open(t, opt)
	if got := keys(j.View(), "", time.Time{}); got != "43 42 41 40 33 32 31 30 23 22 21 20" {
		t.Errorf("got %q", got)
	}
	if got := keys(j.View(), "", began); !strings.HasPrefix(got, "43 42 41 40") || strings.Contains(got, "23") {
		t.Errorf("since the last round: %q", got)
	}
}

// TestLosses lets the disk fail: calls go on, the losses are counted and said once.
func TestLosses(t *testing.T) {
	var log bytes.Buffer
	j := open(t, Options[entry]{Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	j.files.file.Close()
	broken := j.files.file
	j.Add(sample(1))
	if len(j.View().memory) != 1 {
		t.Error("an entry that could not be written is not in memory either")
	}
	close(j.stop)
	j.writer.Wait()
	if j.Lost() != 1 || j.files.file != broken {
		t.Errorf("lost %d", j.Lost())
	}
	if got := log.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, "lost=1") {
		t.Errorf("logged %q", got)
	}
	j.closed.Store(true)
	j.Add(sample(2))
	if j.Lost() != 2 {
		t.Error("an entry after Close is not counted")
	}
}

func TestFullQueue(t *testing.T) {
	stuck := open(t, Options[entry]{Dir: t.TempDir()})
	shut(t, stuck)
	stuck.closed.Store(false) // nobody writes
	full := cap(stuck.queue)
	for i := range full + 3 {
		stuck.Add(sample(i))
	}
	if stuck.Lost() != 3 || len(stuck.queue) != full {
		t.Errorf("lost %d", stuck.Lost())
	}
	stuck.closed.Store(true)
}

func TestConcurrent(t *testing.T) {
	const adders, each = 8, 500
	opt := Options[entry]{Dir: t.TempDir(), Ring: 2 * adders * each, Segments: 1000, SegmentBytes: 64 << 10}
	j := open(t, opt)
	var wait sync.WaitGroup
	for a := range adders {
		wait.Go(func() {
			for i := range each {
				e := sample(1000*a + i)
				j.Add(e)
				if !slices.Contains(j.View().memory, e) {
					t.Error("an entry that was just added is not there")
				}
			}
		})
	}
	for range 5 {
		keys(j.View(), "", time.Time{})
	}
	wait.Wait()
	shut(t, j)
	if j.Lost() != 0 {
		t.Errorf("lost %d", j.Lost())
	}
	v := j.View()
	v.memory = nil
	if n := len(strings.Fields(keys(v, "", time.Time{}))); n != adders*each {
		t.Errorf("%d of %d entries are in the files", n, adders*each)
	}
}

func TestOpenFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options[entry]{Dir: file, What: "entries", Ring: 2, Segments: 1, SegmentBytes: 1}); err == nil {
		t.Error("a file was opened as a folder")
	}
}

func BenchmarkAdd(b *testing.B) {
	j := open(b, Options[entry]{Dir: b.TempDir(), Ring: 16 << 10, Segments: 8, SegmentBytes: 16 << 20})
	e := sample(1)
	b.ReportAllocs()
	for b.Loop() {
		j.Add(e)
	}
	b.ReportMetric(float64(j.Lost())/float64(b.N), "lost/op")
}
