package dispatch

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lambent"
	"lambent/executor"
)

// broken is a world whose starts fail with code while failing is set.
type broken struct {
	*world
	failing atomic.Bool
}

func openBroken(t *testing.T, code lambent.Code) (*broken, *Dispatcher, *journal) {
	b, j := &broken{world: &world{}}, &journal{}
	b.failing.Store(true)
	b.start = func(int64) error {
		if b.failing.Load() {
			return lambent.Errorf(code, "no such module").WithHint("install it")
		}
		return nil
	}
	return b, open(t, b.world, func(o *Options) { o.Event = j.add }), j
}

// fails makes n calls, each of which shall fail with code at once.
func fails(t *testing.T, d *Dispatcher, rev *lambent.Revision, n int, code lambent.Code) (last *lambent.Error) {
	t.Helper()
	began := time.Now()
	for i := range n {
		_, err := invoke(t.Context(), d, rev)
		if !lambent.HasCode(err, code) {
			t.Fatalf("call %d: error %v, want %s", i, err, code)
		}
		last = lambent.ErrorOf(err)
	}
	if took := time.Since(began); took > 0 {
		t.Errorf("the calls took %s", took)
	}
	return last
}

func circuitOf(d *Dispatcher, rev *lambent.Revision) (open, there bool) {
	for s := range d.Stats() {
		if s.Revision.Key() == rev.Key() {
			return s.CircuitsOpen == 1 && d.Circuit(rev) != nil, true
		}
	}
	return false, false
}

func TestCircuit(t *testing.T) {
	for _, c := range []struct {
		code   lambent.Code
		fault  lambent.Fault
		starts int64 // for each attempt
	}{
		{lambent.CodeStartFailed, lambent.FaultFunction, 1},
		{lambent.CodeMemoryExceeded, lambent.FaultLimit, 1},
		{lambent.CodeSandboxFailed, lambent.FaultPlatform, 2},
	} {
		t.Run(string(c.code), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				b, d, j := openBroken(t, c.code)
				rev := revision(t, nil)
				fails(t, d, rev, tolerated+1, c.code)
				e := fails(t, d, rev, 3, lambent.CodeCircuitOpen)
				if e.Fault != c.fault || !strings.Contains(e.Message, "no such module") || e.Hint != "install it" || e.RetryAfter < openBackoff || e.RetryAfter > 2*openBackoff || e.Status() != 503 {
					t.Errorf("%+v", e)
				}
				if got := j.take(); strings.Count(got, "start.failed "+string(c.code)) != tolerated+1 || strings.Count(got, "circuit.opened "+string(c.code)) != 1 {
					t.Errorf("events %s", got)
				}
				// Each probe that fails doubles the time to the next, up to a minute.
				b.boot = time.Millisecond
				for _, least := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
					least *= time.Second
					e := refused(t, d, rev)
					if e.RetryAfter < least-time.Second || e.RetryAfter > least+least/4 {
						t.Errorf("again after %s, want %s and a quarter at most", e.RetryAfter, least)
					}
					time.Sleep(e.RetryAfter)
					before := b.started.Load()
					var probes, others atomic.Int64
					var calls sync.WaitGroup
					for range 20 {
						calls.Go(func() {
							_, err := invoke(t.Context(), d, rev)
							switch {
							case lambent.HasCode(err, c.code):
								probes.Add(1)
							case lambent.HasCode(err, lambent.CodeCircuitOpen):
								others.Add(1)
							}
						})
					}
					calls.Wait()
					if n := b.started.Load() - before; n != c.starts || probes.Load() != 1 || others.Load() != 19 {
						t.Fatalf("%d starts for %d probes, %d others", n, probes.Load(), others.Load())
					}
				}
				j.take()
				b.failing.Store(false)
				time.Sleep(2 * maxBackoff)
				for range 3 {
					if _, err := invoke(t.Context(), d, rev); err != nil {
						t.Fatal(err)
					}
				}
				if got := j.take(); got != "circuit.closed, instance.started" {
					t.Errorf("events %s", got)
				}
			})
		})
	}
}

