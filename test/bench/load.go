package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
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
	pid                    int // of the process whose processor time counts; 0 for none
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
	t.pid = l.PID()
	return t
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
	cpu      time.Duration   // that the target's process used
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
	used, err := cpuTime(t.pid)
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
	after, err := cpuTime(t.pid)
	total.cpu = after - used
	return total, errors.Join(firstErr, err)
}

// cpuTime is what a process has used, in ticks of 10 ms; see proc_pid_stat(5).
func cpuTime(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(raw), ") ") // behind the name, which may hold spaces
	fields := strings.Fields(rest)
	var user, system int64
	if _, err := fmt.Sscan(fields[11], &user); err != nil {
		return 0, err
	}
	if _, err := fmt.Sscan(fields[12], &system); err != nil {
		return 0, err
	}
	return time.Duration(user+system) * 10 * time.Millisecond, nil
}

func drive(ctx context.Context, t target, until time.Time) (r result, err error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, t.network, t.address)
	if err != nil {
		return r, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(until.Add(10 * time.Second)); err != nil {
		return r, err
	}
	br := bufio.NewReaderSize(conn, 64<<10)
	for time.Now().Before(until) {
		sent := time.Now()
		if _, err := conn.Write(t.request); err != nil {
			return r, fmt.Errorf("%s: %w", t.name, err)
		}
		status, err := readAnswer(br)
		if err != nil {
			return r, fmt.Errorf("%s: %w", t.name, err)
		}
		r.requests++
		if status != 200 {
			r.failed++
		}
		r.times = append(r.times, time.Since(sent))
	}
	return r, nil
}

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
