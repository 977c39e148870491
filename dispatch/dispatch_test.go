package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lambent"
	"lambent/executor"
)

func TestColdThenWarm(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{boot: 10 * time.Millisecond}
		d := open(t, w, nil)
		rev := revision(t, nil)
		cold, err := invoke(t.Context(), d, rev)
		if err != nil {
			t.Fatal(err)
		}
		if !cold.Outcome.Cold || cold.Outcome.Phases[lambent.PhaseBoot] != w.boot || cold.Outcome.Phases[lambent.PhaseQueue] != 0 {
			t.Errorf("cold outcome %+v", cold.Outcome)
		}
		warm, err := invoke(t.Context(), d, rev)
		if err != nil {
			t.Fatal(err)
		}
		if o := warm.Outcome; o.Cold || o.Phases.Total() != 0 || o.Instance != cold.Outcome.Instance || o.Status != 200 {
			t.Errorf("warm outcome %+v", o)
		}
	})
}

func TestBurstStartsWhatConcurrencyNeeds(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{boot: 20 * time.Millisecond, handle: work(time.Second)}
		d := open(t, w, nil)
		rev := revision(t, func(s *lambent.Settings) { s.Concurrency = 10 })
		var failed atomic.Int64
		var wg sync.WaitGroup
		for range 500 {
			wg.Go(func() {
				if _, err := invoke(t.Context(), d, rev); err != nil {
					failed.Add(1)
				}
			})
		}
		wg.Wait()
		if failed.Load() != 0 || w.started.Load() != 50 {
			t.Errorf("%d failed, %d instances started, want 0 and 50", failed.Load(), w.started.Load())
		}
	})
}

func TestMaxInstancesAndSlots(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var inFlight, most atomic.Int64
		w := &world{boot: time.Millisecond}
		w.handle = func(ctx context.Context, f *fake, inv *lambent.Invocation, dl time.Time) (*lambent.Response, error) {
			n := inFlight.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			defer inFlight.Add(-1)
			return work(50*time.Millisecond)(ctx, f, inv, dl)
		}
		d := open(t, w, nil)
		rev := revision(t, func(s *lambent.Settings) { s.MaxInstances, s.Concurrency = 3, 2 })
		var wg sync.WaitGroup
		for range 60 {
			wg.Go(func() {
				if _, err := invoke(t.Context(), d, rev); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if most.Load() != 6 || w.peak.Load() != 3 {
			t.Errorf("%d at a time in %d instances, want 6 in 3", most.Load(), w.peak.Load())
		}
	})
}

func TestKeepAliveScalesToZero(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{handle: work(10 * time.Millisecond)}
		d := open(t, w, nil)
		rev := revision(t, func(s *lambent.Settings) { s.KeepAlive = lambent.Duration(time.Minute) })
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() { _, _ = invoke(t.Context(), d, rev) })
		}
		wg.Wait()
		if n := w.alive.Load(); n != 5 {
			t.Fatalf("%d instances, want 5", n)
		}
		// One caller at a time keeps the most recently used instance only; the surplus idles out.
		for range 4 {
			time.Sleep(20 * time.Second)
			if _, err := invoke(t.Context(), d, rev); err != nil {
				t.Fatal(err)
			}
		}
		if n := w.alive.Load(); n != 1 {
			t.Errorf("%d instances in use by one caller, want 1", n)
		}
		time.Sleep(time.Minute + time.Millisecond)
		synctest.Wait()
		if n := w.alive.Load(); n != 0 {
			t.Errorf("%d instances after the keep-alive time, want 0", n)
		}
		for s := range d.Stats() {
			t.Errorf("the pool is still there: %+v", s)
		}
	})
}

func TestQueueLimitsAndTimeout(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{handle: work(10 * time.Second)}
		d := open(t, w, nil)
		rev := revision(t, func(s *lambent.Settings) {
			s.MaxInstances, s.Queue, s.Timeouts.Queue = 1, 2, lambent.Duration(time.Second)
		})
		var wg sync.WaitGroup
		call := func(code lambent.Code) {
			wg.Go(func() {
				inv, err := invoke(t.Context(), d, rev)
				if code == "" && err != nil {
					t.Error(err)
				} else if code != "" {
					wantCode(t, err, code)
					if inv.Outcome.Err == nil || inv.Outcome.Err.Invocation != inv.ID {
						t.Errorf("outcome %+v", inv.Outcome)
					}
				}
			})
			synctest.Wait()
		}
		call("")
		call(lambent.CodeQueueTimeout)
		call(lambent.CodeQueueTimeout)
		call(lambent.CodeQueueFull)
		wg.Wait()
	})
}