func refused(t *testing.T, d *Dispatcher, rev *lambent.Revision) *lambent.Error {
	t.Helper()
	_, err := invoke(t.Context(), d, rev)
	if !lambent.HasCode(err, lambent.CodeCircuitOpen) {
		t.Fatalf("error %v", err)
	}
	return lambent.ErrorOf(err)
}

// What one burst of callers started counts as one attempt, once the circuit is open.
func TestBurstOpensTheCircuitOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b, d, j := openBroken(t, lambent.CodeStartFailed)
		b.boot = time.Second
		rev := revision(t, nil)
		var calls sync.WaitGroup
		for range 50 {
			calls.Go(func() {
				_, err := invoke(t.Context(), d, rev)
				wantCode(t, err, lambent.CodeStartFailed) // nobody who caused a start is spared the reason
			})
		}
		calls.Wait()
		if e := refused(t, d, rev); e.RetryAfter > 2*openBackoff || b.started.Load() != 50 {
			t.Errorf("again after %s, %d starts", e.RetryAfter, b.started.Load())
		}
		if got := j.take(); strings.Count(got, "circuit.opened") != 1 {
			t.Errorf("events %s", got)
		}
	})
}

func TestCircuitClosesFor(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, b *broken, d *Dispatcher, rev *lambent.Revision)
		there  bool // the pool, afterwards
	}{
		{"a deploy", func(t *testing.T, b *broken, d *Dispatcher, rev *lambent.Revision) {
			_, err := d.Ready(t.Context(), rev)
			wantCode(t, err, lambent.CodeStartFailed) // that is tried, too
			b.failing.Store(false)
			if _, err := d.Ready(t.Context(), rev); err != nil {
				t.Error(err)
			}
		}, true},
		{"a new secret", func(_ *testing.T, _ *broken, d *Dispatcher, _ *lambent.Revision) {
			d.Refresh(func(*lambent.Revision) bool { return true })
		}, false},
		{"another revision", func(_ *testing.T, _ *broken, d *Dispatcher, rev *lambent.Revision) { d.Retire(rev) }, false},
		{"silence", func(*testing.T, *broken, *Dispatcher, *lambent.Revision) { time.Sleep(remembered) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				b, d, j := openBroken(t, lambent.CodeStartFailed)
				rev := revision(t, nil)
				fails(t, d, rev, tolerated+1, lambent.CodeStartFailed)
				if open, _ := circuitOf(d, rev); !open {
					t.Error("not open")
				}
				j.take()
				began := time.Now()
				c.change(t, b, d, rev)
				synctest.Wait()
				if took := time.Since(began); took > remembered {
					t.Errorf("took %s", took)
				}
				if open, there := circuitOf(d, rev); open || there != c.there {
					t.Errorf("open %v, there %v", open, there)
				}
				if got := j.take(); !strings.Contains(got, "circuit.closed") {
					t.Errorf("events %s", got)
				}
				b.failing.Store(false)
				if _, err := invoke(t.Context(), d, rev); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A full node is no failure of a revision.
func TestCircuitStaysClosedOnAFullNode(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{handle: work(time.Hour)}
		d := open(t, w, func(o *Options) { o.MaxInstances = 1 })
		long := revision(t, func(s *lambent.Settings) { s.Timeouts.Total = lambent.Duration(2 * time.Hour) })
		other := *long
		other.ID = "other"
		var call sync.WaitGroup
		call.Go(func() { _, _ = invoke(t.Context(), d, long) })
		synctest.Wait()
		for range 2 * tolerated {
			_, err := invoke(t.Context(), d, &other)
			wantCode(t, err, lambent.CodeQueueTimeout)
		}
		call.Wait()
	})
}

// What serves goes on to serve while the circuit is open; those that wait for it are refused when it is gone.
func TestOpenCircuitServes(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b, d, _ := openBroken(t, lambent.CodeStartFailed)
		b.handle = work(10 * time.Second)
		b.failing.Store(false)
		rev := revision(t, nil)
		if _, err := d.Ready(t.Context(), rev); err != nil {
			t.Fatal(err)
		}
		b.failing.Store(true)
		var served, refused atomic.Int64
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() {
				switch _, err := invoke(t.Context(), d, rev); {
				case err == nil:
					served.Add(1)
				case lambent.HasCode(err, lambent.CodeCircuitOpen):
					refused.Add(1)
				}
			})
		}
		time.Sleep(15 * time.Second) // the first is served
		if open, _ := circuitOf(d, rev); !open || served.Load() != 1 {
			t.Errorf("open %v, %d served", open, served.Load())
		}
		if n := b.started.Load(); n > 10 {
			t.Errorf("%d starts", n)
		}
		for _, inst := range members(d) {
			inst.(*fake).die()
		}
		calls.Wait()
		if served.Load() != 1 || refused.Load() != 2 { // and one died with it
			t.Errorf("%d served, %d refused", served.Load(), refused.Load())
		}
	})
}

