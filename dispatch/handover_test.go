package dispatch

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lambent"
	"lambent/executor"
)

// heir is an instance that can be given to another process and was adopted by one.
type heir struct {
	*fake
	mu  sync.Mutex
	log []string
}

func (h *heir) Leave() { h.note("leave") }
func (h *heir) Kill() {
	h.note("kill")
	h.die()
}
func (h *heir) Ended(invocation string) { h.note("ended " + invocation) }

func (h *heir) note(s string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.log = append(h.log, s)
}

func (h *heir) noted() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.log, ", ")
}

// estate is a world of heirs.
type estate struct{ *world }

func (e estate) Start(ctx context.Context, spec executor.Spec) (executor.Instance, error) {
	inst, err := e.world.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &heir{fake: inst.(*fake)}, nil
}

func (e estate) adopted(id string) *heir {
	e.alive.Add(1)
	return &heir{fake: &fake{w: e.world, id: id, done: make(chan struct{})}}
}

func openEstate(t *testing.T, w *world) (estate, *Dispatcher, *journal) {
	e, j := estate{w}, &journal{}
	d := open(t, w, func(o *Options) {
		o.Executors = map[string]executor.Executor{lambent.TierProcess: e}
		o.Event = j.add
	})
	return e, d, j
}

func TestAdopt(t *testing.T) {
	t.Run("idle", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			e, d, j := openEstate(t, &world{})
			rev := revision(t, nil)
			h := e.adopted("a")
			if err := d.Adopt(rev, h, nil); err != nil {
				t.Fatal(err)
			}
			inv, err := invoke(t.Context(), d, rev)
			if err != nil || inv.Outcome.Instance != "a" || inv.Outcome.Cold || e.started.Load() != 0 {
				t.Errorf("error %v, outcome %+v, %d starts", err, inv.Outcome, e.started.Load())
			}
			time.Sleep(rev.Settings.KeepAlive.D() + time.Second)
			synctest.Wait()
			if got := j.take(); got != "instance.adopted, instance.stopped idle" || e.alive.Load() != 0 {
				t.Errorf("events %s", got)
			}
		})
	})
	for _, c := range []struct {
		name        string
		concurrency int
		end         func(d *Dispatcher)
		serves      string // the instance of the next request
		log, events string // what the instance was told, and what became of it
	}{
		{"the process before ends its requests", 2, func(d *Dispatcher) { d.Ended("a", "2", false); d.Ended("a", "1", false) },
			"a", "ended 2, ended 1", ""},
		{"a request that it was not told of", 1, func(d *Dispatcher) { d.Ended("a", "3", true); d.Ended("b", "1", true); d.Ended("a", "1", false) },
			"a", "ended 1", ""},
		{"broken", 1, func(d *Dispatcher) { d.Ended("a", "1", true) }, "", "ended 1", "instance.stopped cut"},
		{"broken among others", 2, func(d *Dispatcher) { d.Ended("a", "1", true); d.Ended("a", "2", false) },
			"", "ended 1, ended 2", "instance.stopped cut"},
		{"the process before is gone", 2, (*Dispatcher).EndedAll, "a", "ended 1, ended 2", ""},
		{"the process before is gone from its only slot", 1, (*Dispatcher).EndedAll, "", "ended 1", "instance.stopped cut"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				e, d, j := openEstate(t, &world{})
				rev := revision(t, func(s *lambent.Settings) { s.Concurrency, s.MaxInstances = c.concurrency, 1 })
				h := e.adopted("a")
				if err := d.Adopt(rev, h, []string{"1", "2"}[:c.concurrency]); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := invoke(ctx, d, rev); err == nil {
					t.Error("a slot was free")
				}
				j.take()
				c.end(d)
				synctest.Wait()
				for id := range d.shared.Range {
					t.Errorf("%s is remembered", id)
				}
				if got := j.take(); got != c.events || h.noted() != c.log {
					t.Errorf("events %q, the instance was told %q", got, h.noted())
				}
				inv, err := invoke(t.Context(), d, rev)
				if want := c.serves; err != nil || want != "" && inv.Outcome.Instance != want || want == "" && e.started.Load() != 1 {
					t.Errorf("error %v, served by %s", err, inv.Outcome.Instance)
				}
			})
		})
	}
	t.Run("closed", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			e, d, _ := openEstate(t, &world{})
			d.Close(t.Context())
			h := e.adopted("a")
			wantCode(t, d.Adopt(revision(t, nil), h, nil), lambent.CodeShuttingDown)
			h.die()
		})
	})
	t.Run("dies", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			e, d, j := openEstate(t, &world{})
			h := e.adopted("a")
			if err := d.Adopt(revision(t, nil), h, []string{"1"}); err != nil {
				t.Fatal(err)
			}
			h.die()
			synctest.Wait()
			d.Ended("a", "1", true)
			if got := j.take(); got != "instance.adopted, instance.exited" {
				t.Errorf("events %s", got)
			}
		})
	})
}

