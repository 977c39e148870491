package system

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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

func event(kind lambent.EventKind, name, text string) lambent.SystemEvent {
	namespace, function, _ := strings.Cut(name, "/")
	return lambent.SystemEvent{Kind: kind, Namespace: namespace, Function: function, Text: text}
}

// texts is what the events are told apart by.
func texts(t testing.TB, s *Store, q Query) string {
	t.Helper()
	var all []string
	for e, err := range s.Read(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		if e.ID == "" || e.Time.IsZero() {
			t.Errorf("%+v has no id or time", e)
		}
		all = append(all, e.Text)
	}
	return strings.Join(all, " ")
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	s.Add(event(lambent.EventNodeStarted, "", "a"))
	s.Add(event(lambent.EventInstanceStarted, "ns/f", "b"))
	s.Add(event(lambent.EventInstanceStarted, "ns/g", "c"))
	shut(t, s)
	s = open(t, Options{Dir: dir})
	began := time.Now()
	old := event(lambent.EventInstanceExited, "other/f", "d")
	old.Time = began.Add(-time.Hour)
	s.Add(old)
	s.Add(event(lambent.EventInstanceStopped, "ns/f", "e"))
	s.Add(event(lambent.EventNodeStopping, "", "f"))
	check := func(when string) {
		for _, c := range []struct {
			query Query
			want  string
		}{
			{Query{Limit: 10}, "a b c d e f"},
			{Query{Limit: 2}, "e f"},
			{Query{}, ""},
			{Query{Limit: 10, Namespace: "ns"}, "b c e"},
			{Query{Limit: 10, Function: "f"}, "b d e"},
			{Query{Limit: 10, Namespace: "ns", Function: "f"}, "b e"},
			{Query{Limit: 10, Namespace: "nobody"}, ""},
			{Query{Limit: 10, Kind: lambent.EventInstanceStarted}, "b c"},
			{Query{Limit: 10, Kind: "instance"}, "b c d e"},
			{Query{Limit: 1, Kind: "node"}, "f"},
			{Query{Limit: 10, Kind: "inst"}, ""},
			{Query{Limit: 10, Since: began}, "e f"},
		} {
			if got := texts(t, s, c.query); got != c.want {
				t.Errorf("%s: %+v gives %q, want %q", when, c.query, got, c.want)
			}
		}
	}
	check("from memory and files")
	shut(t, s)
	s = open(t, Options{Dir: dir})
	check("from files")
}

func TestTornLine(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	s.Add(event(lambent.EventNodeStarted, "", "a"))
	s.Add(event(lambent.EventNodeStopping, "", "b"))
	shut(t, s)
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	info, err := os.Stat(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(files[0], info.Size()-5); err != nil {
		t.Fatal(err)
	}
	s = open(t, Options{Dir: dir})
	s.Add(event(lambent.EventNodeStarted, "", "c"))
	shut(t, s)
	if got := texts(t, open(t, Options{Dir: dir}), Query{Limit: 10}); got != "a c" {
		t.Errorf("got %q", got)
	}
}

// Who follows sees every event once, in order, however its first look falls among those that are added.
func TestFollow(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir()})
	const n = 200
	var adding sync.WaitGroup
	adding.Go(func() {
		for i := range n {
			s.Add(event(lambent.EventInstanceStarted, "ns/f", fmt.Sprint(i)))
			s.Add(event(lambent.EventInstanceStarted, "ns/g", "another's"))
		}
	})
	var following sync.WaitGroup
	for _, limit := range []int{1, 10, n, n} {
		following.Go(func() {
			next, begun := 0, limit == n
			for e, err := range s.Read(t.Context(), Query{Function: "f", Limit: limit, Follow: true}) {
				if !begun {
					next, _ = strconv.Atoi(e.Text)
					begun = true
				}
				if err != nil || e.Text != fmt.Sprint(next) {
					t.Errorf("got %q, want %d: %v", e.Text, next, err)
					return
				}
				if next++; next == n {
					return
				}
			}
			t.Errorf("it ended at %d", next)
		})
	}
	adding.Wait()
	following.Wait()
	if len(s.followers) > 0 {
		t.Errorf("%d followers are left", len(s.followers))
	}
}

func TestFollowEnds(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir(), Follow: 4})
	s.Add(event(lambent.EventNodeStarted, "", "a"))
	t.Run("with its context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for _, err := range s.Read(ctx, Query{Limit: 1, Follow: true}) {
			if err != nil {
				t.Error(err)
			}
			cancel()
		}
	})
	t.Run("when it is slow", func(t *testing.T) {
		var got []string
		var failure error
		for e, err := range s.Read(t.Context(), Query{Limit: 1, Follow: true}) {
			if failure = err; err != nil {
				break
			}
			if got = append(got, e.Text); len(got) == 1 {
				for i := range 6 {
					s.Add(event(lambent.EventNodeStarted, "", fmt.Sprint(i)))
				}
			}
		}
		if !slices.Equal(got, []string{"a", "0", "1", "2", "3"}) || !lambent.HasCode(failure, lambent.CodeQueueFull) {
			t.Errorf("got %q, then %v", got, failure)
		}
	})
	t.Run("with the store", func(t *testing.T) {
		for _, err := range s.Read(t.Context(), Query{Limit: 1, Follow: true}) {
			if err != nil {
				t.Error(err)
			}
			shut(t, s)
		}
		for range s.Read(t.Context(), Query{Follow: true}) {
			t.Error("a closed store gives events")
		}
		s.Add(event(lambent.EventNodeStarted, "", "late"))
		if s.Lost() != 1 {
			t.Error("what came after Close is not counted")
		}
	})
}