// Those that came after the last attempt failed get the next one, though nothing else happens.
func TestOpenCircuitTriesAgainForThoseWhoWait(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b, d, _ := openBroken(t, lambent.CodeStartFailed)
		b.handle = work(time.Hour)
		b.failing.Store(false)
		rev := revision(t, func(s *lambent.Settings) {
			s.Timeouts.Total, s.Timeouts.Queue = lambent.Duration(2*time.Hour), lambent.Duration(2*time.Second)
		})
		var calls sync.WaitGroup
		call := func(code lambent.Code) {
			calls.Go(func() {
				if _, err := invoke(t.Context(), d, rev); code != "" || err != nil {
					wantCode(t, err, code)
				}
			})
		}
		call("")
		synctest.Wait()
		b.failing.Store(true)
		call(lambent.CodeQueueTimeout)
		time.Sleep(3 * time.Second)
		if open, _ := circuitOf(d, rev); !open {
			t.Error("not open")
		}
		b.failing.Store(false)
		call("")
		calls.Wait()
	})
}

// doomed is an executor whose instances die by themselves a while after they are ready.
type doomed struct {
	*world
	after atomic.Int64 // nanoseconds; 0: they live
}

func (w *doomed) Start(ctx context.Context, spec executor.Spec) (executor.Instance, error) {
	inst, err := w.world.Start(ctx, spec)
	if after := time.Duration(w.after.Load()); err == nil && after > 0 {
		time.AfterFunc(after, inst.(*fake).die)
	}
	return inst, err
}

func TestCrashLoop(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w, j := &doomed{world: &world{handle: work(5 * time.Second)}}, &journal{}
		d := open(t, w.world, func(o *Options) {
			o.Event = j.add
			o.Executors = map[string]executor.Executor{lambent.TierProcess: w}
		})
		rev := revision(t, nil)
		w.after.Store(int64(time.Second))
		for range tolerated + 1 {
			_, err := invoke(t.Context(), d, rev)
			wantCode(t, err, lambent.CodeInstanceExited)
			synctest.Wait()
		}
		e := refused(t, d, rev)
		if !strings.Contains(e.Message, "exited with code 0") || e.Fault != lambent.FaultFunction {
			t.Errorf("%+v", e)
		}
		// A probe meets no request before it has shown that it lives.
		time.Sleep(e.RetryAfter)
		_, err := invoke(t.Context(), d, rev)
		wantCode(t, err, lambent.CodeInstanceExited)
		if e := refused(t, d, rev); e.RetryAfter < 2*openBackoff {
			t.Errorf("again after %s", e.RetryAfter)
		}
		w.after.Store(0)
		time.Sleep(3 * openBackoff)
		began := time.Now()
		if _, err := invoke(t.Context(), d, rev); err != nil || time.Since(began) != infancy+5*time.Second {
			t.Errorf("error %v after %s", err, time.Since(began))
		}
		if open, _ := circuitOf(d, rev); open {
			t.Error("still open")
		}
	})
}

