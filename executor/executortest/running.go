package executortest

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"lambent"
	"lambent/executor"
)

// running is an instance, which is also an http.RoundTripper to its function.
type running struct {
	executor.Instance
	revision *lambent.Revision
	logs     *logs
	total    time.Duration // of a request; default patience
}

// RoundTrip hands a request over. The error is Handle's.
func (r *running) RoundTrip(req *http.Request) (*http.Response, error) {
	inv := r.invocation(req)
	total := r.total
	if total == 0 {
		total = patience
	}
	resp, err := r.Handle(req.Context(), inv, time.Now().Add(total))
	if err != nil {
		return nil, err
	}
	return &http.Response{
		Status: http.StatusText(resp.Status), StatusCode: resp.Status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: upgraded(resp), Body: resp.Body, ContentLength: resp.ContentLength, Trailer: resp.Trailer, Request: req,
	}, nil
}

func (r *running) invocation(req *http.Request) *lambent.Invocation {
	inv := &lambent.Invocation{
		ID: lambent.NewID(), Revision: r.revision, Trigger: lambent.TriggerHTTP, Accepted: time.Now(),
		Method: req.Method, Target: req.URL.RequestURI(), Host: req.URL.Host,
		Header: req.Header.Clone(), ContentLength: req.ContentLength, Body: req.Body, Trailer: req.Trailer, Upgrade: req.Header.Get("Upgrade"),
	}
	if id := inv.Header.Get("Id"); id != "" {
		inv.ID = id
	}
	if req.Body != nil && req.ContentLength == 0 {
		inv.ContentLength = -1
	}
	inv.Header.Del("Connection")
	inv.Header.Del("Upgrade")
	return inv
}

// upgraded puts back what is hop by hop and which a client of a switched connection wants to see.
func upgraded(resp *lambent.Response) http.Header {
	if resp.Status != http.StatusSwitchingProtocols {
		return resp.Header
	}
	h := resp.Header.Clone()
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", "websocket")
	return h
}

// request makes a request to the function; body may be "".
func request(t testing.TB, method, target, body string) *http.Request {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience) // no test hangs
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, "http://fixture.test"+target, reader)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// get gives the status and body of the answer to a GET, and the error of Handle, Read or Close.
func (r *running) get(t testing.TB, target string) (int, string, error) {
	t.Helper()
	return r.do(request(t, "GET", target, ""))
}

func (r *running) do(req *http.Request) (int, string, error) {
	resp, err := r.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	body, err := io.ReadAll(resp.Body)
	if closed := resp.Body.Close(); err == nil {
		err = closed
	}
	return resp.StatusCode, string(body), err
}

// must gives the body of a good answer.
func (r *running) must(t testing.TB, target string) string {
	t.Helper()
	status, body, err := r.get(t, target)
	if err != nil || status >= 300 {
		t.Fatalf("GET %s: %d %q, %v", target, status, body, err)
	}
	return body
}

// into decodes the JSON of a good answer.
func (r *running) into(t testing.TB, target string, v any) {
	t.Helper()
	body := r.must(t, target)
	if err := json.Unmarshal([]byte(body), v); err != nil {
		t.Fatalf("GET %s: %q: %v", target, body, err)
	}
}

// env is the environment that the function finds. It comes as bytes, as JSON has no others than those of text.
func (r *running) env(t testing.TB) []string {
	t.Helper()
	var raw [][]byte
	r.into(t, "/env", &raw)
	list := make([]string, len(raw))
	for i, v := range raw {
		list[i] = string(v)
	}
	return list
}

// logs keeps the lines of an instance.
type logs struct {
	mu      sync.Mutex
	lines   []lambent.LogLine
	changed chan struct{}
}

func newLogs() *logs { return &logs{changed: make(chan struct{}, 1)} }

func (l *logs) add(line lambent.LogLine) {
	l.mu.Lock()
	l.lines = append(l.lines, line)
	l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

func (l *logs) all() []lambent.LogLine {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]lambent.LogLine(nil), l.lines...)
}

// await waits for a line whose text holds part.
func (l *logs) await(t testing.TB, part string) lambent.LogLine {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		for _, line := range l.all() {
			if strings.Contains(line.Text, part) {
				return line
			}
		}
		select {
		case <-l.changed:
		case <-timeout:
			t.Fatalf("no log line with %q; there are %v", part, l.all())
		}
	}
}
