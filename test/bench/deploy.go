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

	"lambent/test/measure"
)

const deployRate = 200 // requests per second

// deploys calls a function at a steady rate, whatever the answers take, while new revisions of it are deployed
// and streams cross every switch. No call may fail, and a request that is sent after a deploy returned must meet
// that revision or a later one.
func deploys(ctx context.Context, l *measure.Daemon, _ string, short bool) error {
	length, streaming := 60*time.Second, 10*time.Second
	if short {
		length, streaming = 20*time.Second, 4*time.Second
	}
	rep := measure.NewReport("deploy")
	deploy := func(version int) error {
		return l.Deploy(ctx, "test/bench/echo", "--name", "echo", "--env", "VERSION="+strconv.Itoa(version))
	}
	if err := deploy(0); err != nil {
		return err
	}

	v := &versions{base: "http://" + l.Host + "/fn/echo", client: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 256}, Timeout: streaming + 30*time.Second,
	}}
	defer v.client.CloseIdleConnections()
	var calls sync.WaitGroup
	began := time.Now()
	calls.Go(func() {
		measure.Every(ctx, length, time.Second/deployRate, func() { calls.Go(func() { v.call(ctx) }) })
	})
	calls.Go(func() {
		measure.Every(ctx, length, time.Second, func() { calls.Go(func() { v.stream(ctx, streaming) }) })
	})
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
			took = append(took, measure.MS(time.Since(start)))
		}
	}
	calls.Wait()
	if err != nil {
		return err
	}

	rep.Row("what", "count", "p50 ms", "p99 ms", "max ms")
	rep.Row("requests", fmt.Sprint(len(v.times)), measure.Figure(measure.Median(v.times)), measure.Figure(measure.Quantile(v.times, 0.99)), measure.Figure(slices.Max(v.times)))
	rep.Row(fmt.Sprintf("streams of %s", streaming), fmt.Sprint(v.streams), "", "", "")
	rep.Row("of them across a switch", fmt.Sprint(v.crossed), "", "", "")
	rep.Row("deploys", fmt.Sprint(len(took)), measure.Figure(measure.Median(took)), "", measure.Figure(slices.Max(took)))
	for i, why := range v.failures {
		rep.Notes[fmt.Sprintf("failure %d", i+1)] = why
	}
	rep.AtLeast("deploy_requests_per_second", float64(len(v.times))/length.Seconds(), "1/s", 0.98*deployRate)
	rep.AtLeast("deploy_streams_crossing", float64(v.crossed), "count", switches)
	rep.None("deploy_failed", v.failed)
	rep.None("deploy_answers_of_old_revisions", v.old)
	return rep.Finish()
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
		v.times = append(v.times, measure.MS(time.Since(sent)))
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
