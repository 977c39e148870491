package gateway

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"lambent"
)

// stream is an event stream that the test writes.
type stream struct {
	*io.PipeReader
	inv    *lambent.Invocation
	closed chan bool // gets whether the gateway had ended it
}

func (s stream) Close() error {
	select {
	case s.closed <- s.inv.Outcome.Ended:
	default:
	}
	s.PipeReader.Close()
	return errors.New("the function may still be working on it")
}

// openStream serves one that is drained by the channel, and gives the answer's body.
func openStream(t *testing.T, header http.Header) (events *bufio.Reader, w *io.PipeWriter, drain chan struct{}, closed chan bool) {
	t.Helper()
	drain, closed = make(chan struct{}), make(chan bool, 1)
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	srv := open(t, func(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
		return &lambent.Response{Status: 200, Header: header, ContentLength: -1, Drain: drain, Body: stream{r, inv, closed}}, nil
	}, nil)
	resp, err := http.DefaultTransport.RoundTrip(request(t, "GET", srv.URL+"/fn/hello", nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return bufio.NewReader(resp.Body), w, drain, closed
}

var eventStream = http.Header{"Content-Type": {"text/event-stream; charset=utf-8"}}

func write(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Error(err)
	}
}

// A stream may come to its end by itself at the moment when it is to be ended. The race detector looks on.
func TestEventStreamEndsWhileItDrains(t *testing.T) {
	for range 100 {
		drain := make(chan struct{})
		inv := &lambent.Invocation{Revision: &lambent.Revision{}}
		r, w := io.Pipe()
		w.Close()
		resp := &lambent.Response{Body: stream{r, inv, make(chan bool, 1)}, Drain: drain}
		over := new(Tally).follow(resp, inv)
		go close(drain)
		if _, err := io.ReadAll(resp.Body); err != nil {
			t.Error(err)
		}
		resp.Body.Close()
		over()
	}
}

func TestEventStreamDrains(t *testing.T) {
	t.Run("between events", func(t *testing.T) {
		events, w, drain, closed := openStream(t, eventStream)
		write(t, w, "data: 1\n\n")
		if got, err := events.Peek(9); err != nil || string(got) != "data: 1\n\n" {
			t.Fatalf("%q, %v", got, err)
		}
		close(drain)
		if got, err := io.ReadAll(events); err != nil || string(got) != "data: 1\n\n" {
			t.Errorf("%q, %v", got, err)
		}
		if !<-closed {
			t.Error("the outcome does not say that the gateway ended it")
		}
	})
	t.Run("within an event", func(t *testing.T) {
		events, w, drain, closed := openStream(t, eventStream)
		write(t, w, "data: 1\n\ndata: 2\n")
		if _, err := events.Peek(9 + 8); err != nil {
			t.Fatal(err)
		}
		close(drain)
		write(t, w, "data: 3")
		if got, err := events.Peek(9 + 8 + 7); err != nil || string(got) != "data: 1\n\ndata: 2\ndata: 3" {
			t.Fatalf("%q, %v", got, err)
		}
		write(t, w, "\n\n")
		go func() {
			for { // until the gateway has heard
				if _, err := io.WriteString(w, "data: 4\n\n"); err != nil {
					return
				}
			}
		}()
		got, err := io.ReadAll(events)
		more, whole := strings.CutPrefix(string(got), "data: 1\n\ndata: 2\ndata: 3\n\n")
		if err != nil || !whole || strings.ReplaceAll(more, "data: 4\n\n", "") != "" {
			t.Errorf("%q, %v", got, err)
		}
		if !<-closed {
			t.Error("the outcome does not say that the gateway ended it")
		}
	})
	t.Run("before the first", func(t *testing.T) {
		events, _, drain, _ := openStream(t, eventStream)
		close(drain)
		if got, err := io.ReadAll(events); err != nil || len(got) > 0 {
			t.Errorf("%q, %v", got, err)
		}
	})
	for name, header := range map[string]http.Header{
		"another stream":     {"Content-Type": {"text/plain"}},
		"a compressed one":   {"Content-Type": {"text/event-stream"}, "Content-Encoding": {"br"}},
		"of an unknown type": {},
	} {
		t.Run(name, func(t *testing.T) {
			events, w, drain, closed := openStream(t, header)
			write(t, w, "a\n\n")
			close(drain)
			write(t, w, "b\n\n")
			w.CloseWithError(errors.New("it broke"))
			if got, err := io.ReadAll(events); err == nil || string(got) != "a\n\nb\n\n" {
				t.Errorf("%q, %v", got, err)
			}
			if <-closed {
				t.Error("the gateway ended it")
			}
		})
	}
}

func TestEventBorder(t *testing.T) {
	for _, c := range []struct{ text, first string }{
		{"data: 1\n\ndata: 2\n\n", "data: 1\n\n"},
		{"data: 1\r\n\r\ndata", "data: 1\r\n\r\n"},
		{"data: 1\r\rdata", "data: 1\r\r"},
		{"data: 1\r\n\ndata", "data: 1\r\n\n"},
		{"data: 1\n\r\ndata", "data: 1\n\r\n"},
		{"data: 1\ndata: 2\r\n:\r\n\r\n", "data: 1\ndata: 2\r\n:\r\n\r\n"},
		{"\n", "\n"},
		{"data: 1\r\ndata: 2\n", ""},
	} {
		for size := 1; size <= len(c.text); size++ {
			e := &events{ReadCloser: io.NopCloser(strings.NewReader(c.text)), inv: &lambent.Invocation{}, drains: true, border: border{empty: true}}
			var got strings.Builder
			_, err := io.CopyBuffer(struct{ io.Writer }{&got}, reader{e}, make([]byte, size))
			want := c.first
			if want == "" {
				want = c.text
			}
			if s := got.String(); err != nil || s != want && s+"\n" != want || e.ended != (c.first != "") {
				t.Errorf("%q by %d: %q, ended %v, %v", c.text, size, s, e.ended, err)
			}
		}
	}
}
