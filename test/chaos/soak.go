package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"lambent/test/measure"
)

// life is how much of everything the daemon lives through: what a busy day has, in minutes.
type life struct {
	length                         time.Duration
	requests, deploys, once, kills int
}

// starts is how many instances that takes: one for each deploy, each request to a function that is never reused, and
// each that was killed.
func (l life) starts() int { return l.deploys + l.once + l.kills }

// part is a share of l.
func (l life) part(of, in int) life {
	return life{l.length * time.Duration(of) / time.Duration(in), l.requests * of / in, l.deploys * of / in, l.once * of / in, l.kills * of / in}
}

// soak lets a daemon live through a day in minutes. What it holds at the end may not be more than a tenth above what
// it held after the first tenth.
func soak(ctx context.Context, short bool) (err error) {
	all := life{15 * time.Minute, 200_000, 5_000, 12_000, 3_050}
	rest := 150 * time.Second // code that nobody needs goes after a minute, and Go collects every two
	if short {
		all, rest = all.part(1, 20), 5*time.Second
	}
	dir, err := os.MkdirTemp("", "lambent-soak-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d, err := measure.Start(ctx, filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	s := &soaked{daemon: d, short: short, report: measure.NewReport("soak"), started: map[string]bool{}}
	err = s.live(ctx, dir, all, rest)
	if err = errors.Join(err, d.Stop()); err != nil {
		return err
	}
	left, err := leftovers(d.Data, s.instances.name)
	if err != nil {
		return err
	}
	for what, n := range left {
		s.report.None("soak_leaked_"+what, n)
	}
	return s.report.Finish()
}

// soaked is a daemon that lives through much.
type soaked struct {
	daemon    *measure.Daemon
	instances *instances
	report    *measure.Report
	town      *town
	short     bool

	mu       sync.Mutex // guards what follows
	started  map[string]bool
	failures []string
	failed   int
	answered int
	deployed int
}

// recordsBound is how many MiB of invocation records a node keeps. It takes hundreds of thousands of requests to get
// there, so the disk may grow by that much, whatever it held after the first tenth.
const recordsBound = 128

// weight is what a daemon holds.
type weight struct {
	name   string
	amount float64
	unit   string
	slow   bool // it takes minutes to come to rest, so that a short run cannot tell
}

func (s *soaked) live(ctx context.Context, dir string, all life, rest time.Duration) (err error) {
	if s.instances, err = newInstances(s.daemon.Data, newLedger()); err != nil {
		return err
	}
	go s.instances.watch(ctx)
	if s.town, err = newTown(ctx, s.daemon, dir); err != nil {
		return err
	}
	took := s.pass(ctx, all.part(1, 10), 0)
	before, err := s.weigh(ctx, rest)
	if err != nil {
		return err
	}
	took += s.pass(ctx, all.part(9, 10), all.part(1, 10).deploys)
	after, err := s.weigh(ctx, rest)
	if err != nil {
		return err
	}
	s.report.Row("", "after a tenth", "at the end", "")
	for i, b := range before {
		s.report.Row(b.name, fmt.Sprintf("%.0f", b.amount), fmt.Sprintf("%.0f", after[i].amount), b.unit)
		bar := s.report.Bounded
		if b.slow && s.short {
			bar = s.report.AtMost
		}
		if b.name == "disk" {
			bar("soak_grown_disk", after[i].amount-b.amount, b.unit, 0.1*b.amount+recordsBound)
			continue
		}
		bar("soak_growth_"+b.name, after[i].amount/max(b.amount, 1), "x", 1.1)
	}
	s.report.Notes["lived through"] = fmt.Sprintf("%d requests, %d deploys, %d instances in %s", s.answered, s.deployed, len(s.started), took.Round(time.Second))
	for i, why := range s.failures {
		s.report.Notes["failure "+strconv.Itoa(i+1)] = why
	}
	s.report.None("soak_failed", s.failed)
	s.report.Reached("soak_requests", float64(s.answered), "count", float64(all.requests)*0.99)
	s.report.Reached("soak_deploys", float64(s.deployed), "count", float64(all.deploys)*0.99)
	s.report.Reached("soak_starts", float64(len(s.started)), "count", float64(all.starts())*0.99)
	s.report.AtMost("soak_minutes", took.Minutes(), "min", all.length.Minutes()*1.1)
	return ctx.Err()
}

// pass lives through l and tells how long that took. first is the number of the first deploy.
func (s *soaked) pass(ctx context.Context, l life, first int) time.Duration {
	began := time.Now()
	var work sync.WaitGroup
	// pace calls f n times, evenly, up to four at a time: slow ones hold up those that follow.
	pace := func(n, workers int, f func(i int)) {
		turns := make(chan int)
		for range workers {
			work.Go(func() {
				for i := range turns {
					f(i)
				}
			})
		}
		work.Go(func() {
			defer close(turns)
			i := 0
			measure.Every(ctx, l.length, l.length/time.Duration(n), func() {
				turns <- i
				i++
			})
		})
	}
	pace(l.deploys, 2, func(i int) { s.deploy(ctx, first+i) })
	pace(l.once, 4, func(int) { s.call(ctx, "once") })
	pace(l.kills, 1, func(int) { s.kill(ctx) })
	pace(l.requests-l.once-l.kills-l.deploys, 32, func(i int) { s.call(ctx, s.town.name(i)) })
	work.Wait()
	return time.Since(began)
}

// deploy makes a new revision and calls it.
func (s *soaked) deploy(ctx context.Context, i int) {
	if err := s.town.deploy(ctx, i); err != nil {
		s.fail(err)
		return
	}
	s.mu.Lock()
	s.deployed++
	s.mu.Unlock()
	s.call(ctx, s.town.name(i))
}

// kill ends the instance that has just answered.
func (s *soaked) kill(ctx context.Context) {
	id := s.call(ctx, "victim")
	for _, in := range s.instances.list() {
		if in.id == id {
			if err := killOne([]*sandboxed{in}, map[string]bool{}); err != nil {
				s.fail(err)
			}
		}
	}
}

// call gives the id of the instance that answers.
func (s *soaked) call(ctx context.Context, name string) string {
	instance, err := s.town.call(ctx, name)
	if err != nil {
		s.fail(err)
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered++
	s.started[instance] = true
	return instance
}

func (s *soaked) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed++
	if len(s.failures) < maxExamples {
		s.failures = append(s.failures, err.Error())
	}
}

// weigh lets the daemon rest and tells what it holds.
func (s *soaked) weigh(ctx context.Context, rest time.Duration) ([]weight, error) {
	s.town.http.CloseIdleConnections()
	select {
	case <-time.After(rest):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	rss, err := s.least(ctx)
	if err != nil {
		return nil, err
	}
	goroutines, err := s.daemon.Goroutines(ctx)
	if err != nil {
		return nil, err
	}
	open, err := openIn(s.daemon.PID())
	if err != nil {
		return nil, err
	}
	files, size, err := filesIn(s.daemon.Data)
	if err != nil {
		return nil, err
	}
	there, err := leftovers(s.daemon.Data, s.instances.name)
	if err != nil {
		return nil, err
	}
	return []weight{
		{"rss", float64(rss) / (1 << 20), "MiB", true},
		{"goroutines", float64(goroutines), "", false},
		{"descriptors", float64(open.count()), "", false},
		{"files", float64(files), "", true},
		{"disk", float64(size) / (1 << 20), "MiB", true},
		{"processes", float64(there["processes"]), "", false},
		{"cgroups", float64(there["cgroups"]), "", false},
		{"mounts", float64(there["mounts"]), "", false},
	}, nil
}

// least gives the least memory that the daemon has within some seconds: between two collections it goes up.
func (s *soaked) least(ctx context.Context) (least int64, err error) {
	for range 10 {
		rss, err := s.daemon.RSS()
		if err != nil {
			return 0, err
		}
		if least == 0 || rss < least {
			least = rss
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return least, nil
}

// filesIn counts the files and folders below dir, and their bytes.
func filesIn(dir string) (n int, size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was removed meanwhile
		}
		if err != nil {
			return err
		}
		n++
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return nil
	})
	return n, size, err
}
