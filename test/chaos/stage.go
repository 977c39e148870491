package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/test/measure"
)

// stage is what a scenario plays on: a daemon of its own with the fleet, under load.
type stage struct {
	daemon    *measure.Daemon
	fleet     *fleet
	load      *load
	ledger    *ledger
	instances *instances
	report    *measure.Report
	name      string
	length    time.Duration // of the load
	short     bool
}

// rate is what the load sends in a second, all kinds together.
const rate = 300

// scenario is what happens while the load runs.
type scenario struct {
	name string
	play func(ctx context.Context, s *stage) error
	disk int64 // bytes of a disk of its own for the data folder, 0 for none
	// excuse tells whether a failed request may have failed; nil excuses none.
	excuse func(*request) bool
	// after looks at the daemon once the load is over; nil looks at nothing.
	after func(ctx context.Context, s *stage) error
}

// run plays a scenario, prints what came of it, and fails if anything was lost or left behind.
func (c scenario) run(ctx context.Context, short bool) (err error) {
	s := &stage{ledger: newLedger(), report: measure.NewReport("chaos-" + c.name), name: c.name, length: 3 * time.Minute, short: short}
	if short {
		s.length = 20 * time.Second
	}
	dir, err := os.MkdirTemp("", "lambent-chaos-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	data := filepath.Join(dir, "data")
	if c.disk > 0 {
		if err := errors.Join(os.Mkdir(data, 0o700), unix.Mount("tmpfs", data, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", c.disk))); err != nil {
			return fmt.Errorf("a disk of its own: %w", err)
		}
		defer func() { err = errors.Join(err, unix.Unmount(data, 0)) }()
	}
	if s.daemon, err = measure.Start(ctx, data); err != nil {
		return err
	}
	stopped := false
	defer func() {
		if !stopped {
			err = errors.Join(err, s.daemon.Stop())
		}
	}()
	if s.instances, err = newInstances(s.daemon.Data, s.ledger); err != nil {
		return err
	}
	go s.instances.watch(ctx)
	if s.fleet, err = newFleet(ctx, s.daemon.Client, dir); err != nil {
		return err
	}
	// What a first deploy opens for good is no leak.
	if err := s.fleet.deployAll(ctx); err != nil {
		return err
	}
	if err := s.fleet.remove(ctx); err != nil {
		return err
	}
	before, err := s.quiet(ctx, 0)
	if err != nil {
		return err
	}
	if err := s.fleet.deployAll(ctx); err != nil {
		return err
	}
	s.load = newLoad(s.daemon, s.ledger)
	if err := s.act(ctx, c); err != nil {
		return err
	}
	if err := s.fleet.remove(ctx); err != nil {
		return err
	}
	after, err := s.quiet(ctx, before.count())
	if err != nil {
		return err
	}
	if err := s.daemon.Stop(); err != nil {
		return err
	}
	stopped = true
	s.instances.readers.Wait() // their functions have ended, so the journals have
	v := s.ledger.close(c.excuse)
	s.tell(v)
	left, err := leftovers(s.daemon.Data, s.instances.name)
	if err != nil {
		return err
	}
	s.report.Row("", "", "", "", "", "")
	s.report.Row("descriptors", fmt.Sprintf("%d before", before.count()), fmt.Sprintf("%d after", after.count()), "", "", "")
	if more := after.more(before); len(more) > 0 {
		s.report.Notes["descriptors"] = fmt.Sprintf("more than before are %v", more)
	}
	s.none("leaked_fds", max(0, after.count()-before.count()))
	for _, what := range slices.Sorted(maps.Keys(left)) {
		s.none("leaked_"+what, left[what])
	}
	return s.report.Finish()
}

// act plays the scenario while the load runs.
func (s *stage) act(ctx context.Context, c scenario) error {
	began := time.Now()
	played := make(chan error, 1)
	go func() { played <- c.play(ctx, s) }()
	s.load.run(ctx, s.length)
	took := time.Since(began)
	if err := <-played; err != nil {
		return err
	}
	s.report.Notes["the load took"] = took.Round(time.Second / 10).String()
	if c.after != nil {
		return c.after(ctx, s)
	}
	return ctx.Err()
}

// each calls f n times, evenly over the load.
func (s *stage) each(ctx context.Context, n int, f func(i int) error) error {
	began := time.Now()
	for i := range n {
		select {
		case <-time.After(time.Until(began.Add(s.length * time.Duration(i+1) / time.Duration(n+1)))):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := f(i); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) none(what string, n int) { s.report.None("chaos_"+s.name+"_"+what, n) }

// tell puts a verdict into the report.
func (s *stage) tell(v *verdict) {
	s.report.Row("function", "requests", "answered", "failed as they may", "p50 ms", "p99 ms")
	for _, name := range slices.Sorted(maps.Keys(v.kinds)) {
		k := v.kinds[name]
		s.report.Row(name, strconv.Itoa(k.sent), strconv.Itoa(k.answered), strconv.Itoa(k.excused),
			measure.Figure(measure.Median(k.times)), measure.Figure(measure.Quantile(k.times, 0.99)))
	}
	s.report.Row("all", strconv.Itoa(v.sent), strconv.Itoa(v.answered), strconv.Itoa(v.excused), "", "")
	s.report.Row("done, say the functions", "", strconv.Itoa(v.done), "", "", "")
	if v.unseen > 0 {
		s.report.Row("of them seen by no function", "", "", strconv.Itoa(v.unseen), "", "")
	}
	for i, example := range v.examples {
		s.report.Notes[fmt.Sprintf("wrong %d", i+1)] = example
	}
	s.report.AtLeast("chaos_"+s.name+"_rate", float64(v.sent)/s.length.Seconds(), "1/s", 0.98*rate)
	s.report.Reached("chaos_"+s.name+"_requests", float64(v.sent), "count", s.length.Seconds()*rate/2) // fewer prove little
	s.none("failed", v.failed)
	s.none("lost", v.lost)
	s.none("doubled", v.doubled)
	s.none("strange", v.strange)
}

// remove deletes every function of the fleet.
func (f *fleet) remove(ctx context.Context) error {
	var errs []error
	for _, m := range members {
		errs = append(errs, f.client.Delete(ctx, lambent.DefaultNamespace, m.name, 0))
	}
	return errors.Join(errs...)
}