func TestCallerLeavesTheQueue(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{boot: time.Second}
		d := open(t, w, nil)
		rev := revision(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { time.Sleep(100 * time.Millisecond); cancel() }()
		_, err := invoke(ctx, d, rev)
		wantCode(t, err, lambent.CodeClientClosed)
		// The start goes on without its caller and serves the next one.
		time.Sleep(500 * time.Millisecond)
		inv, err := invoke(t.Context(), d, rev)
		if err != nil || w.started.Load() != 1 {
			t.Fatalf("err %v, %d starts, want the first one's", err, w.started.Load())
		}
		if q := inv.Outcome.Phases[lambent.PhaseQueue]; q != 0 || !inv.Outcome.Cold {
			t.Errorf("queue %s, cold %v", q, inv.Outcome.Cold)
		}
	})
}

func TestDeadlineKillsBeforeTheAnswerAtConcurrencyOne(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{handle: work(time.Hour)}
		d := open(t, w, nil)
		rev := revision(t, func(s *lambent.Settings) { s.Timeouts.Total = lambent.Duration(time.Second) })
		_, err := invoke(t.Context(), d, rev)
		wantCode(t, err, lambent.CodeTotalTimeout)
		if n := w.alive.Load(); n != 0 {
			t.Errorf("%d instances live on after the 504", n)
		}
	})
}

// TestInstanceOutlivesItsSandboxes has a request fail of which the instance is done for certain: it serves the next.
func TestInstanceOutlivesItsSandboxes(t *testing.T) {
	for _, code := range []lambent.Code{lambent.CodeTotalTimeout, lambent.CodeFirstByteTimeout, lambent.CodeMemoryExceeded, lambent.CodeHandlerError} {
		for _, concurrency := range []int{1, 10} {
			inBubble(t, func(t *testing.T) {
				w := &world{handle: func(_ context.Context, _ *fake, inv *lambent.Invocation, _ time.Time) (*lambent.Response, error) {
					if inv.Target == "/body" {
						return &lambent.Response{Status: 200, Body: io.NopCloser(failing{lambent.Errorf(code, "in its body")})}, nil
					}
					return nil, lambent.Errorf(code, "over")
				}}
				d := open(t, w, nil)
				rev := revision(t, func(s *lambent.Settings) { s.Concurrency = concurrency })
				for range 3 {
					_, err := invoke(t.Context(), d, rev)
					wantCode(t, err, code)
					resp, err := d.Invoke(t.Context(), &lambent.Invocation{ID: "x", Revision: rev, Accepted: time.Now(), Target: "/body"})
					if err != nil {
						t.Fatal(err)
					}
					_, err = io.ReadAll(resp.Body)
					wantCode(t, err, code)
					resp.Body.Close()
				}
				if n := w.started.Load(); n != 1 {
					t.Errorf("%s with %d at a time: %d instances were started, want 1", code, concurrency, n)
				}
			})
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestDeadlineSparesNeighbours(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{}
		w.handle = func(ctx context.Context, f *fake, inv *lambent.Invocation, dl time.Time) (*lambent.Response, error) {
			if inv.Target == "/slow" {
				return work(time.Hour)(ctx, f, inv, dl)
			}
			return work(1500*time.Millisecond)(ctx, f, inv, dl)
		}
		d := open(t, w, nil)
		rev := revision(t, func(s *lambent.Settings) {
			s.Concurrency, s.Timeouts.Total = 10, lambent.Duration(2*time.Second)
		})
		var wg sync.WaitGroup
		wg.Go(func() {
			inv := &lambent.Invocation{ID: "slow", Revision: rev, Accepted: time.Now(), Target: "/slow"}
			_, err := d.Invoke(t.Context(), inv)
			wantCode(t, err, lambent.CodeTotalTimeout)
		})
		time.Sleep(time.Second)
		wg.Go(func() {
			if _, err := invoke(t.Context(), d, rev); err != nil {
				t.Errorf("the neighbour failed: %v", err)
			}
		})
		time.Sleep(1200 * time.Millisecond) // past the slow one's deadline: its instance drains
		if _, err := invoke(t.Context(), d, rev); err != nil || w.started.Load() != 2 {
			t.Errorf("err %v, %d starts: want a new instance for new work", err, w.started.Load())
		}
		wg.Wait()
		synctest.Wait()
		if n := w.alive.Load(); n != 1 {
			t.Errorf("%d instances, want the drained one gone", n)
		}
	})
}

func TestFailedStart(t *testing.T) {
	for _, c := range []struct {
		name   string
		code   lambent.Code
		starts int64
	}{
		{"function's fault is not tried again", lambent.CodeStartFailed, 1},
		{"platform's fault is tried once more", lambent.CodeSandboxFailed, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := &world{boot: time.Millisecond, start: func(int64) error { return lambent.Errorf(c.code, "no") }}
				d := open(t, w, nil)
				rev := revision(t, func(s *lambent.Settings) { s.Concurrency = 5 })
				var wg sync.WaitGroup
				for range 5 {
					wg.Go(func() {
						inv, err := invoke(t.Context(), d, rev)
						wantCode(t, err, c.code)
						if inv.Outcome.Err.Invocation != inv.ID {
							t.Errorf("invocation %q in the error of %q", inv.Outcome.Err.Invocation, inv.ID)
						}
					})
				}
				wg.Wait()
				if n := w.started.Load(); n != c.starts {
					t.Errorf("%d starts, want %d", n, c.starts)
				}
			})
		})
	}
}