// A deploy that only sees it become ready changes nothing about that.
func TestCrashLoopOfDeploys(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{}
		d := open(t, w, nil)
		rev := revision(t, nil)
		for range tolerated + 1 {
			if _, err := d.Ready(t.Context(), rev); err != nil {
				t.Fatal(err)
			}
			members(d)[0].(*fake).die()
			synctest.Wait()
		}
		refused(t, d, rev)
	})
}

// Requests that kill what serves them open the circuit for a second or three, not for minutes: the instances
// themselves are well.
func TestRequestsThatKill(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{}
		w.handle = func(_ context.Context, f *fake, inv *lambent.Invocation, _ time.Time) (*lambent.Response, error) {
			if inv.Target != "/poison" {
				return answer(), nil
			}
			f.die()
			return nil, lambent.Errorf(lambent.CodeInstanceExited, "died")
		}
		d := open(t, w, nil)
		rev := revision(t, nil)
		poison := func() error {
			_, err := d.Invoke(t.Context(), &lambent.Invocation{ID: "p", Revision: rev, Accepted: time.Now(), Target: "/poison"})
			synctest.Wait()
			return err
		}
		for range 3 { // an answer in between shows that it works
			for range tolerated {
				wantCode(t, poison(), lambent.CodeInstanceExited)
			}
			if _, err := invoke(t.Context(), d, rev); err != nil {
				t.Fatal(err)
			}
		}
		for range 10 {
			for range tolerated + 2 { // the first one's instance had answered before
				_ = poison()
			}
			e := refused(t, d, rev)
			if e.RetryAfter > 2*openBackoff {
				t.Fatalf("again after %s", e.RetryAfter)
			}
			time.Sleep(e.RetryAfter)
			if _, err := invoke(t.Context(), d, rev); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// An instance that dies after it has lived for a while, or answered, or was evicted or adopted, has been started well.
func TestDeathsThatAreNoFailedStarts(t *testing.T) {
	for _, c := range []struct {
		name string
		live func(t *testing.T, e estate, d *Dispatcher, rev *lambent.Revision)
	}{
		{"after its infancy", func(t *testing.T, _ estate, d *Dispatcher, rev *lambent.Revision) {
			if _, err := d.Ready(t.Context(), rev); err != nil {
				t.Error(err)
			}
			time.Sleep(infancy)
		}},
		{"after an answer", func(t *testing.T, _ estate, d *Dispatcher, rev *lambent.Revision) {
			if _, err := invoke(t.Context(), d, rev); err != nil {
				t.Error(err)
			}
		}},
		{"evicted", func(t *testing.T, _ estate, d *Dispatcher, rev *lambent.Revision) {
			if _, err := d.Ready(t.Context(), rev); err != nil {
				t.Error(err)
			}
			for _, inst := range members(d) {
				inst.(*heir).exit.Evicted = true
			}
		}},
		{"adopted", func(t *testing.T, e estate, d *Dispatcher, rev *lambent.Revision) {
			if err := d.Adopt(rev, e.adopted(lambent.NewID()), nil); err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				e, d, _ := openEstate(t, &world{})
				rev := revision(t, nil)
				for range 2 * tolerated {
					c.live(t, e, d, rev)
					for _, inst := range members(d) {
						inst.(*heir).die()
					}
					synctest.Wait()
				}
				if _, there := circuitOf(d, rev); there {
					t.Error("something is remembered")
				}
			})
		})
	}
}

// TestWhatTheClientHasToMend has a revision that can never be started: everybody is told so, and nothing is tried again later.
func TestWhatTheClientHasToMend(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b, d, j := openBroken(t, lambent.CodeModuleUnsupported)
		rev := revision(t, nil)
		fails(t, d, rev, 3*tolerated, lambent.CodeModuleUnsupported)
		if open, _ := circuitOf(d, rev); open || b.started.Load() != 3*tolerated {
			t.Errorf("after %d starts the circuit is open: %v", b.started.Load(), open)
		}
		if got := j.take(); strings.Contains(got, "circuit.opened") {
			t.Errorf("events %s", got)
		}
	})
}
