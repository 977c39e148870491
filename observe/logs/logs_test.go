package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
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

func line(function, text string) lambent.LogLine {
	return lambent.LogLine{
		Time: time.Now(), Namespace: "default", Function: function, Revision: "r", Instance: "i", Stream: "stdout", Text: text,
	}
}

// texts reads what matches q and does not follow.
func texts(t testing.TB, s *Store, q Query) []string {
	t.Helper()
	q.Namespace = "default"
	var all []string
	for l, err := range s.Read(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l.Text)
	}
	return all
}

func check(t *testing.T, got []string, want string) {
	t.Helper()
	if joined := strings.Join(got, " "); joined != want {
		t.Errorf("got %q, want %q", joined, want)
	}
}

func TestReadWhatWasAdded(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	full := line("f", "a <line> with \u2028 and \"quotes\"")
	full.Time = full.Time.UTC().Truncate(0)
	full.InFlight = []string{"x", "y"}
	s.Add(full)
	for got, err := range s.Read(t.Context(), Query{Namespace: "default", Function: "f", Tail: -1}) {
		if err != nil || !reflect.DeepEqual(got, full) {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	check(t, texts(t, s, Query{Function: "silent", Tail: -1}), "")
	if _, err := os.Stat(filepath.Join(dir, "default", "silent")); err == nil {
		t.Error("a function that wrote nothing has files")
	}
}

func TestQuery(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir()})
	start := time.Now()
	for i := range 6 {
		l := line("f", fmt.Sprint(i))
		l.Time = start.Add(time.Duration(i) * time.Second)
		switch i {
		case 1, 4:
			l.Invocation = "inv-1"
		case 2:
			l.Text += "-inv-1" // the text does not count
		case 3:
			l.InFlight = []string{"inv-0", "inv-1"}
		}
		s.Add(l)
	}
	for _, c := range []struct {
		query Query
		want  string
	}{
		{Query{Tail: -1}, "0 1 2-inv-1 3 4 5"},
		{Query{Tail: 100}, "0 1 2-inv-1 3 4 5"},
		{Query{Tail: 2}, "4 5"},
		{Query{Tail: 0}, ""},
		{Query{Tail: -1, Invocation: "inv-1"}, "1 3 4"},
		{Query{Tail: 2, Invocation: "inv-1"}, "3 4"},
		{Query{Tail: -1, Since: start.Add(3 * time.Second)}, "3 4 5"},
		{Query{Tail: 1, Since: start.Add(time.Hour)}, ""},
	} {
		c.query.Function = "f"
		check(t, texts(t, s, c.query), c.want)
	}
}

func TestNames(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir()})
	for _, n := range []name{{"..", "f"}, {"default", "../f"}, {"", "f"}, {"default", "a/b"}} {
		for _, err := range s.Read(t.Context(), Query{Namespace: n.namespace, Function: n.function}) {
			if !lambent.HasCode(err, lambent.CodeInvalidRequest) {
				t.Errorf("read of %v: %v", n, err)
			}
		}
		if err := s.Remove(n.namespace, n.function); !lambent.HasCode(err, lambent.CodeInvalidRequest) {
			t.Errorf("removal of %v: %v", n, err)
		}
	}
}

func TestRestart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	s.Add(line("f", "1"))
	s.Add(line("f", "2"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s.Add(line("f", "late"))
	if s.Lost() != 1 {
		t.Error("a line after Close is not counted")
	}
	for _, err := range s.Read(t.Context(), Query{Namespace: "default", Function: "f"}) {
		if !errors.Is(err, errClosed) {
			t.Errorf("reading a closed store: %v", err)
		}
	}
	file := filepath.Join(dir, "default", "f", "00000001.jsonl")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, info.Size()-5); err != nil { // as a crash in the middle of a write leaves it
		t.Fatal(err)
	}
	s = open(t, Options{Dir: dir})
	check(t, texts(t, s, Query{Function: "f", Tail: -1}), "1")
	s.Add(line("f", "3"))
	check(t, texts(t, s, Query{Function: "f", Tail: -1}), "1 3")
}