func TestFailingStartsBackOffWhileOthersServe(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{boot: time.Millisecond, handle: work(10 * time.Millisecond)}
		w.start = func(n int64) error {
			if n > 1 {
				return lambent.Errorf(lambent.CodeStartFailed, "no more")
			}
			return nil
		}
		d := open(t, w, nil)
		rev := revision(t, nil)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if _, err := invoke(t.Context(), d, rev); err != nil {
					t.Error(err)
				}
			})
			time.Sleep(time.Millisecond)
		}
		wg.Wait()
		if n := w.started.Load(); n > 10 {
			t.Errorf("%d starts in a second of failures", n)
		}
	})
}

func TestNotSentGoesToAnotherInstance(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{}
		w.handle = func(_ context.Context, f *fake, _ *lambent.Invocation, _ time.Time) (*lambent.Response, error) {
			if w.started.Load() == 1 {
				f.die()
				return nil, lambent.Errorf(lambent.CodeInstanceExited, "died: %w", executor.ErrNotSent)
			}
			return answer(), nil
		}
		d := open(t, w, nil)
		if _, err := invoke(t.Context(), d, revision(t, nil)); err != nil || w.started.Load() != 2 {
			t.Errorf("err %v after %d starts", err, w.started.Load())
		}
	})
}

func TestReuseNever(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{}
		d := open(t, w, nil)
		rev := revision(t, func(s *lambent.Settings) { s.Reuse, s.Concurrency = lambent.ReuseNever, 10 })
		seen := map[string]bool{}
		if _, err := d.Ready(t.Context(), rev); err != nil { // the first request finds its instance
			t.Fatal(err)
		}
		for range 5 {
			inv, err := invoke(t.Context(), d, rev)
			if err != nil {
				t.Fatal(err)
			}
			seen[inv.Outcome.Instance] = true
		}
		synctest.Wait()
		if len(seen) != 5 || w.started.Load() != 5 || w.alive.Load() != 0 {
			t.Errorf("%d instances served 5 requests, %d are left", len(seen), w.alive.Load())
		}
	})
}

func TestReadyAndRetire(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{boot: 5 * time.Millisecond, handle: work(time.Second)}
		d := open(t, w, nil)
		old, next := revision(t, nil), revision(t, func(s *lambent.Settings) { s.Memory = 512 })
		phases, err := d.Ready(t.Context(), old)
		if err != nil || phases[lambent.PhaseBoot] != w.boot {
			t.Fatalf("%v, phases %v", err, phases)
		}
		if phases, err = d.Ready(t.Context(), old); err != nil || phases.Total() != 0 || w.started.Load() != 1 {
			t.Errorf("second Ready: %v, %v, %d starts", err, phases, w.started.Load())
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := invoke(t.Context(), d, old); err != nil {
				t.Errorf("in flight at the switch: %v", err)
			}
		})
		synctest.Wait()
		if _, err := d.Ready(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		d.Retire(old)
		if _, err := invoke(t.Context(), d, old); err != nil {
			t.Errorf("routed just before the switch: %v", err)
		}
		wg.Wait()
		synctest.Wait()
		if n := w.alive.Load(); n != 1 {
			t.Errorf("%d instances, want the new revision's only", n)
		}
		if _, err := d.Ready(t.Context(), old); err != nil {
			t.Errorf("back to the old one: %v", err)
		}
	})
}

