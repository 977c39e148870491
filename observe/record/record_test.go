package record

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lambent"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, opt Options) *Store {
	t.Helper()
	s, err := Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func shut(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func sample(function string, n int) *lambent.Record {
	r := &lambent.Record{
		ID: lambent.NewID(), Namespace: "default", Function: function, Revision: "r1", Trigger: "http",
		Accepted: time.Now().UTC().Truncate(time.Microsecond), Method: "GET", Path: fmt.Sprintf("/%d", n), Status: 200, BytesOut: int64(n),
	}
	r.Phases[lambent.PhaseHandler] = 1500 * time.Microsecond
	return r
}

// paths is what the records are told apart by.
func paths(records []lambent.Record) string {
	var all []string
	for _, r := range records {
		all = append(all, r.Path)
	}
	return strings.Join(all, " ")
}

func TestGetAndList(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir()})
	failed := sample("a", 0)
	failed.Error = lambent.Errorf(lambent.CodeHandlerError, "it raised")
	s.Add(failed)
	for i := 1; i < 6; i++ {
		s.Add(sample([]string{"a", "b"}[i%2], i))
	}
	got, ok := s.Get(failed.ID)
	if !ok || !reflect.DeepEqual(got, *failed) {
		t.Errorf("got %+v, %v", got, ok)
	}
	for _, c := range []struct {
		namespace, function string
		limit               int
		want                string
	}{
		{"default", "a", 10, "/4 /2 /0"},
		{"default", "b", 2, "/5 /3"},
		{"default", "", 10, "/5 /4 /3 /2 /1 /0"},
		{"", "", 1, "/5"},
		{"", "a", 0, ""},
		{"other", "a", 10, ""},
	} {
		if got := paths(s.List(c.namespace, c.function, c.limit)); got != c.want {
			t.Errorf("%+v: got %q", c, got)
		}
	}
	for _, id := range []string{"", "x", lambent.NewID(), strings.Repeat("z", 36)} {
		if _, ok := s.Get(id); ok {
			t.Errorf("there is a record of %q", id)
		}
	}
}

func TestRestart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	first, second := sample("f", 1), sample("f", 2)
	s.Add(first)
	s.Add(second)
	shut(t, s)

	s = open(t, Options{Dir: dir})
	third := sample("f", 3)
	s.Add(third)
	if got := paths(s.List("default", "f", 10)); got != "/3 /2 /1" {
		t.Errorf("got %q", got)
	}
	for _, r := range []*lambent.Record{first, second, third} {
		if got, ok := s.Get(r.ID); !ok || !reflect.DeepEqual(got, *r) {
			t.Errorf("got %+v, want %+v", got, r)
		}
	}
}

func TestTruncatedLine(t *testing.T) {
	for name, cut := range map[string]int64{"in the last line": 10, "the line end only": 1, "all": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, Options{Dir: dir})
			s.Add(sample("f", 1))
			s.Add(sample("f", 2))
			shut(t, s)
			file := files(t, dir)[0]
			info, _ := os.Stat(file)
			if err := os.Truncate(file, max(0, info.Size()-cut)); err != nil {
				t.Fatal(err)
			}
			s = open(t, Options{Dir: dir})
			s.Add(sample("f", 3))
			shut(t, s)
			s = open(t, Options{Dir: dir})
			want := "/3 /1"
			if cut > 1000 {
				want = "/3"
			}
			if got := paths(s.List("", "", 10)); got != want {
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
	opt := Options{Dir: dir, Ring: 8, Segments: 3, SegmentBytes: 1000}
	var last []*lambent.Record
	for range 4 { // a batch goes to one file whole, so restarts make the sizes certain
		s := open(t, opt)
		for i := range 4 {
			r := sample("f", i)
			last = append(last, r)
			s.Add(r)
		}
		shut(t, s)
	}
	if n := len(files(t, dir)); n > opt.Segments {
		t.Errorf("%d files", n)
	}
	s := open(t, opt)
	if _, ok := s.Get(last[0].ID); ok {
		t.Error("the oldest file was kept")
	}
	for _, r := range last[len(last)-8:] {
		if _, ok := s.Get(r.ID); !ok {
			t.Errorf("%s is gone", r.ID)
		}
	}
}

// TestLosses lets the disk fail: calls go on, the losses are counted and said once.
func TestLosses(t *testing.T) {
	var log bytes.Buffer
	s := open(t, Options{Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	s.files.file.Close()
	broken := s.files.file
	r := sample("f", 1)
	s.Add(r)
	if _, ok := s.Get(r.ID); !ok {
		t.Error("a record that could not be written is not in memory either")
	}
	close(s.stop)
	s.writer.Wait()
	if s.Lost() != 1 || s.files.file != broken {
		t.Errorf("lost %d", s.Lost())
	}
	if got := log.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, "lost=1") {
		t.Errorf("logged %q", got)
	}
	s.closed.Store(true)
	s.Add(r)
	if s.Lost() != 2 {
		t.Error("a record after Close is not counted")
	}
}

func TestFullQueue(t *testing.T) {
	s := &Store{ring: make([]atomicRecord, 8), queue: make(chan *lambent.Record, 2)} // nobody writes
	for i := range 5 {
		s.Add(sample("f", i))
	}
	if s.Lost() != 3 || len(s.queue) != 2 {
		t.Errorf("lost %d", s.Lost())
	}
}

func TestConcurrent(t *testing.T) {
	const adders, each = 8, 500
	opt := Options{Dir: t.TempDir(), Ring: 2 * adders * each, Segments: 1000, SegmentBytes: 64 << 10}
	s := open(t, opt)
	var wait sync.WaitGroup
	for a := range adders {
		wait.Go(func() {
			for i := range each {
				r := sample(fmt.Sprint("f", a), i)
				s.Add(r)
				if _, ok := s.Get(r.ID); !ok {
					t.Error("a record that was just added is not there")
				}
			}
		})
	}
	for range 20 {
		s.List("default", "f1", 100)
	}
	wait.Wait()
	shut(t, s)
	if s.Lost() != 0 {
		t.Errorf("lost %d", s.Lost())
	}
	s = open(t, opt) // the memory is empty now
	for a := range adders {
		if got := s.List("default", fmt.Sprint("f", a), each+1); len(got) != each {
			t.Errorf("f%d: %d records", a, len(got))
		}
	}
}

func TestOpenFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: file}); err == nil {
		t.Error("a file was opened as a folder")
	}
}

func BenchmarkAdd(b *testing.B) {
	s := open(b, Options{Dir: b.TempDir()})
	r := sample("f", 1)
	b.ReportAllocs()
	for b.Loop() {
		s.Add(r)
	}
	b.ReportMetric(float64(s.Lost())/float64(b.N), "lost/op")
}

func BenchmarkEncode(b *testing.B) {
	r := sample("f", 1)
	var batch batch
	b.ReportAllocs()
	for b.Loop() {
		batch.reset()
		batch.add(r)
	}
}

// BenchmarkGetMissing looks through a full ring and full files.
func BenchmarkGetMissing(b *testing.B) {
	s := open(b, Options{Dir: b.TempDir()})
	for i := range 1 << 16 {
		s.Add(sample("f", i))
		for len(s.queue) == cap(s.queue) {
			runtime.Gosched()
		}
	}
	b.Run("memory", func(b *testing.B) {
		id := lambent.NewID()
		for b.Loop() {
			for r := range s.memory {
				if r.ID == id {
					b.Fatal("found")
				}
			}
		}
	})
	b.Run("all", func(b *testing.B) {
		id := sample("f", 0).ID
		for b.Loop() {
			s.Get(id)
		}
	})
}
