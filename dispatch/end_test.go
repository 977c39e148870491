package dispatch

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"lambent"
	"lambent/executor"
)

// patients is a world whose instances take the whole of their grace.
type patients struct{ *world }

func (p patients) Start(ctx context.Context, spec executor.Spec) (executor.Instance, error) {
	inst, err := p.world.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	return patient{inst.(*fake)}, nil
}

type patient struct{ *fake }

func (p patient) Stop(grace time.Duration) {
	select {
	case <-time.After(grace):
	case <-p.done:
	}
	p.die()
}

func TestHurry(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{}
		d := open(t, w, func(o *Options) {
			o.Executors = map[string]executor.Executor{lambent.TierProcess: patients{w}}
			o.StopGrace = 10 * time.Second
		})
		if _, err := invoke(t.Context(), d, revision(t, nil)); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		time.AfterFunc(time.Second, d.Hurry)
		d.Close(t.Context())
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// A door that ends an answer where its protocol allows that, while it reads: nobody has failed.
func TestEndedByTheDoor(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r, _ := io.Pipe()
		w := &world{handle: func(context.Context, *fake, *lambent.Invocation, time.Time) (*lambent.Response, error) {
			return &lambent.Response{Status: 200, ContentLength: -1, Body: r}, nil
		}}
		d := open(t, w, nil)
		inv := &lambent.Invocation{ID: "x", Revision: revision(t, nil), Accepted: time.Now()}
		resp, err := d.Invoke(t.Context(), inv)
		if err != nil {
			t.Fatal(err)
		}
		read := make(chan error)
		go func() {
			_, err := resp.Body.Read(make([]byte, 1))
			read <- err
		}()
		synctest.Wait()
		inv.Outcome.Ended = true
		if err := resp.Body.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-read; err == nil {
			t.Error("the read did not end")
		}
		if inv.Outcome.Err != nil || w.alive.Load() != 1 {
			t.Errorf("%d alive, outcome %+v", w.alive.Load(), inv.Outcome)
		}
	})
}
