package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"lambent/test/measure"
)

// upgrades has the daemon replaced by another process of itself, again and again. No request may fail, and the
// instances that were warm stay so.
func upgrades(ctx context.Context, short bool) error {
	return scenario{name: "upgrade", play: func(ctx context.Context, s *stage) error {
		count := 5
		if short {
			count = 3
		}
		var took []float64
		cold := 0
		err := s.each(ctx, count, func(int) error {
			before := s.instances.list()
			began := time.Now()
			wait, err := s.daemon.Upgrade(ctx)
			if err != nil {
				return err
			}
			took = append(took, measure.MS(time.Since(began)))
			if err := wait(); err != nil {
				return fmt.Errorf("the process that was replaced: %w", err)
			}
			cold += len(ended(before, s.instances.list()))
			return nil
		})
		s.report.Notes["upgrades"] = fmt.Sprintf("%d, p50 %.0f ms until the next process served", len(took), measure.Median(took))
		if len(took) == 0 {
			return errors.Join(err, errors.New("there was no upgrade"))
		}
		s.none("instances_lost", cold)
		return err
	}}.run(ctx, short)
}

// ended gives the instances that were there before and are not any more.
func ended(before, after []*sandboxed) (gone []*sandboxed) {
	for _, in := range before {
		if !slices.ContainsFunc(after, func(still *sandboxed) bool { return still.id == in.id }) {
			gone = append(gone, in)
		}
	}
	return gone
}
