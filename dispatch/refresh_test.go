package dispatch

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lambent"
	"lambent/executor"
)

// vault is an executor whose instances know the secret that they were started with.
type vault struct {
	*world
	value atomic.Int64
	mu    sync.Mutex
	with  map[string]int64 // by instance
}

func (v *vault) Start(ctx context.Context, spec executor.Spec) (executor.Instance, error) {
	if spec.Secrets == nil {
		return v.world.Start(ctx, spec)
	}
	n, err := strconv.ParseInt(spec.Secrets["TOKEN"], 10, 64)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	v.with[spec.ID] = n
	v.mu.Unlock()
	return v.world.Start(ctx, spec)
}

func (v *vault) of(instance string) int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.with[instance]
}

func openVault(t *testing.T, w *world) (*vault, *Dispatcher, *lambent.Revision) {
	v := &vault{world: w, with: map[string]int64{}}
	d := open(t, w, func(o *Options) {
		o.Executors = map[string]executor.Executor{lambent.TierProcess: v}
		o.Secrets = func(_ context.Context, r *lambent.Revision) (map[string]string, error) {
			if r.Settings.Secrets["TOKEN"] != "token" {
				return nil, errors.New("asked for another secret")
			}
			return map[string]string{"TOKEN": strconv.FormatInt(v.value.Load(), 10)}, nil
		}
	})
	return v, d, revision(t, func(s *lambent.Settings) { s.Secrets = map[string]string{"TOKEN": "token"} })
}

func usesToken(r *lambent.Revision) bool { return r.Settings.Secrets["TOKEN"] == "token" }

// A secret changes under load: a request that is sent afterwards meets an instance with the new value, whatever was
// idle, busy or starting then, and none fails.
func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, d, rev := openVault(t, &world{boot: 150 * time.Millisecond, handle: work(100 * time.Millisecond)})
		var wg sync.WaitGroup
		var changed atomic.Int64 // what a request that is sent now must at least meet
		for client := range 8 {
			wg.Go(func() {
				for range 100 {
					least := changed.Load()
					inv, err := invoke(t.Context(), d, rev)
					if err != nil {
						t.Error(err)
					} else if got := v.of(inv.Outcome.Instance); got < least {
						t.Errorf("a request sent after change %d met %d", least, got)
					}
					time.Sleep(time.Duration(client) * 37 * time.Millisecond)
				}
			})
		}
		for range 40 {
			time.Sleep(333 * time.Millisecond)
			n := v.value.Add(1)
			d.Refresh(usesToken)
			changed.Store(n)
		}
		wg.Wait()
		time.Sleep(time.Second)
		if n := v.alive.Load(); n > 8 {
			t.Errorf("%d instances are alive: old ones do not end", n)
		}
	})
}

// An old value that does not even start does not fail those who come after its change.
func TestRefreshMendsAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{boot: time.Second}
		v, d, rev := openVault(t, w)
		w.start = func(int64) error {
			if v.value.Load() == 1 && v.started.Load() == 1 {
				return lambent.Errorf(lambent.CodeStartFailed, "the old value")
			}
			return nil
		}
		v.value.Store(0)
		first := make(chan error, 1)
		go func() {
			_, err := invoke(t.Context(), d, rev)
			first <- err
		}()
		time.Sleep(500 * time.Millisecond)
		v.value.Store(1)
		d.Refresh(usesToken)
		inv, err := invoke(t.Context(), d, rev)
		if err != nil || v.of(inv.Outcome.Instance) != 1 {
			t.Errorf("after the change: %v", err)
		}
		if err := <-first; err != nil {
			t.Errorf("who waited across the change: %v", err)
		}
	})
}

// Others keep their instances, and a busy one may finish what it does, however long it takes.
func TestRefreshLetsFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, d, rev := openVault(t, &world{handle: work(time.Hour)})
		long := *rev
		long.Settings.Timeouts.Total = lambent.Duration(2 * time.Hour)
		other := revision(t, nil)
		if _, err := d.Ready(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := invoke(t.Context(), d, &long)
			done <- err
		}()
		time.Sleep(time.Second)
		d.Refresh(usesToken)
		if n := v.alive.Load(); n != 2 {
			t.Errorf("%d instances are alive", n)
		}
		if _, err := d.Ready(t.Context(), &long); err != nil { // the busy one does not count
			t.Error(err)
		}
		if n := v.started.Load(); n != 3 {
			t.Errorf("%d starts", n)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// What an old instance still does keeps nobody from learning that no new one starts, nor from trying again.
func TestRefreshToWhatDoesNotStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, d, rev := openVault(t, &world{handle: work(time.Hour)})
		v.start = func(int64) error {
			if v.value.Load() == 1 {
				return lambent.Errorf(lambent.CodeStartFailed, "a bad value")
			}
			return nil
		}
		rev.Settings.Timeouts.Total = lambent.Duration(2 * time.Hour)
		done := make(chan error, 1)
		go func() {
			_, err := invoke(t.Context(), d, rev)
			done <- err
		}()
		synctest.Wait()
		v.value.Store(1)
		d.Refresh(usesToken)
		began := time.Now()
		for range 3 {
			_, err := invoke(t.Context(), d, rev)
			wantCode(t, err, lambent.CodeStartFailed)
		}
		v.value.Store(2)
		d.Refresh(usesToken)
		if _, err := d.Ready(t.Context(), rev); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("held up for %s", took)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
