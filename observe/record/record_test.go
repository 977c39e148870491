package record

import (
	"fmt"
	"reflect"
	"strings"
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

// TestRotation looks for records in a row of files, of which the oldest go.
func TestRotation(t *testing.T) {
	opt := Options{Dir: t.TempDir(), Ring: 8, Segments: 3, SegmentBytes: 1000}
	var all []*lambent.Record
	for range 4 { // a batch goes to one file whole, so restarts make the sizes certain
		s := open(t, opt)
		for i := range 4 {
			r := sample("f", i)
			all = append(all, r)
			s.Add(r)
		}
		shut(t, s)
	}
	s := open(t, opt)
	if _, ok := s.Get(all[0].ID); ok {
		t.Error("the oldest file was kept")
	}
	for _, r := range all[len(all)-8:] {
		if _, ok := s.Get(r.ID); !ok {
			t.Errorf("%s is gone", r.ID)
		}
	}
}

// BenchmarkGetMissing looks through a full ring and full files.
func BenchmarkGetMissing(b *testing.B) {
	s := open(b, Options{Dir: b.TempDir()})
	for i := range 1 << 16 {
		s.Add(sample("f", i))
		if i%4096 == 0 {
			time.Sleep(60 * time.Millisecond) // they are gathered for 50
		}
	}
	b.ReportMetric(float64(s.Lost()), "lost")
	id := sample("f", 0).ID
	for b.Loop() {
		s.Get(id)
	}
}