// gifts keeps what Handover gave and told.
type gifts struct {
	mu    sync.Mutex
	given map[string][]string // invocations by instance
	ended []string
	insts []executor.Instance
}

func (g *gifts) give(inst executor.Instance, _ *lambent.Revision, inFlight []string) {
	inst.(executor.Leaver).Leave()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.given[inst.ID()] = inFlight
	g.insts = append(g.insts, inst)
}

func (g *gifts) end(instance, invocation string, broken bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Contains(g.given[instance], invocation) {
		invocation = "unknown"
	}
	g.ended = append(g.ended, fmt.Sprint(invocation, " ", broken))
}

func (g *gifts) took() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	slices.Sort(g.ended)
	return strings.Join(g.ended, ", ")
}

func TestHandover(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*lambent.Settings)
		calls  []string      // invocations under way, for ten seconds each
		total  time.Duration // of each, if not 0
		given  int           // instances given
		ended  string
		stops  int64 // instances that this process ends by itself
	}{
		{name: "idle", given: 1},
		{name: "busy", calls: []string{"1", "2"}, given: 2, ended: "1 false, 2 false"},
		{name: "in one instance", change: func(s *lambent.Settings) { s.Concurrency = 2 }, calls: []string{"1", "2"}, given: 1, ended: "1 false, 2 false"},
		{name: "late", calls: []string{"1"}, total: 3 * time.Second, given: 1, ended: "1 true", stops: 1},
		{name: "late among others", change: func(s *lambent.Settings) { s.Concurrency = 2 }, calls: []string{"1"}, total: 3 * time.Second, given: 1, ended: "1 true"},
		{name: "used once", change: func(s *lambent.Settings) { s.Reuse = lambent.ReuseNever }, calls: []string{"1"}, stops: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				e, d, _ := openEstate(t, &world{handle: work(10 * time.Second)})
				rev := revision(t, func(s *lambent.Settings) {
					if c.change != nil {
						c.change(s)
					}
					if c.total != 0 {
						s.Timeouts.Total = lambent.Duration(c.total)
					}
				})
				if len(c.calls) == 0 {
					if _, err := d.Ready(t.Context(), rev); err != nil {
						t.Fatal(err)
					}
				}
				var calls sync.WaitGroup
				for _, id := range c.calls {
					calls.Go(func() {
						inv := &lambent.Invocation{ID: id, Revision: rev, Accepted: time.Now()}
						resp, err := d.Invoke(t.Context(), inv)
						if c.total != 0 {
							wantCode(t, err, lambent.CodeTotalTimeout)
							if alive := e.alive.Load(); rev.Settings.Concurrency == 1 && alive != 0 {
								t.Error("the instance lives on after the 504")
							}
							return
						}
						if err != nil {
							t.Error(err)
							return
						}
						_, _ = io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
					})
				}
				time.Sleep(time.Second)
				alive := e.alive.Load()
				g := &gifts{given: map[string][]string{}}
				began := time.Now()
				d.Handover(t.Context(), g.give, g.end)
				if len(g.given) != c.given || time.Since(began) > 0 || g.took() != "" {
					t.Errorf("given %v after %s, ended %s", g.given, time.Since(began), g.took())
				}
				calls.Wait()
				if got := g.took(); got != c.ended {
					t.Errorf("ended %q, want %q", got, c.ended)
				}
				synctest.Wait()
				for s := range d.Stats() {
					t.Errorf("left: %+v", s)
				}
				d.Close(t.Context())
				if n := alive - e.alive.Load(); n != c.stops {
					t.Errorf("%d instances were ended", n)
				}
				for _, inst := range g.insts {
					inst.(*heir).die()
				}
				synctest.Wait()
			})
		})
	}
}