func TestRotation(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, FileBytes: 2000})
	const count = 200
	for i := range count {
		s.Add(line("f", fmt.Sprintf("%03d", i)))
		texts(t, s, Query{Function: "f"}) // so that each is a batch of its own
	}
	got := texts(t, s, Query{Function: "f", Tail: -1})
	if len(got) < 10 || len(got) > 50 || got[len(got)-1] != "199" {
		t.Errorf("%d lines are kept: %v", len(got), got)
	}
	for i, text := range got {
		if want := fmt.Sprintf("%03d", count-len(got)+i); text != want {
			t.Fatalf("got %s, want %s", text, want)
		}
	}
	numbers, err := s.files(name{"default", "f"})
	if err != nil || len(numbers) != 2 {
		t.Errorf("files %v, %v", numbers, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, Options{Dir: dir, FileBytes: 2000})
	check(t, texts(t, s, Query{Function: "f", Tail: -1}), strings.Join(got, " "))
}

// TestFollow has readers begin at any time while lines are written and files rotate: each sees a row without
// gap or repetition up to the last line.
func TestFollow(t *testing.T) {
	const count, readers = 3000, 8
	s := open(t, Options{Dir: t.TempDir(), FileBytes: 64 << 10, Pending: 64 << 20})
	var reading, begun sync.WaitGroup
	for r := range readers {
		begun.Add(1)
		reading.Go(func() {
			next := -1
			for l, err := range s.Read(t.Context(), Query{Namespace: "default", Function: "f", Tail: 1 + 5*r, Follow: true}) {
				if err != nil {
					t.Error(err)
					return
				}
				if next < 0 {
					begun.Done()
				}
				var i int
				fmt.Sscan(l.Text, &i)
				if next >= 0 && i != next {
					t.Errorf("reader %d: got %d, want %d", r, i, next)
					return
				}
				next = i + 1
				if next == count {
					return
				}
			}
			t.Errorf("reader %d: ended at %d", r, next)
		})
	}
	for i := range count {
		s.Add(line("f", fmt.Sprint(i)))
		if i == 100 {
			begun.Wait() // the rest is written under the eyes of all
		}
		if i%200 == 199 {
			texts(t, s, Query{Function: "f"}) // lets the writer keep up
		}
	}
	reading.Wait()
}

// TestSlowReader is told what it missed.
func TestSlowReader(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir(), FileBytes: 1000})
	add := func(from, to int) {
		for i := from; i < to; i++ {
			s.Add(line("f", fmt.Sprint(i)))
			texts(t, s, Query{Function: "f"})
		}
	}
	add(0, 1)
	var got []string
	for l, err := range s.Read(t.Context(), Query{Namespace: "default", Function: "f", Tail: -1, Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			add(1, 100)
		}
		got = append(got, l.Text)
		if l.Stream == StreamLambent && !strings.Contains(l.Text, "lines are missing here") {
			t.Errorf("got %q", l.Text)
		}
		if l.Text == "99" {
			break
		}
	}
	notices := 0
	for i, text := range got {
		if strings.Contains(text, "missing") {
			notices++
			if got[i-1] == "98" || got[i+1] == "1" {
				t.Errorf("nothing is missing at %d of %v", i, got)
			}
		}
	}
	if notices != 1 {
		t.Errorf("%d notices in %v", notices, got)
	}
}

func TestFollowEnds(t *testing.T) {
	for name, end := range map[string]func(s *Store, cancel func()){
		"context": func(_ *Store, cancel func()) { cancel() },
		"close":   func(s *Store, _ func()) { s.Close() },
		"remove":  func(s *Store, _ func()) { _ = s.Remove("default", "f") },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, Options{Dir: t.TempDir()})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s.Add(line("f", "1"))
			ended := make(chan struct{})
			var ending sync.WaitGroup
			go func() {
				defer close(ended)
				for _, err := range s.Read(ctx, Query{Namespace: "default", Function: "f", Tail: 1, Follow: true}) {
					if err != nil {
						t.Error(err)
					}
					ending.Go(func() { end(s, cancel) })
				}
			}()
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Error("the reader goes on")
			}
			ending.Wait()
		})
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	for i := range 3 {
		s.Add(line("f", "old"))
		s.Add(line("g", "kept"))
		if i > 0 {
			texts(t, s, Query{Function: "f"}) // with an open file, and with lines that wait
		}
		if err := s.Remove("default", "f"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "default", "f")); err == nil {
			t.Error("files are left")
		}
		if _, ok := s.journals.Load(name{"default", "f"}); ok {
			t.Error("memory is left")
		}
		check(t, texts(t, s, Query{Function: "f", Tail: -1}), "")
	}
	s.Add(line("f", "new"))
	check(t, texts(t, s, Query{Function: "f", Tail: -1}), "new")
	check(t, texts(t, s, Query{Function: "g", Tail: -1}), "kept kept kept")
	if err := s.Remove("default", "never-was"); err != nil {
		t.Error(err)
	}
	s.Add(lambent.LogLine{Namespace: "team", Function: "h", Text: "x"})
	for _, err := range s.Read(t.Context(), Query{Namespace: "team", Function: "h"}) { // waits for the writer
		t.Error(err)
	}
	names := func() (all []string) {
		for namespace, function := range s.Names() {
			all = append(all, namespace+"/"+function)
		}
		return all
	}
	if got := names(); !slices.Equal(got, []string{"default/f", "default/g", "team/h"}) {
		t.Errorf("names %q", got)
	}
	if err := s.Remove("team", "h"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "team")); err == nil || len(names()) != 2 {
		t.Error("the folder of a namespace without functions is left")
	}
	s.Close()
	if err := s.Remove("default", "f"); err == nil {
		t.Error("removed from a closed store")
	}
}

