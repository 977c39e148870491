package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const deployRate = 200 // requests per second

// deploys calls a function at a steady rate, whatever the answers take, while new revisions of it are deployed
// and streams cross every switch. No call may fail, and a request that is sent after a deploy returned must meet
// that revision or a later one.
func deploys(ctx context.Context, l *lambent, _ string, short bool) error {
	length, streaming := 60*time.Second, 10*time.Second
	if short {
		length, streaming = 20*time.Second, 4*time.Second
	}
	rep := newReport("deploy")
	deploy := func(version int) error {
		return l.deploy(ctx, "test/bench/echo", "--name", "echo", "--env", "VERSION="+strconv.Itoa(version))
	}
	if err := deploy(0); err != nil {
		return err
	}

	v := &versions{base: "http://" + l.host + "/fn/echo", client: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 256}, Timeout: streaming + 30*time.Second,
	}}
	defer v.client.CloseIdleConnections()
	var calls sync.WaitGroup
	began := time.Now()
	calls.Go(func() { every(ctx, length, time.Second/deployRate, func() { calls.Go(func() { v.call(ctx) }) }) })
	calls.Go(func() { every(ctx, length, time.Second, func() { calls.Go(func() { v.stream(ctx, streaming) }) }) })
	const switches = 3
	var took []float64
	var err error
	for version := 1; version <= switches && err == nil; version++ {
		select {
		case <-time.After(time.Until(began.Add(length * time.Duration(version) / (switches + 1)))):
		case <-ctx.Done():
		}
		start := time.Now()
		if err = deploy(version); err == nil {
			v.deployed(version)
			took = append(took, ms(time.Since(start)))
		}
	}
	calls.Wait()
	if err != nil {
		return err
	}

	rep.row("what", "count", "p50 ms", "p99 ms", "max ms")
	rep.row("requests", fmt.Sprint(len(v.times)), figure(median(v.times)), figure(quantile(v.times, 0.99)), figure(slices.Max(v.times)))
	rep.row(fmt.Sprintf("streams of %s", streaming), fmt.Sprint(v.streams), "", "", "")
	rep.row("of them across a switch", fmt.Sprint(v.crossed), "", "", "")
	rep.row("deploys", fmt.Sprint(len(took)), figure(median(took)), "", figure(slices.Max(took)))
	for i, why := range v.failures {
		rep.Notes[fmt.Sprintf("failure %d", i+1)] = why
	}
	rep.atLeast("deploy_requests_per_second", float64(len(v.times))/length.Seconds(), "1/s", 0.98*deployRate)
	rep.atLeast("deploy_streams_crossing", float64(v.crossed), "count", switches)
	rep.none("deploy_failed", v.failed)
	rep.none("deploy_answers_of_old_revisions", v.old)
	return rep.finish()
}

func figure(v float64) string { return fmt.Sprintf("%.1f", v) }

// every calls f at each step until length is over.
func every(ctx context.Context, length, step time.Duration, f func()) {
	tick := time.NewTicker(step)
	defer tick.Stop()
	for range int(length / step) {
		f()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// versions calls a function that tells its version, and counts what goes wrong.
type versions struct {
	base   string
	client *http.Client

	mu       sync.Mutex // guards what follows
	latest   int        // that a deploy has returned for
	times    []float64  // of good answers, in ms
	streams  int        // that came whole
	crossed  int        // of them, those that a deploy returned during
	old      int        // answers of a revision that was replaced before the request was sent
	failed   int
	failures []string // the first few
}

func (v *versions) deployed(version int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.latest = version
}

func (v *versions) now() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.latest
}

func (v *versions) call(ctx context.Context) {
	before, sent := v.now(), time.Now()
	body, err := v.get(ctx, "/version")
	var version int
	if err == nil {
		version, err = strconv.Atoi(body)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case err != nil:
		v.fail(err)
	case version < before:
		v.old++
	}
	if err == nil {
		v.times = append(v.times, ms(time.Since(sent)))
	}
}

// stream wants the whole of a stream, from one revision.
func (v *versions) stream(ctx context.Context, length time.Duration) {
	before := v.now()
	body, err := v.get(ctx, "/stream?for="+length.String())
	lines := strings.Fields(body)
	if err == nil && (len(lines) < 2 || lines[len(lines)-1] != "end") {
		err = fmt.Errorf("a stream of %d lines was cut", len(lines))
	}
	old := false
	for i := 0; err == nil && i < len(lines)-1; i++ {
		version, bad := strconv.Atoi(lines[i])
		if bad != nil || lines[i] != lines[0] {
			err = fmt.Errorf("a stream of version %s goes on with %q", lines[0], lines[i])
		}
		old = old || version < before
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case err != nil:
		v.fail(err)
	case old:
		v.old++
	}
	if err == nil {
		v.streams++
		if v.latest != before {
			v.crossed++
		}
	}
}

// fail counts a failure. The lock is held.
func (v *versions) fail(err error) {
	v.failed++
	if len(v.failures) < 5 {
		v.failures = append(v.failures, err.Error())
	}
}

func (v *versions) get(ctx context.Context, target string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.base+target, nil)
	if err != nil {
		return "", err
	}
	resp, err := v.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %d: %s", target, resp.StatusCode, raw)
	}
	return string(raw), err
}
