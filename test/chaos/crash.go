package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
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
	var gone []*sandboxed
	var anew int
	return scenario{name: "crash", excuse: byCrash, play: func(ctx context.Context, s *stage) error {
		s.load.patient.Store(true)
		w, err := newWriter(ctx, s.daemon.Client)
		if err != nil {
			return err
		}
		writing, stop := context.WithTimeout(ctx, s.length)
		defer stop()
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			w.run(writing)
		}()
		var first []float64
		var missing []string
		err = s.each(ctx, count, func(int) error {
			before := s.instances.list()
			answered, err := s.crash(ctx)
			if err != nil {
				return err
			}
			first = append(first, measure.MS(answered))
			lost, err := w.missing(ctx)
			missing = append(missing, lost...)
			time.Sleep(time.Second) // for what the new process does not want to end
			after := s.instances.list()
			gone = append(gone, ended(before, after)...)
			anew += len(ended(after, before))
			return err
		})
		<-stopped
		if err != nil {
			return err
		}
		lost, err := w.missing(ctx)
		missing = append(missing, lost...)
		s.report.Notes["restarts"] = fmt.Sprintf("%d, first answers after %.0f ms", len(first), first)
		s.report.Notes["writer"] = fmt.Sprintf("%d acknowledged, %d of an unknown fate", w.acked, len(w.unclear))
		for i, what := range missing[:min(maxExamples, len(missing))] {
			s.report.Notes["missing "+strconv.Itoa(i+1)] = what
		}
		s.none("writes_missing", len(missing))
		s.report.AtMost("chaos_crash_first_answer", slices.Max(first)/1000, "s", 1)
		return errors.Join(err, w.remove(ctx))
	}, after: func(_ context.Context, s *stage) error {
		busy := s.ledger.cut()
		s.report.Notes["instances"] = fmt.Sprintf("%d ended with the daemon, %d were started anew", len(gone), anew)
		s.none("instances_lost", len(slices.DeleteFunc(gone, func(in *sandboxed) bool {
			return in.function == "handler" && busy[in.id] // it could serve nothing else before it came to an end
		})))
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