func TestReadyFails(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{start: func(int64) error { return lambent.Errorf(lambent.CodeStartFailed, "no handler") }}
		_, err := open(t, w, nil).Ready(t.Context(), revision(t, nil))
		wantCode(t, err, lambent.CodeStartFailed)
	})
}

// TestFloor starts revisions that were deployed when the node was stronger, or another.
func TestFloor(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{isolation: lambent.Isolation{Level: lambent.IsolationNone, Lacks: []string{"a sandbox"}}}
		d := open(t, w, nil)
		_, err := invoke(t.Context(), d, revision(t, func(s *lambent.Settings) { s.Floor = lambent.IsolationUserns }))
		wantCode(t, err, lambent.CodeTierUnavailable)
		if w.started.Load() != 0 || !strings.Contains(err.Error(), "none, which lacks a sandbox") {
			t.Errorf("%d starts, %v", w.started.Load(), err)
		}
		if _, err = invoke(t.Context(), d, revision(t, func(s *lambent.Settings) { s.Floor = lambent.IsolationNone })); err != nil {
			t.Error(err)
		}
	})
}

func TestFullNodeEndsTheOldestIdleInstance(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{}
		d := open(t, w, func(o *Options) { o.MaxInstances = 2 })
		var revs []*lambent.Revision
		for i := range 3 {
			rev := *revision(t, nil)
			rev.Function = fmt.Sprint("f", i)
			revs = append(revs, &rev)
			if _, err := invoke(t.Context(), d, &rev); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if n := w.peak.Load(); n > 2 {
			t.Errorf("%d instances at a time, want 2", n)
		}
		if inv, err := invoke(t.Context(), d, revs[1]); err != nil || inv.Outcome.Cold {
			t.Errorf("the younger idle one was ended: %v", err)
		}
	})
}

func TestInstanceDiesIdle(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{}
		var last *fake
		w.handle = func(_ context.Context, f *fake, _ *lambent.Invocation, _ time.Time) (*lambent.Response, error) {
			last = f
			return answer(), nil
		}
		d := open(t, w, nil)
		rev := revision(t, nil)
		for want := int64(1); want <= 2; want++ {
			if _, err := invoke(t.Context(), d, rev); err != nil || w.started.Load() != want {
				t.Fatalf("err %v, %d starts, want %d", err, w.started.Load(), want)
			}
			last.die()
			synctest.Wait()
		}
	})
}

func TestCloseDrains(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{boot: 10 * time.Millisecond, handle: work(time.Second)}
		d := open(t, w, nil)
		rev := revision(t, nil)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, err := invoke(t.Context(), d, rev); err != nil {
					t.Errorf("accepted before Close: %v", err)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		d.Close(ctx)
		wg.Wait()
		_, err := invoke(t.Context(), d, rev)
		wantCode(t, err, lambent.CodeShuttingDown)
		_, err = d.Ready(t.Context(), rev)
		wantCode(t, err, lambent.CodeShuttingDown)
	})
}

func TestBodyGivenUp(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{}
		w.handle = func(context.Context, *fake, *lambent.Invocation, time.Time) (*lambent.Response, error) {
			return &lambent.Response{Status: 200, ContentLength: -1, Body: busyBody{}}, nil
		}
		d := open(t, w, nil)
		inv := &lambent.Invocation{ID: "x", Revision: revision(t, nil), Accepted: time.Now()}
		resp, err := d.Invoke(t.Context(), inv)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); !errors.Is(err, executor.ErrBusy) {
			t.Errorf("Close: %v", err)
		}
		if w.alive.Load() != 0 || inv.Outcome.Err == nil || inv.Outcome.Err.Code != lambent.CodeClientClosed {
			t.Errorf("%d alive, outcome %+v", w.alive.Load(), inv.Outcome)
		}
	})
}

