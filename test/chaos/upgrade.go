package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"lambent/test/measure"
)

// upgrades has the daemon replaced by another process of itself, again and again, while a writer changes resources.
// No request and no change may fail, and the instances that are warm stay so.
func upgrades(ctx context.Context, short bool) error {
	count := 5
	if short {
		count = 3
	}
	return scenario{name: "upgrade", play: func(ctx context.Context, s *stage) error {
		var took []float64
		var fates fates
		err := s.written(ctx, func(*writer) error {
			return s.each(ctx, count, func(int) error {
				return fates.across(s, func() error {
					began := time.Now()
					wait, err := s.daemon.Upgrade(ctx)
					if err != nil {
						return err
					}
					took = append(took, measure.MS(time.Since(began)))
					if err := wait(); err != nil {
						return fmt.Errorf("the process that was replaced: %w", err)
					}
					return nil
				})
			})
		})
		if err != nil {
			return err
		}
		s.report.Notes["upgrades"] = fmt.Sprintf("%d, p50 %.0f ms until the next process served", len(took), measure.Median(took))
		fates.tell(s, func(*sandboxed) bool { return false })
		return nil
	}}.run(ctx, short)
}

// fates are what became of the instances when one process of the daemon followed another.
type fates struct {
	lost []*sandboxed // that have ended
	anew int          // that were started since
	kept []int        // that did work before and after, for each change of the process
}

// across follows the instances across f, which changes the process.
func (c *fates) across(s *stage, f func() error) error {
	before := s.instances.list()
	if err := f(); err != nil {
		return err
	}
	served := s.ledger.served()
	time.Sleep(time.Second) // for the new process to serve a while, and to end what it does not want
	kept := 0
	for id, n := range s.ledger.served() {
		if n > served[id] && slices.ContainsFunc(before, func(in *sandboxed) bool { return in.id == id }) {
			kept++
		}
	}
	after := s.instances.list()
	c.lost = append(c.lost, missing(before, after)...)
	c.anew += len(missing(after, before))
	c.kept = append(c.kept, kept)
	return nil
}

// tell puts what became of them into the report. may tells which of the lost may be.
func (c *fates) tell(s *stage, may func(*sandboxed) bool) {
	s.report.Notes["instances"] = fmt.Sprintf("%d went on to serve, %d ended, %d were started anew", c.kept, len(c.lost), c.anew)
	s.none("instances_lost", len(slices.DeleteFunc(c.lost, may)))
	s.none("instances_unused", len(slices.DeleteFunc(c.kept, func(n int) bool { return n > 0 })))
}

// missing gives the instances of a that are not in b.
func missing(a, b []*sandboxed) (out []*sandboxed) {
	for _, in := range a {
		if !slices.ContainsFunc(b, func(other *sandboxed) bool { return other.id == in.id }) {
			out = append(out, in)
		}
	}
	return out
}