// A pool keeps its instances while callers wait or one starts.
func TestHandoverWaits(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		e, d, _ := openEstate(t, &world{boot: time.Second, handle: work(2 * time.Second)})
		rev := revision(t, func(s *lambent.Settings) { s.MaxInstances = 1 })
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() {
				if _, err := invoke(t.Context(), d, rev); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(time.Second / 2)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		g := &gifts{given: map[string][]string{}}
		d.Handover(short, g.give, g.end)
		if len(g.given) != 0 || short.Err() == nil {
			t.Errorf("given %v, %v", g.given, short.Err())
		}
		d.Handover(t.Context(), g.give, g.end)
		if n := e.started.Load(); len(g.given) != 1 || n != 1 {
			t.Errorf("given %v of %d", g.given, n)
		}
		calls.Wait()
		if got := g.took(); !strings.HasSuffix(got, "false") || strings.Contains(got, ",") {
			t.Errorf("ended %q", got)
		}
		g.insts[0].(*heir).die()
	})
}

// Nobody adopts what is for one use, and may have been used.
func TestHandoverForOneUse(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		e, d, _ := openEstate(t, &world{})
		if _, err := d.Ready(t.Context(), revision(t, func(s *lambent.Settings) { s.Reuse = lambent.ReuseNever })); err != nil {
			t.Fatal(err)
		}
		g := &gifts{given: map[string][]string{}}
		d.Handover(t.Context(), g.give, g.end)
		if len(g.given) > 0 {
			t.Errorf("given %v", g.given)
		}
		d.Close(t.Context())
		if n := e.alive.Load(); n != 0 {
			t.Errorf("%d instances live on", n)
		}
	})
}

// The process that has it sees itself that an instance has died: it is not broken by an invocation.
func TestHandoverOfTheDying(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		_, d, _ := openEstate(t, &world{handle: work(time.Minute)})
		rev := revision(t, nil)
		var calls sync.WaitGroup
		calls.Go(func() {
			_, _ = d.Invoke(t.Context(), &lambent.Invocation{ID: "1", Revision: rev, Accepted: time.Now()})
		})
		synctest.Wait()
		g := &gifts{given: map[string][]string{}}
		d.Handover(t.Context(), g.give, g.end)
		g.insts[0].(*heir).die()
		calls.Wait()
		if got := g.took(); got != "1 false" {
			t.Errorf("ended %q", got)
		}
	})
}

// Whoever is told of an end has been told of the invocation before.
func TestHandoverTellsInOrder(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		e, d, _ := openEstate(t, &world{handle: work(time.Second)})
		rev := revision(t, nil)
		var calls sync.WaitGroup
		calls.Go(func() { _, _ = invoke(t.Context(), d, rev) })
		synctest.Wait()
		g := &gifts{given: map[string][]string{}}
		d.Handover(t.Context(), func(inst executor.Instance, rev *lambent.Revision, inFlight []string) {
			time.Sleep(5 * time.Second)
			g.give(inst, rev, inFlight)
		}, g.end)
		calls.Wait()
		if got := g.took(); !strings.HasSuffix(got, " false") || strings.Contains(got, "unknown") {
			t.Errorf("ended %q", got)
		}
		g.insts[0].(*heir).die()
		_ = e
	})
}

