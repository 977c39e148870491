package process

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"lambent"
	"lambent/executor"
)

// written makes a logger, writes text to its stdout and gives the lines.
func written(t *testing.T, concurrency int, texts ...string) []string {
	t.Helper()
	var mu sync.Mutex
	var lines []string
	l := newLogger(executor.Spec{
		Revision: &lambent.Revision{Settings: lambent.Settings{Concurrency: concurrency}},
		Log: func(line lambent.LogLine) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, line.Text)
		},
	})
	w, err := l.pipe("stdout")
	if err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	l.start(&readers)
	for _, text := range texts {
		if _, err := w.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	readers.Wait()
	l.close()
	return lines
}

func TestLines(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, c := range []struct {
		name  string
		texts []string
		want  []string
	}{
		{"nothing", nil, nil},
		{"lines", []string{"a\nb\n\nc\n"}, []string{"a", "b", "", "c"}},
		{"no end", []string{"a\nb"}, []string{"a", "b"}},
		{"in pieces", []string{"a", "b", "c\nd", "\n"}, []string{"abc", "d"}},
		{"just fits", []string{long + "\n"}, []string{long}},
		{"too long", []string{long + long + "y\n"}, []string{long, long, "y"}},
		{"split before a character", []string{long[1:] + "é\n"}, []string{long[1:], "é"}},
		{"not UTF-8", []string{"a\xffb\n"}, []string{"a\uFFFDb"}},
		{"long and not UTF-8", []string{strings.Repeat("\x80", maxLine+1) + "\n"}, []string{"\uFFFD", "\uFFFD"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := written(t, 2, c.texts...)
			if strings.Join(got, "|") != strings.Join(c.want, "|") {
				t.Errorf("%d lines %.200q, want %d lines %.200q", len(got), got, len(c.want), c.want)
			}
		})
	}
}

// With several requests at a time a line names all that it may belong to: those in flight and those that
// ended before the pipe was seen empty, and nobody else for ever.
func TestInFlight(t *testing.T) {
	lines := make(chan lambent.LogLine, 1000)
	l := newLogger(executor.Spec{
		Revision: &lambent.Revision{Settings: lambent.Settings{Concurrency: 10}},
		Log:      func(line lambent.LogLine) { lines <- line },
	})
	w, err := l.pipe("stdout")
	if err != nil {
		t.Fatal(err)
	}
	call := func(id string) *lambent.Invocation { return &lambent.Invocation{ID: id} }
	l.begin(call("a"))
	l.begin(call("b"))
	if _, err := w.WriteString("by a or b\n"); err != nil {
		t.Fatal(err)
	}
	l.end(call("a"))
	l.begin(call("c"))
	var readers sync.WaitGroup
	l.start(&readers)
	got := <-lines
	slices.Sort(got.InFlight)
	if !slices.Equal(got.InFlight, []string{"a", "b", "c"}) || got.Invocation != "" {
		t.Errorf("the first line names %v", got.InFlight)
	}
	for i := range 10 * maxEnded { // silent ones, of which many come and go
		id := call(strconv.Itoa(i))
		l.begin(id)
		l.end(id)
	}
	l.mu.Lock()
	if n := len(l.pipes[0].ended); n >= maxEnded {
		t.Errorf("%d ended invocations are remembered", n)
	}
	l.mu.Unlock()
	l.drain()
	if _, err := w.WriteString("by b or c\n"); err != nil {
		t.Fatal(err)
	}
	got = <-lines
	slices.Sort(got.InFlight)
	if !slices.Equal(got.InFlight, []string{"b", "c"}) {
		t.Errorf("the second line names %v", got.InFlight)
	}
	w.Close()
	readers.Wait()
	l.close()
}

func TestLastLines(t *testing.T) {
	l := newLogger(executor.Spec{Revision: &lambent.Revision{}, Log: func(lambent.LogLine) {}})
	for i := range 50 {
		l.platform(strings.Repeat("x", i))
	}
	lines := strings.Split(l.lastLines(), "\n")
	if len(lines) != tailLines || len(lines[0]) != 30 || len(lines[tailLines-1]) != 49 {
		t.Errorf("the last lines are %q", lines)
	}
}

// BenchmarkBorder is what a request pays for honest log lines when nothing was written.
func BenchmarkBorder(b *testing.B) {
	l := newLogger(executor.Spec{Revision: &lambent.Revision{Settings: lambent.Settings{Concurrency: 1}}})
	for _, stream := range []string{"stdout", "stderr"} {
		w, err := l.pipe(stream)
		if err != nil {
			b.Fatal(err)
		}
		defer w.Close()
	}
	defer l.close()
	inv := &lambent.Invocation{ID: "id"}
	for b.Loop() {
		l.begin(inv)
		l.end(inv)
	}
}
