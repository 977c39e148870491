package dispatch

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lambent"
)

// journal keeps the system events.
type journal struct {
	mu     sync.Mutex
	events []lambent.SystemEvent
}

func (j *journal) add(ev lambent.SystemEvent) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, ev)
}

// take gives what was added since, one "kind reason" a line.
func (j *journal) take() string {
	synctest.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	var lines []string
	for _, ev := range j.events {
		lines = append(lines, strings.TrimSpace(fmt.Sprint(ev.Kind, " ", ev.Reason)))
	}
	j.events = nil
	return strings.Join(lines, ", ")
}

func TestEvents(t *testing.T) {
	ready := func(t *testing.T, d *Dispatcher, rev *lambent.Revision) *fake {
		if _, err := d.Ready(t.Context(), rev); err != nil {
			t.Fatal(err)
		}
		return members(d)[0].(*fake)
	}
	all := func(*lambent.Revision) bool { return true }
	for _, c := range []struct {
		name   string
		change func(*lambent.Settings)
		handle time.Duration
		happen func(t *testing.T, d *Dispatcher, rev *lambent.Revision)
		want   string // after instance.started
	}{
		{name: "idle", want: "instance.stopped idle", happen: func(t *testing.T, d *Dispatcher, rev *lambent.Revision) {
			ready(t, d, rev)
			time.Sleep(rev.Settings.KeepAlive.D())
		}},
		{name: "retired", want: "instance.stopped retired", happen: func(t *testing.T, d *Dispatcher, rev *lambent.Revision) {
			ready(t, d, rev)
			d.Retire(rev)
		}},
		{name: "retired while it works", want: "instance.stopped retired", handle: time.Second, happen: func(t *testing.T, d *Dispatcher, rev *lambent.Revision) {
			ready(t, d, rev)
			time.AfterFunc(time.Second/2, func() { d.Retire(rev) })
			_, _ = invoke(t.Context(), d, rev)
		}},
		{name: "stale", want: "instance.stopped stale", happen: func(t *testing.T, d *Dispatcher, rev *lambent.Revision) {
			ready(t, d, rev)
			d.Refresh(all)
		}},
		{name: "stale while it works", want: "instance.stopped stale", handle: time.Second, happen: func(t *testing.T, d *Dispatcher, rev *lambent.Revision) {
			ready(t, d, rev)
			time.AfterFunc(time.Second/2, func() { d.Refresh(all) })
			_, _ = invoke(t.Context(), d, rev)
		}},
		{name: "its place is needed", want: "instance.stopped evicted, instance.started", happen: func(t *testing.T, d *Dispatcher, rev *lambent.Revision) {
			ready(t, d, rev)
			other := *rev
			other.ID = "other"
			ready(t, d, &other)
		}},
		{name: "a request is late", want: "instance.stopped cut", handle: time.Hour, happen: func(t *testing.T, d *Dispatcher, rev *lambent.Revision) {
			_, _ = invoke(t.Context(), d, rev)
		}},
		{name: "a request among others is late", want: "instance.stopped cut", handle: time.Hour, happen: func(t *testing.T, d *Dispatcher, rev *lambent.Revision) {
			_, _ = invoke(t.Context(), d, rev)
		}, change: func(s *lambent.Settings) { s.Concurrency = 2 }},
		{name: "used once", want: "instance.stopped used", happen: func(t *testing.T, d *Dispatcher, rev *lambent.Revision) {
			_, _ = invoke(t.Context(), d, rev)
		}, change: func(s *lambent.Settings) { s.Reuse = lambent.ReuseNever }},
		{name: "the node stops", want: "instance.stopped shutdown", happen: func(t *testing.T, d *Dispatcher, rev *lambent.Revision) {
			ready(t, d, rev)
			d.Close(t.Context())
		}},
		{name: "exits", want: "instance.exited", happen: func(t *testing.T, d *Dispatcher, rev *lambent.Revision) { ready(t, d, rev).die() }},
		{name: "exits while it works", want: "instance.exited", handle: time.Hour, happen: func(t *testing.T, d *Dispatcher, rev *lambent.Revision) {
			inst := ready(t, d, rev)
			time.AfterFunc(time.Second, inst.die)
			_, _ = invoke(t.Context(), d, rev)
		}},
		{name: "exits after its secret has changed", want: "instance.exited", handle: time.Hour, happen: func(t *testing.T, d *Dispatcher, rev *lambent.Revision) {
			inst := ready(t, d, rev)
			time.AfterFunc(time.Second, func() {
				d.Refresh(all)
				inst.die()
			})
			_, _ = invoke(t.Context(), d, rev)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w, j := &world{boot: time.Second}, &journal{}
				if c.handle > 0 {
					w.handle = work(c.handle)
				}
				d := open(t, w, func(o *Options) { o.Event, o.MaxInstances = j.add, 1 })
				rev := revision(t, func(s *lambent.Settings) {
					s.Timeouts.Total = lambent.Duration(time.Minute)
					if c.change != nil {
						c.change(s)
					}
				})
				c.happen(t, d, rev)
				synctest.Wait()
				j.mu.Lock()
				for _, ev := range j.events {
					started := ev.Kind == lambent.EventInstanceStarted
					if ev.ID == "" || ev.Time.IsZero() || ev.Namespace != rev.Namespace || ev.Function != rev.Function || ev.Revision == "" || ev.Instance == "" ||
						started == (ev.Text != "") || started != (ev.Phases[lambent.PhaseBoot] == w.boot) || (ev.Kind == lambent.EventInstanceExited) != (ev.Exit != nil) {
						t.Errorf("%+v", ev)
					}
				}
				j.mu.Unlock()
				if got, want := j.take(), "instance.started, "+c.want; got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			})
		})
	}
}

// The last answer of an instance that has ended comes before all of it is gone.
func TestEventOfTheDead(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w, j := &world{dying: time.Second}, &journal{}
		w.handle = func(ctx context.Context, f *fake, inv *lambent.Invocation, deadline time.Time) (*lambent.Response, error) {
			if inv.Target == "/exit" {
				return nil, lambent.Errorf(lambent.CodeInstanceExited, "died")
			}
			return work(time.Second/2)(ctx, f, inv, deadline)
		}
		d := open(t, w, func(o *Options) { o.Event = j.add })
		rev := revision(t, func(s *lambent.Settings) { s.Concurrency = 2 })
		var call sync.WaitGroup
		call.Go(func() {
			if _, err := invoke(t.Context(), d, rev); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		_, err := d.Invoke(t.Context(), &lambent.Invocation{ID: "1", Revision: rev, Accepted: time.Now(), Target: "/exit"})
		wantCode(t, err, lambent.CodeInstanceExited)
		call.Wait()
		time.Sleep(5 * w.dying)
		if got := j.take(); got != "instance.started, instance.exited" {
			t.Errorf("events %s", got)
		}
	})
}