func TestDrain(t *testing.T) {
	const drain = 10 * time.Second
	stream := func(d *Dispatcher, rev *lambent.Revision) *lambent.Response {
		resp, err := d.Invoke(context.Background(), &lambent.Invocation{ID: "1", Revision: rev, Accepted: time.Now()})
		if err != nil {
			panic(err)
		}
		return resp
	}
	closed := func(resp *lambent.Response) bool {
		synctest.Wait()
		select {
		case <-resp.Drain:
			return true
		default:
			return false
		}
	}
	for _, c := range []struct {
		name  string
		drain time.Duration // of the revision; 0 in those that are older than the setting
		begin func(d *Dispatcher, rev *lambent.Revision)
		after time.Duration // Drain is closed; 0: never
	}{
		{"in use", drain, func(*Dispatcher, *lambent.Revision) {}, 0},
		{"retired", drain, (*Dispatcher).Retire, drain},
		{"retired without the setting", 0, (*Dispatcher).Retire, lambent.DefaultDrain.D()},
		{"retired twice", drain, func(d *Dispatcher, rev *lambent.Revision) {
			d.Retire(rev)
			time.Sleep(drain / 2)
			d.Retire(rev)
		}, drain / 2},
		{"in use again", drain, func(d *Dispatcher, rev *lambent.Revision) {
			d.Retire(rev)
			time.Sleep(drain / 2)
			if _, err := d.Ready(context.Background(), rev); err != nil {
				panic(err)
			}
		}, 0},
		{"the node stops", drain, func(d *Dispatcher, _ *lambent.Revision) { d.BeginDrain(time.Hour) }, drain},
		{"the node stops soon", drain, func(d *Dispatcher, _ *lambent.Revision) { d.BeginDrain(time.Second) }, time.Second},
		{"in use again while the node stops", drain, func(d *Dispatcher, rev *lambent.Revision) {
			d.BeginDrain(time.Second)
			d.Retire(rev)
			_, _ = d.Ready(context.Background(), rev)
		}, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				d := open(t, &world{}, nil)
				rev := revision(t, func(s *lambent.Settings) { s.Concurrency = 2; s.Timeouts.Drain = lambent.Duration(c.drain) })
				rev.Settings.Timeouts.Drain = lambent.Duration(c.drain)
				resp := stream(d, rev)
				defer resp.Body.Close()
				c.begin(d, rev)
				if c.after == 0 {
					time.Sleep(time.Hour)
					if closed(resp) {
						t.Error("closed")
					}
					return
				}
				time.Sleep(c.after - time.Millisecond)
				if closed(resp) {
					t.Error("closed early")
				}
				time.Sleep(time.Millisecond)
				if !closed(resp) {
					t.Error("not closed")
				}
			})
		})
	}
	t.Run("comes back after it was over", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			d := open(t, &world{}, nil)
			rev := revision(t, func(s *lambent.Settings) { s.Concurrency = 2 })
			old := stream(d, rev)
			defer old.Body.Close()
			d.Retire(rev)
			time.Sleep(time.Hour)
			if _, err := d.Ready(t.Context(), rev); err != nil {
				t.Fatal(err)
			}
			resp := stream(d, rev)
			defer resp.Body.Close()
			if !closed(old) || closed(resp) {
				t.Errorf("closed: the old %v, the new %v", closed(old), closed(resp))
			}
		})
	})
	t.Run("a revision that is called while the node stops", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			d := open(t, &world{}, nil)
			d.BeginDrain(time.Second)
			resp := stream(d, revision(t, nil))
			defer resp.Body.Close()
			time.Sleep(time.Second)
			if !closed(resp) {
				t.Error("not closed")
			}
		})
	})
}