// TestConcurrentRemove adds while the function is removed again and again: nothing breaks, and what is
// added last is there.
func TestConcurrentRemove(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir()})
	var adding sync.WaitGroup
	for range 2 {
		adding.Go(func() {
			for i := range 500 {
				s.Add(line("f", fmt.Sprint(i)))
			}
		})
	}
	for range 50 {
		if err := s.Remove("default", "f"); err != nil && !strings.Contains(err.Error(), "could not be removed") {
			t.Error(err) // lines that came after the removal make the folder anew
		}
	}
	adding.Wait()
	s.Add(line("f", "last"))
	check(t, texts(t, s, Query{Function: "f", Tail: 1}), "last")
}

// TestDiskFails puts a file where the function's folder should be: lines are lost, counted and said.
func TestDiskFails(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	s := open(t, Options{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	obstacle := filepath.Join(dir, "default")
	if err := os.WriteFile(obstacle, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	settle := func() { // until what was added is written or lost; reading fails as long as the disk does
		for range s.Read(t.Context(), Query{Namespace: "default", Function: "f"}) {
		}
	}
	for range 3 {
		s.Add(line("f", "lost"))
		settle()
	}
	if s.Lost() != 3 {
		t.Errorf("lost %d", s.Lost())
	}
	if err := os.Remove(obstacle); err != nil {
		t.Fatal(err)
	}
	s.Add(line("f", "kept"))
	got := texts(t, s, Query{Function: "f", Tail: -1})
	if len(got) != 2 || !strings.HasPrefix(got[0], "3 lines are missing here") || got[1] != "kept" {
		t.Errorf("got %q", got)
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
		t.Errorf("logged %d times: %s", n, log.String())
	}
}

// TestTooFast fills a function's buffer while nobody writes; another function's lines are not touched.
func TestTooFast(t *testing.T) {
	s, err := newStore(Options{Dir: t.TempDir(), Pending: 10 * 300})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 25 {
		s.Add(line("f", fmt.Sprintf("%044d", i)))
	}
	s.Add(line("g", "kept"))
	s.writer.Go(s.write)
	check(t, texts(t, s, Query{Function: "g", Tail: -1}), "kept")
	got := texts(t, s, Query{Function: "f", Tail: -1})
	if s.Lost() != 15 || len(got) != 11 || !strings.HasPrefix(got[10], "15 lines are missing here") {
		t.Errorf("lost %d, read %q", s.Lost(), got)
	}
}

func TestOpenFilesAreBounded(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir(), OpenFiles: 3})
	for round := range 3 {
		for f := range 10 {
			s.Add(line(fmt.Sprint("f", f), fmt.Sprint(round)))
		}
		for f := range 10 {
			texts(t, s, Query{Function: fmt.Sprint("f", f)})
		}
	}
	for f := range 10 {
		check(t, texts(t, s, Query{Function: fmt.Sprint("f", f), Tail: -1}), "0 1 2")
	}
	s.Close()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if target, _ := os.Readlink(fd); strings.HasPrefix(target, s.opt.Dir) {
			t.Errorf("%s is still open", target)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	s := open(b, Options{Dir: b.TempDir()})
	l := line("f", strings.Repeat("x", 80))
	b.ReportAllocs()
	for b.Loop() {
		s.Add(l)
	}
	b.ReportMetric(float64(s.Lost())/float64(b.N), "lost/op")
}