// The answer breaks because its caller has left, and the function goes on: at concurrency 1 its instance ends
// before anybody else gets it.
func TestReadFailsWhileTheFunctionWorks(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{}
		w.handle = func(context.Context, *fake, *lambent.Invocation, time.Time) (*lambent.Response, error) {
			return &lambent.Response{Status: 200, ContentLength: -1, Body: leftBody{}}, nil
		}
		d := open(t, w, nil)
		inv := &lambent.Invocation{ID: "x", Revision: revision(t, nil), Accepted: time.Now()}
		resp, err := d.Invoke(t.Context(), inv)
		if err != nil {
			t.Fatal(err)
		}
		_, err = resp.Body.Read(make([]byte, 1))
		wantCode(t, err, lambent.CodeClientClosed)
		if w.alive.Load() != 0 {
			t.Error("the instance lives on")
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
	})
}

type leftBody struct{ busyBody }

func (leftBody) Read([]byte) (int, error) { return 0, lambent.Errorf(lambent.CodeClientClosed, "gone") }

// A draining instance does not keep a function from its only place.
func TestDrainingInstanceIsReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{}
		w.handle = func(ctx context.Context, f *fake, inv *lambent.Invocation, dl time.Time) (*lambent.Response, error) {
			if inv.Target == "/long" {
				return work(20*time.Second)(ctx, f, inv, time.Now().Add(time.Hour))
			}
			return work(time.Hour)(ctx, f, inv, dl)
		}
		d := open(t, w, nil)
		rev := revision(t, func(s *lambent.Settings) {
			s.Concurrency, s.MaxInstances, s.Timeouts.Total = 10, 1, lambent.Duration(time.Second)
		})
		var wg sync.WaitGroup
		wg.Go(func() {
			resp, err := d.Invoke(t.Context(), &lambent.Invocation{ID: "long", Revision: rev, Accepted: time.Now(), Target: "/long"})
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
		})
		synctest.Wait()
		_, err := invoke(t.Context(), d, rev)
		wantCode(t, err, lambent.CodeTotalTimeout)
		began := time.Now()
		_, err = invoke(t.Context(), d, rev)
		wantCode(t, err, lambent.CodeTotalTimeout) // of its own second, not of the queue
		if w.started.Load() != 2 || time.Since(began) > 2*time.Second {
			t.Errorf("%d starts, %s", w.started.Load(), time.Since(began))
		}
		wg.Wait()
	})
}

// When a start failed while another instance serves a long request, it is tried again although nobody comes.
func TestFailedStartIsTriedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{}
		w.start = func(n int64) error {
			if n == 2 {
				return lambent.Errorf(lambent.CodeStartFailed, "once")
			}
			return nil
		}
		w.handle = work(time.Second)
		d := open(t, w, nil)
		rev := revision(t, nil)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if _, err := invoke(t.Context(), d, rev); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		began := time.Now()
		wg.Wait()
		if took := time.Since(began); took > 1500*time.Millisecond || w.started.Load() != 3 {
			t.Errorf("after %s and %d starts", took, w.started.Load())
		}
	})
}

// A start that waits for a place gets that of an instance that becomes idle later.
func TestPlaceOfOneThatBecomesIdle(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{handle: work(time.Second)}
		d := open(t, w, func(o *Options) { o.MaxInstances = 1 })
		first, second := revision(t, nil), *revision(t, nil)
		second.Function = "other"
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := invoke(t.Context(), d, first); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		if _, err := invoke(t.Context(), d, &second); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

type busyBody struct{}

func (busyBody) Read([]byte) (int, error) { return 1, nil }
func (busyBody) Close() error             { return executor.ErrBusy }

// BenchmarkWarm is the hot path of queue and lease without the instance's own cost.
func BenchmarkWarm(b *testing.B) {
	w := &world{}
	d := New(Options{
		Executors: map[string]executor.Executor{lambent.TierProcess: w},
		Tree:      func(context.Context, string) (string, error) { return "/code", nil },
	})
	s, err := lambent.Settings{Runtime: "go"}.Complete()
	if err != nil {
		b.Fatal(err)
	}
	rev := lambent.NewRevision("default", "f", s, "sha256:x", "test", time.Now())
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := invoke(context.Background(), d, rev); err != nil {
				b.Error(err)
				return
			}
		}
	})
	d.Close(context.Background())
}
