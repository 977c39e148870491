package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"lambent"
	"lambent/client"
	"lambent/test/measure"
)

const loopers = 8

// loops measures what requests that never end do to others: to those of another namespace, and of their own.
func (b *tier) loops(ctx context.Context) error {
	const total = time.Second
	for name, namespace := range map[string]string{"far": "other", "near": "attacked"} {
		if err := b.deploy(ctx, namespace, name, b.modules["c"], lambent.Settings{}); err != nil {
			return err
		}
	}
	s := lambent.Settings{Timeouts: lambent.Timeouts{Total: lambent.Duration(total)}}
	if err := b.deploy(ctx, "attacked", "looper", b.modules["c"], s); err != nil {
		return err
	}
	targets := []target{get("other namespace", b.Host, "/fn/far.other/"), get("same namespace", b.Host, "/fn/near.attacked/")}
	rounds, length := pick(b, 5, 2), pick(b, 3*time.Second, 2*time.Second)
	quiet, err := interleaved(ctx, targets, 1, rounds, length)
	if err != nil {
		return err
	}

	attack, stop := context.WithCancel(ctx)
	defer stop()
	var mu sync.Mutex
	var late []float64 // how long after its deadline each ended, in ms
	var strange []error
	var wg sync.WaitGroup
	for range loopers {
		wg.Go(func() {
			for attack.Err() == nil {
				sent := time.Now()
				code, err := b.failure(ctx, "/fn/looper.attacked/loop")
				took := time.Since(sent)
				mu.Lock()
				late = append(late, measure.MS(took-total))
				if err != nil || code != lambent.CodeTotalTimeout {
					strange = append(strange, fmt.Errorf("a loop ended with %q: %w", code, err))
				}
				mu.Unlock()
			}
		})
	}
	loud, err := interleaved(ctx, targets, 1, rounds, length)
	stop()
	wg.Wait()
	if err != nil {
		return err
	}
	if len(strange) > 0 {
		b.rep.Notes["loops"] = strange[0].Error()
	}
	b.rep.Row("beside 8 loops", "quiet p50", "p99", "loud p50", "p99", "failed")
	for i, t := range targets {
		b.rep.Row(t.name, fmt.Sprintf("%.0f us", median(quiet[i], result.p50)), fmt.Sprintf("%.0f us", median(quiet[i], result.p99)),
			fmt.Sprintf("%.0f us", median(loud[i], result.p50)), fmt.Sprintf("%.0f us", median(loud[i], result.p99)), fmt.Sprint(failures(loud[i])))
	}
	b.rep.Row("the loops", "ended", fmt.Sprint(len(late)), "late p50", fmt.Sprintf("%.1f ms", measure.Median(late)), fmt.Sprintf("p99 %.1f ms", measure.Quantile(late, 0.99)))
	b.rep.AtMost("wasm_loops_p99_in_another_namespace", median(loud[0], result.p99)/median(quiet[0], result.p99), "x", 5)
	b.rep.AtMost("wasm_loops_p99_in_the_same_namespace", median(loud[1], result.p99)/1000, "ms", 50)
	b.rep.AtMost("wasm_loops_killed_after_deadline_p99", measure.Quantile(late, 0.99), "ms", 100)
	b.rep.None("wasm_loops_failed", failures(loud[0])+failures(loud[1])+len(strange))
	return nil
}

// failure gives the code of the error that a function's answer is.
func (b *tier) failure(ctx context.Context, path string) (lambent.Code, error) {
	resp, err := b.ask(ctx, path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct{ Error lambent.Error }
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&answer); err != nil {
		return "", fmt.Errorf("status %d: %w", resp.StatusCode, err)
	}
	return answer.Error.Code, nil
}

func (b *tier) ask(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.Host+path, nil)
	if err != nil {
		return nil, err
	}
	return http.DefaultClient.Do(req)
}

// bombs are requests that take all they can get: memory, and a gigabyte of output. Whoever asks for nothing of that is
// served as if they were not there.
func (b *tier) bombs(ctx context.Context) error {
	watch, err := b.watch()
	if err != nil {
		return err
	}
	strange := 0
	note := func(format string, args ...any) {
		if strange++; strange > 5 {
			return
		}
		b.rep.Notes[fmt.Sprintf("bomb %d", strange)] = fmt.Sprintf(format, args...)
	}
	n := pick(b, 100, 10)
	for range n {
		if code, err := b.failure(ctx, "/fn/c/bomb"); err != nil || code != lambent.CodeMemoryExceeded {
			note("a memory bomb ended with %q, %v", code, err)
		}
	}
	if err := b.Deploy(ctx, "test/bench/wasm/flood", "--name", "flood"); err != nil {
		return err
	}
	if err := b.Deploy(ctx, "test/bench/wasm/flood", "--name", "dam", "--set", "max_output=1048576"); err != nil {
		return err
	}
	began := time.Now()
	got, err := b.drain(ctx, "/fn/flood/")
	if took := time.Since(began); err != nil || got != 1<<30 {
		note("of 1 GB came %d bytes, %v", got, err)
	} else {
		b.rep.Row("1 GB to stdout", fmt.Sprintf("%.0f MB/s", float64(got)/1e6/took.Seconds()))
	}
	if got, err := b.drain(ctx, "/fn/dam/"); err == nil || got > 1<<20 {
		note("of an output that is limited to 1 MiB came %d bytes, %v", got, err)
	}
	if err := once(ctx, get("c", b.Host, "/fn/c/")); err != nil {
		note("a neighbour: %v", err)
	}
	silent, err := watch(ctx)
	if err != nil {
		return err
	}
	b.rep.None("wasm_bombs_that_did_harm", strange)
	b.rep.None("wasm_silent_deaths_of_workers_by_bombs", silent)
	return nil
}

// drain reads the whole of an answer and gives its length.
func (b *tier) drain(ctx context.Context, path string) (int64, error) {
	resp, err := b.ask(ctx, path)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		return 0, errors.Join(fmt.Errorf("status %d: %s", resp.StatusCode, raw), err)
	}
	return io.Copy(io.Discard, resp.Body)
}

// watch counts the workers that die until its result is called without a system event that tells of it.
func (b *tier) watch() (silent func(context.Context) (int, error), err error) {
	began := time.Now()
	before, err := b.workers()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (int, error) {
		after, err := b.workers()
		if err != nil {
			return 0, err
		}
		died := 0
		for _, pid := range before {
			if !slices.Contains(after, pid) {
				died++
			}
		}
		for _, err := range b.Client.SystemEvents(ctx, client.EventQuery{Kind: lambent.EventInstanceExited, Since: began, Limit: 10_000}) {
			if err != nil {
				return 0, err
			}
			died--
		}
		return max(0, died), nil
	}, nil
}

// workers are the processes that run guests.
func (b *tier) workers() (pids []int, err error) {
	tree, err := measure.Tree(b.PID())
	for _, pid := range tree {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.HasPrefix(string(raw), "lambent-wasm-worker") {
			pids = append(pids, pid)
		}
	}
	return pids, err
}
