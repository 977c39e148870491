package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lambent/test/measure"
)

// deploys replaces every function under load, and moves an alias to and fro. No request may fail.
func deploys(ctx context.Context, short bool) error {
	return scenario{name: "deploy", play: func(ctx context.Context, s *stage) error {
		count, moves := 30, 20
		if short {
			count, moves = 10, 6
		}
		flipped := make(chan error, 1)
		go func() {
			flipped <- s.each(ctx, moves, func(i int) error { return s.fleet.flip(ctx, 2-i%2) })
		}()
		var took []float64
		err := s.each(ctx, count, func(i int) error {
			began := time.Now()
			err := s.fleet.deploy(ctx, members[i%len(members)], 10+i)
			took = append(took, measure.MS(time.Since(began)))
			return err
		})
		s.report.Notes["deploys"] = fmt.Sprintf("%d, p50 %.0f ms; %d moves of an alias", len(took), measure.Median(took), moves)
		return errors.Join(err, <-flipped)
	}}.run(ctx, short)
}
