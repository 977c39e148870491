package observe

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"lambent"
)

type invokerFunc func(context.Context, *lambent.Invocation) (*lambent.Response, error)

func (f invokerFunc) Invoke(ctx context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
	return f(ctx, inv)
}

func newInvocation(target string) *lambent.Invocation {
	return &lambent.Invocation{
		ID: lambent.NewID(), Trigger: lambent.TriggerHTTP, Accepted: time.Now(), Method: http.MethodGet, Target: target,
		Revision: &lambent.Revision{Namespace: "ns", Function: "fn", ID: "r1"},
	}
}

// stream is a body whose Close completes the outcome, as dispatch's does.
type stream struct {
	io.Reader
	inv    *lambent.Invocation
	closes int
}

func (s *stream) Close() error {
	s.closes++
	s.inv.Outcome.Phases[lambent.PhaseRespond] = 3 * time.Millisecond
	s.inv.Outcome.BytesOut = 4
	return errors.New("closed")
}

type connection struct {
	stream
	written strings.Builder
	half    bool
}

func (c *connection) Write(p []byte) (int, error) { return c.written.Write(p) }
func (c *connection) CloseWrite() error           { c.half = true; return nil }

func TestRecordIsMadeAtClose(t *testing.T) {
	var first, second []*lambent.Record
	var b *stream
	wrapped := Wrap(invokerFunc(func(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
		inv.Outcome = lambent.Outcome{Status: 200, Instance: "i1", Cold: true, BytesIn: 2}
		inv.Outcome.Phases[lambent.PhaseHandler] = time.Millisecond
		b = &stream{strings.NewReader("body"), inv, 0}
		return &lambent.Response{Status: 200, Body: b}, nil
	}), func(r *lambent.Record) { first = append(first, r) }, func(r *lambent.Record) { second = append(second, r) })

	inv := newInvocation("/a/b?key=secret")
	resp, err := wrapped.Invoke(t.Context(), inv)
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := io.ReadAll(resp.Body); string(text) != "body" {
		t.Errorf("read %q", text)
	}
	if _, ok := resp.Body.(lambent.UpgradedBody); ok {
		t.Error("a plain body became an UpgradedBody")
	}
	if len(first) != 0 {
		t.Error("recorded before the body was closed")
	}
	if err := resp.Body.Close(); err == nil {
		t.Error("the error of Close is gone")
	}
	var closers sync.WaitGroup
	for range 10 {
		closers.Go(func() { resp.Body.Close() })
	}
	closers.Wait()
	if b.closes != 1 || len(first) != 1 || len(second) != 1 || first[0] != second[0] {
		t.Fatalf("closed %d times, recorded %d and %d times", b.closes, len(first), len(second))
	}
	want := lambent.Record{
		ID: inv.ID, Namespace: "ns", Function: "fn", Revision: "r1", Trigger: "http", Accepted: inv.Accepted, Method: "GET",
		Path: "/a/b", Status: 200, Instance: "i1", Cold: true, BytesIn: 2, BytesOut: 4,
	}
	want.Phases[lambent.PhaseHandler], want.Phases[lambent.PhaseRespond] = time.Millisecond, 3*time.Millisecond
	if *first[0] != want {
		t.Errorf("got %+v, want %+v", *first[0], want)
	}
}

func TestRecordOfAFailure(t *testing.T) {
	long := lambent.Errorf(lambent.CodeHandlerError, "it raised")
	long.Trace = strings.Repeat("x", 20<<10) + "the end"
	for _, c := range []struct {
		err   error
		code  lambent.Code
		trace string
	}{
		{lambent.Errorf(lambent.CodeQueueFull, "full"), lambent.CodeQueueFull, ""},
		{context.Canceled, lambent.CodeClientClosed, ""},
		{errors.New("bug"), lambent.CodeInternal, ""},
		{long, lambent.CodeHandlerError, "the end"},
	} {
		var got []*lambent.Record
		wrapped := Wrap(invokerFunc(func(context.Context, *lambent.Invocation) (*lambent.Response, error) {
			return nil, c.err
		}), func(r *lambent.Record) { got = append(got, r) })
		if _, err := wrapped.Invoke(t.Context(), newInvocation("/")); !errors.Is(err, c.err) {
			t.Errorf("got error %v, want %v", err, c.err)
		}
		if len(got) != 1 || got[0].Error.Code != c.code || !strings.HasSuffix(got[0].Error.Trace, c.trace) {
			t.Fatalf("%v: got %d records, %+v", c.err, len(got), got)
		}
		if n := len(got[0].Error.Trace); n > maxTrace {
			t.Errorf("a trace of %d bytes is kept", n)
		}
	}
	if len(long.Trace) != 20<<10+7 {
		t.Error("the caller's error was changed")
	}
}

func TestUpgradedBody(t *testing.T) {
	var c *connection
	recorded := 0
	wrapped := Wrap(invokerFunc(func(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
		c = &connection{stream: stream{strings.NewReader("hello"), inv, 0}}
		return &lambent.Response{Status: 101, Body: c}, nil
	}), func(*lambent.Record) { recorded++ })
	resp, err := wrapped.Invoke(t.Context(), newInvocation("/"))
	if err != nil {
		t.Fatal(err)
	}
	up, ok := resp.Body.(lambent.UpgradedBody)
	if !ok {
		t.Fatalf("%T is no UpgradedBody", resp.Body)
	}
	text, _ := io.ReadAll(up)
	_, _ = io.WriteString(up, "hi")
	_ = up.CloseWrite()
	up.Close()
	up.Close()
	if string(text) != "hello" || c.written.String() != "hi" || !c.half || c.closes != 1 || recorded != 1 {
		t.Errorf("read %q, wrote %q, half closed %v, closed %d times, recorded %d times",
			text, c.written.String(), c.half, c.closes, recorded)
	}
}

func TestPath(t *testing.T) {
	for target, want := range map[string]string{
		"/": "/", "/a?b?c": "/a", "?": "", "*": "*",
		"/" + strings.Repeat("x", 5000): "/" + strings.Repeat("x", maxPath-1),
	} {
		if got := path(target); got != want {
			t.Errorf("%.20q: got %q", target, got)
		}
	}
}

func BenchmarkWrap(b *testing.B) {
	wrapped := Wrap(invokerFunc(func(context.Context, *lambent.Invocation) (*lambent.Response, error) {
		return &lambent.Response{Status: 200, Body: http.NoBody}, nil
	}), func(*lambent.Record) {})
	inv := newInvocation("/path?query")
	b.ReportAllocs()
	for b.Loop() {
		resp, err := wrapped.Invoke(b.Context(), inv)
		if err != nil {
			b.Fatal(err)
		}
		resp.Body.Close()
	}
}
