package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxHead is how long the header of a program's answer may be.
const maxHead = 64 << 10

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
	held  []byte // the beginning, as long as it may be or is a header
	begun bool   // the head is out
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
	o.held = append(o.held, p...)
	header, sure := beginsWithField(o.held)
	if !sure {
		return nil
	}
	if !header {
		return o.plain()
	}
	head, body, ok := cutHead(o.held)
	switch {
	case ok:
		if err := o.head(head); err != nil {
			return err
		}
		return o.body(body)
	case len(o.held) > maxHead:
		return fmt.Errorf("its header has no end within %d KiB", maxHead>>10)
	}
	return nil
}

// finish answers with what was held back, when the program has ended well.
func (o *output) finish() error {
	if o.begun {
		return nil
	}
	if header, _ := beginsWithField(o.held); header {
		return errors.New("its header does not end in an empty line")
	}
	return o.plain()
}

// plain begins an answer without a header. Text is never taken for HTML: what a program echoes of its
// input must not become somebody's script.
func (o *output) plain() error {
	kind := http.DetectContentType(o.held)
	if strings.HasPrefix(kind, "text/") {
		kind = "text/plain; charset=utf-8"
	}
	o.w.Header().Set("Content-Type", kind)
	o.begun = true
	o.w.WriteHeader(http.StatusOK)
	return o.body(o.held)
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

// head begins the answer with the program's header (RFC 3875, section 6).
func (o *output) head(head []byte) error {
	status := 0
	h := o.w.Header()
	h["Content-Type"] = nil // none that net/http guesses
	for line := range bytes.Lines(head) {
		name, value, ok := strings.Cut(strings.TrimRight(string(line), "\r\n"), ":")
		if !ok || !isFieldName(name) {
			return fmt.Errorf("%.80q in its header is not of the form name: value", line)
		}
		value = strings.Trim(value, " \t")
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return fmt.Errorf("the value of %s in its header holds a control character", name)
		}
		switch key := http.CanonicalHeaderKey(name); {
		case key == "Status":
			code, _, _ := strings.Cut(value, " ")
			var err error
			if status, err = strconv.Atoi(code); err != nil || status < 200 || status > 599 {
				return fmt.Errorf("%q is no status from 200 to 599", value)
			}
		case key == "Content-Type":
			h.Set(key, value)
		case !isOfConnection(key) && !strings.HasPrefix(key, "Lambent-"):
			h.Add(key, value)
		}
	}
	if status == 0 && h.Get("Location") != "" {
		status = http.StatusFound
	}
	if status == 0 {
		status = http.StatusOK
	}
	o.begun = true
	o.w.WriteHeader(status)
	return nil
}

func isFieldName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// isOfConnection tells the fields that are the business of whoever writes to a connection.
func isOfConnection(key string) bool {
	switch key {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// fields are those of which a header has at least one, and which it must begin with to be told from text.
var fields = []string{"Content-Type:", "Status:", "Location:"}

// beginsWithField tells whether b begins with a header, and whether that can be told yet.
func beginsWithField(b []byte) (header, sure bool) {
	sure = true
	for _, f := range fields {
		k := min(len(b), len(f))
		if strings.EqualFold(string(b[:k]), f[:k]) {
			if k == len(f) {
				return true, true
			}
			sure = false
		}
	}
	return false, sure
}

// cutHead cuts b behind the empty line that ends a header.
func cutHead(b []byte) (head, body []byte, ok bool) {
	for at := 0; ; {
		end := bytes.IndexByte(b[at:], '\n')
		if end < 0 {
			return nil, nil, false
		}
		if line := b[at : at+end]; len(line) == 0 || string(line) == "\r" {
			return b[:at], b[at+end+1:], true
		}
		at += end + 1
	}
}
