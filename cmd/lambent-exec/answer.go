package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"lambent/internal/cgi"
)

// answer runs the program for r. The connection serves no other request, so that nothing of this one can be
// taken for the next.
func (s *server) answer(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	if err := rc.EnableFullDuplex(); err != nil {
		panic(err) // the server is ours
	}
	w.Header().Set("Connection", "close")
	ctx, leave := context.WithCancel(r.Context())
	defer leave()
	forget, err := s.departures.await(ctx.Value(connKey{}).(net.Conn), leave)
	if err != nil {
		s.report(w, "handler_error", "cannot be watched over: "+err.Error(), "")
		return
	}
	defer forget()
	env, err := s.environment(r)
	if err != nil {
		s.report(w, "invalid_request", "cannot get this request: "+err.Error(), "")
		return
	}
	c, err := start(s.argv, env)
	if err != nil {
		s.report(w, "handler_error", "cannot be started: "+err.Error(), "")
		return
	}
	stop := context.AfterFunc(ctx, c.kill)
	var feeding sync.WaitGroup
	feeding.Go(func() { c.feed(r.Body) })
	out := &output{w: w, rc: rc}
	err = out.copy(&c.stdout)
	if err != nil {
		c.kill() // nobody wants the rest
	}
	failure, trace := c.failure(), c.lastLines()
	if err != nil {
		failure = "gave a bad answer: " + err.Error()
	}
	stop()
	left := ctx.Err() != nil // before the deadline below, which net/http takes for the same
	c.stdin.Close()
	_ = rc.SetReadDeadline(time.Unix(1, 0)) // ends a Read of a body that the program did not want
	feeding.Wait()
	c.stdout.Close()
	c.stderr.Close()
	switch {
	case left:
		panic(http.ErrAbortHandler)
	case out.begun && failure != "":
		fmt.Fprintf(os.Stderr, "lambent-exec: the program %s in the middle of its answer\n", failure)
		panic(http.ErrAbortHandler) // a cut connection tells that this is not the whole
	case err != nil:
		s.report(w, "bad_response", failure, trace)
	case failure != "":
		s.report(w, "handler_error", failure, trace)
	default:
		if err := out.finish(); err != nil {
			s.report(w, "bad_response", "gave a bad answer: "+err.Error(), trace)
		}
	}
}

func (s *server) report(w http.ResponseWriter, code, message, trace string) {
	report(w, code, path.Base(s.argv[0]), message, trace)
}

// report tells the host of an error instead of giving an answer.
func report(w http.ResponseWriter, code, what, message, trace string) {
	lines := []string{}
	if trace != "" {
		lines = strings.Split(trace, "\n")
	}
	raw, err := json.Marshal(map[string]any{"type": what, "message": message, "trace": lines})
	if err != nil {
		panic(err) // plain data always marshals
	}
	clear(w.Header())
	w.Header().Set("Connection", "close")
	w.Header().Set("Lambent-Error", code)
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = w.Write(raw) // the host may have left
}

// output turns what the program writes into the answer.
type output struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	head  cgi.Head
	begun bool // the head is out
}

// copy streams stdout to its end. On error the program has broken the rules, or the host has gone.
func (o *output) copy(stdout io.Reader) error {
	buffer := make([]byte, 32<<10)
	for {
		n, err := stdout.Read(buffer)
		if n > 0 {
			if err := o.write(buffer[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (o *output) write(p []byte) error {
	if o.begun {
		return o.body(p)
	}
	body, ok, err := o.head.Write(p)
	if !ok || err != nil {
		return err
	}
	return o.begin(body)
}

// finish answers with what was held back, when the program has ended well.
func (o *output) finish() error {
	if o.begun {
		return nil
	}
	body, err := o.head.End()
	if err != nil {
		return err
	}
	return o.begin(body)
}

// begin sends the head, and the beginning of the body.
func (o *output) begin(body []byte) error {
	h := o.w.Header()
	h["Content-Type"] = nil // none that net/http guesses
	for _, f := range o.head.Header {
		h[f.Name] = append(h[f.Name], f.Value)
	}
	o.begun = true
	o.w.WriteHeader(o.head.Status)
	return o.body(body)
}

// body sends a part of the body at once.
func (o *output) body(p []byte) error {
	if len(p) > 0 {
		if _, err := o.w.Write(p); err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
			return err
		}
	}
	return o.rc.Flush()
}
