package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"lambent/test/measure"
)

// target is where a load goes: a network address and the bytes of one request.
type target struct {
	name, network, address string
	request                []byte
	pids                   []int // of the processes whose processor time counts
}

// post makes the target of a POST; fields are further lines of its header.
func post(name, network, address, host, path string, body []byte, fields ...string) target {
	req := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n%s\r\n%s",
		path, host, len(body), strings.Join(fields, ""), body)
	return target{name: name, network: network, address: address, request: []byte(req)}
}

// function is the target of a POST of body to a function.
func function(l *measure.Daemon, name string, body []byte) target {
	t := post("lambent "+name, "tcp", l.Host, l.Host, "/fn/"+name+"/", body)
	t.pids = []int{l.PID()}
	return t
}

// get makes the target of a GET.
func get(name, address, path string) target {
	return target{name: name, network: "tcp", address: address, request: fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, address)}
}

// fields gives the lines of a header.
func fields(header map[string]string) (lines []string) {
	for name, value := range header {
		lines = append(lines, name+": "+value+"\r\n")
	}
	return lines
}

// result is what a load measured.
type result struct {
	requests int
	failed   int
	elapsed  time.Duration
	times    []time.Duration // of each request, sorted
	cpu      time.Duration   // that the target's processes used
}

// perRequest is the processor time of one request; it depends less on what else the machine does than rates do.
func (r result) perRequest() time.Duration { return r.cpu / time.Duration(max(1, r.requests)) }

func (r result) rate() float64 { return float64(r.requests) / r.elapsed.Seconds() }

func (r result) quantile(q float64) time.Duration {
	if len(r.times) == 0 {
		return 0
	}
	return r.times[min(len(r.times)-1, int(q*float64(len(r.times))))]
}

// load sends t's request over connections kept-alive connections, one at a time on each, until d is over.
// The client is hand-written for the same reason as internal/h1: on a machine of two cores a slow load
// generator would measure itself.
func load(ctx context.Context, t target, connections int, d time.Duration) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, d+10*time.Second)
	defer cancel()
	var mu sync.Mutex
	var total result
	var firstErr error
	var wg sync.WaitGroup
	used, err := measure.CPU(t.pids...)
	if err != nil {
		return total, err
	}
	began := time.Now()
	for range connections {
		wg.Go(func() {
			r, err := drive(ctx, t, began.Add(d))
			mu.Lock()
			defer mu.Unlock()
			total.requests += r.requests
			total.failed += r.failed
			total.times = append(total.times, r.times...)
			if firstErr == nil {
				firstErr = err
			}
		})
	}
	wg.Wait()
	total.elapsed = time.Since(began)
	slices.Sort(total.times)
	after, err := measure.CPU(t.pids...)
	total.cpu = after - used
	return total, errors.Join(firstErr, err)
}

// interleaved loads targets in turn, round by round, so that those of one round meet much the same machine. It gives their
// results by target and round, without those of a first round, which warms up.
func interleaved(ctx context.Context, targets []target, connections, rounds int, length time.Duration) ([][]result, error) {
	results := make([][]result, len(targets))
	for round := range rounds + 1 {
		for i, t := range targets {
			r, err := load(ctx, t, connections, length)
			if err != nil {
				return nil, err
			}
			if round > 0 {
				results[i] = append(results[i], r)
			}
		}
	}
	return results, nil
}

// median is that of a figure of each result.
func median(results []result, of func(result) float64) float64 {
	figures := make([]float64, len(results))
	for i, r := range results {
		figures[i] = of(r)
	}
	return measure.Median(figures)
}

// paired is the median over the rounds of what of makes of a figure of a and of b.
func paired(a, b []result, figure func(result) float64, of func(a, b float64) float64) float64 {
	each := make([]float64, len(a))
	for i := range each {
		each[i] = of(figure(a[i]), figure(b[i]))
	}
	return measure.Median(each)
}

func minus(a, b float64) float64 { return a - b }
func over(a, b float64) float64  { return a / b }

func (r result) p50() float64     { return us(r.quantile(0.5)) }
func (r result) p99() float64     { return us(r.quantile(0.99)) }
func (r result) perCall() float64 { return us(r.perRequest()) }

func failures(results []result) (n int) {
	for _, r := range results {
		n += r.failed
	}
	return n
}

func drive(ctx context.Context, t target, until time.Time) (r result, err error) {
	c, err := dial(ctx, t, until.Add(10*time.Second))
	if err != nil {
		return r, err
	}
	defer c.close()
	for time.Now().Before(until) {
		status, took, err := c.call()
		if err != nil {
			return r, err
		}
		r.requests++
		if status != 200 {
			r.failed++
		}
		r.times = append(r.times, took)
	}
	return r, nil
}

// caller is a connection to a target.
type caller struct {
	target
	conn net.Conn
	br   *bufio.Reader
}

// dial connects to t, for no longer than until.
func dial(ctx context.Context, t target, until time.Time) (*caller, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, t.network, t.address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.name, err)
	}
	if err := conn.SetDeadline(until); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &caller{t, conn, bufio.NewReaderSize(conn, 64<<10)}, nil
}

// call sends the request and reads the answer.
func (c *caller) call() (status int, took time.Duration, err error) {
	sent := time.Now()
	if _, err := c.conn.Write(c.request); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", c.name, err)
	}
	if status, err = readAnswer(c.br); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", c.name, err)
	}
	return status, time.Since(sent), nil
}

func (c *caller) close() { _ = c.conn.Close() } // nothing is in it any more

// readAnswer reads one answer with a Content-Length or in chunks, and forgets its body.
func readAnswer(br *bufio.Reader) (status int, err error) {
	line, err := br.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if _, err := fmt.Sscanf(string(line[9:12]), "%d", &status); err != nil {
		return 0, fmt.Errorf("status line %q", line)
	}
	length, chunked := 0, false
	for {
		if line, err = br.ReadSlice('\n'); err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		if bytes.EqualFold(name, []byte("content-length")) {
			for _, c := range value {
				length = length*10 + int(c-'0')
			}
		}
		chunked = chunked || bytes.EqualFold(name, []byte("transfer-encoding"))
	}
	if !chunked {
		_, err = br.Discard(length)
		return status, err
	}
	for {
		if line, err = br.ReadSlice('\n'); err != nil {
			return 0, err
		}
		var size int
		if _, err := fmt.Sscanf(string(line), "%x", &size); err != nil {
			return 0, fmt.Errorf("chunk size %q: %w", line, err)
		}
		if _, err := br.Discard(size + 2); err != nil {
			return 0, err
		}
		if size == 0 {
			return status, nil
		}
	}
}
