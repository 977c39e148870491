package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"lambent/test/measure"
)

// crashes kills the daemon again and again and starts it on the same folder. What was under way is lost, nothing
// else: no request, no instance, no acknowledged change.
func crashes(ctx context.Context, short bool) error {
	count := 6
	if short {
		count = 3
	}
	var fates fates
	return scenario{name: "crash", excuse: byCrash, play: func(ctx context.Context, s *stage) error {
		s.load.patient.Store(true)
		var first []float64
		err := s.written(ctx, func(w *writer) error {
			return s.each(ctx, count, func(int) error {
				err := fates.across(s, func() error {
					answered, err := s.crash(ctx)
					first = append(first, measure.MS(answered))
					return err
				})
				if err != nil {
					return err
				}
				return w.check(ctx)
			})
		})
		if err != nil {
			return err
		}
		s.report.Notes["restarts"] = fmt.Sprintf("%d, first answers after %.0f ms", len(first), first)
		s.report.AtMost("chaos_crash_first_answer", slices.Max(first)/1000, "s", 1)
		return nil
	}, after: func(_ context.Context, s *stage) error {
		busy := s.ledger.cut()
		fates.tell(s, func(in *sandboxed) bool {
			return in.function == "handler" && busy[in.id] // it could serve nothing else before it came to an end
		})
		return nil
	}}.run(ctx, short)
}

// crash kills the daemon and starts it again. It gives how long after that the first answer came.
func (s *stage) crash(ctx context.Context) (answered time.Duration, err error) {
	over := s.load.killing()
	err = s.daemon.Kill()
	over()
	if err != nil {
		return 0, err
	}
	at := make(chan time.Time, 1)
	go func() {
		for failed := true; failed && ctx.Err() == nil; { // a connection of before may be tried first
			id := s.load.id()
			s.ledger.send(id, "server")
			why := s.load.call(ctx, "/fn/server/work?id="+id, []byte("x"), id, nil)
			s.ledger.end(id, why)
			failed = why != nil
		}
		at <- time.Now()
	}()
	if err := s.daemon.Restart(ctx); err != nil {
		return 0, err
	}
	return (<-at).Sub(s.daemon.Started), nil
}

// byCrash excuses what was under way when the daemon was killed.
func byCrash(r *request) bool { return r.failure.crossed && r.failure.code == "" }
