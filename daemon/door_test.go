package daemon

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"lambent"
	"lambent/observe/logs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func handler(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })
}

// Requests that come while a door is held wait, and are served where it leads then; no other is disturbed.
func TestDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := watched()
		release := make(chan struct{})
		d.lead(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { <-release; fmt.Fprint(w, "old") }))
		var wg sync.WaitGroup
		ask := func(ctx context.Context, want string) {
			wg.Go(func() {
				w := httptest.NewRecorder()
				d.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "PUT", "/v1/x", nil))
				if got := w.Body.String(); !strings.Contains(got, want) || (w.Code == 200) != (ctx == t.Context()) {
					t.Errorf("got %d %q, want %q", w.Code, got, want)
				}
			})
		}
		ask(t.Context(), "old")
		synctest.Wait()
		d.hold()
		leaving, leave := context.WithCancel(t.Context())
		for range 3 {
			ask(t.Context(), "new")
		}
		ask(leaving, "nothing was done")
		synctest.Wait()
		leave()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if inside := d.idle(short); !slices.Equal(inside, []string{"PUT /v1/x"}) {
			t.Errorf("inside are %q", inside)
		}
		close(release)
		if inside := d.idle(t.Context()); inside != nil {
			t.Errorf("inside are %q", inside)
		}
		d.lead(handler("new"))
		wg.Wait()
	})
}

// What happens while another process is about to have the stores is kept for it, or for this one.
func TestPast(t *testing.T) {
	cfg := Config{Data: t.TempDir()}
	cfg.complete()
	p := newPast()
	line := func(text string) {
		p.line(lambent.LogLine{Time: time.Now(), Namespace: "default", Function: "f", Text: text})
	}
	line("before")
	if err := p.open(&cfg); err != nil {
		t.Fatal(err)
	}
	line("here")
	o := newOutbox()
	if err := p.lend(o); err != nil {
		t.Fatal(err)
	}
	failed := cfg
	failed.Data = "/dev/null"
	if err := p.open(&failed); err == nil {
		t.Fatal("opened what cannot be")
	}
	line("between")
	if err := p.lend(newOutbox()); err != nil {
		t.Fatal(err)
	}
	p.record(&lambent.Record{ID: lambent.NewID(), Namespace: "default", Function: "f"})
	if err := p.open(&cfg); err != nil {
		t.Fatal(err)
	}
	var got []string
	for l, err := range p.logs.Read(t.Context(), logs.Query{Namespace: "default", Function: "f", Tail: -1}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, l.Text)
	}
	if !slices.Equal(got, []string{"before", "here", "between"}) || len(p.records.List("default", "f", 10)) != 1 {
		t.Errorf("kept %q and %d records", got, len(p.records.List("default", "f", 10)))
	}
	if err := p.lend(newOutbox()); err != nil {
		t.Fatal(err)
	}
}

// An outbox drops what may be lost when there is too much of it, and nothing else.
func TestOutbox(t *testing.T) {
	o := newOutbox()
	for range maxOutbox/(1<<20) + 10 {
		o.put(message{Line: &lambent.LogLine{Text: string(make([]byte, 1<<20))}})
		o.put(message{Ended: &ended{Instance: "i", Invocation: "x"}})
	}
	messages, _ := o.take()
	lines, ends := 0, 0
	for _, m := range messages {
		if m.Line != nil {
			lines++
		} else {
			ends++
		}
	}
	if sent := maxOutbox/(1<<20) + 10; ends != sent || lines >= sent || lines+o.lost != sent {
		t.Errorf("%d ends and %d lines of %d each, %d lost", ends, lines, sent, o.lost)
	}
}
