package wire

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"lambent"
)

// FuzzDaemonEnd has the daemon read whatever bytes a worker may send, while it asks for two answers.
func FuzzDaemonEnd(f *testing.F) {
	const id = MaxStreams
	result := trailer(string(appendResult(nil, Usage{CPU: 1, Memory: 2}, nil)))
	failed := trailer(string(appendResult(nil, Usage{}, lambent.Errorf(lambent.CodeHandlerError, "it failed"))))
	fine := head(200, -1, Field{Name: "A", Value: "b"})
	for _, frames := range [][]byte{
		nil,
		end(append(begin(nil, kindHello, 0), `{"Slow":"x"}`...), 0),
		out(flagHead|flagEnd, id, fine, "body", result),
		append(out(flagHead, id, fine, "body"), out(flagEnd, id, "more", failed)...),
		append(appendNumber(nil, kindCredit, id+1, Window), out(flagEnd, id+1, failed)...),
		append(end(append(begin(nil, kindLog, id), "\x01line"...), 0), out(flagEnd, id, failed)...),
		append(end(append(begin(nil, kindLoaded, 1), "not today"...), 0), out(flagHead, id, head(204, 0))...),
	} {
		f.Add(frames)
	}
	f.Fuzz(func(t *testing.T, frames []byte) {
		daemon, worker := socketpair(t)
		page, file, err := NewPage()
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		c, err := New(daemon, page)
		if err != nil {
			t.Fatal(err)
		}
		var running sync.WaitGroup
		running.Go(func() { _, _ = io.Copy(io.Discard, worker) })
		for i := range 2 {
			r := get("/")
			if i == 1 {
				r = post(strings.NewReader(strings.Repeat("x", Window)), -1)
			}
			r.Log = func(stream, line string) {
				if len(line) > MaxLine {
					t.Error("a line that is too long")
				}
			}
			x := make(chan *Exchange, 1)
			running.Go(func() {
				answer, err := c.Do(t.Context(), 1, r)
				x <- answer
				if answer == nil && err == nil {
					t.Error("neither an answer nor an error")
				}
			})
			running.Go(func() {
				if x := <-x; x != nil {
					if x.Status < 200 || x.Status > 999 || x.Length < -1 {
						t.Errorf("status %d, length %d", x.Status, x.Length)
					}
					n, err := io.Copy(io.Discard, x)
					if err == nil && x.Length >= 0 && n != x.Length {
						t.Errorf("%d bytes of %d", n, x.Length)
					}
					x.Close()
				}
			})
			within(t, "the request is under way", func() bool {
				s := c.slot[i].Load()
				if s == nil {
					return false
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				return s.id != uint32(i)
			})
		}
		running.Go(func() { _ = c.Load(t.Context(), 1, &Spec{}, nil) })
		_, _ = worker.Write(frames) // the daemon may hang up in the middle
		_ = worker.CloseWrite()
		running.Wait()
		c.Close()
		worker.Close()
	})
}

// FuzzWorkerEnd has a worker read whatever bytes the daemon may send.
func FuzzWorkerEnd(f *testing.F) {
	request := func(id uint32, r *Request, flags byte, body string) []byte {
		b := beginSection(begin(nil, kindIn, id))
		b, err := r.appendHead(b, 1)
		if err != nil {
			f.Fatal(err)
		}
		b = endSection(b, frameHead)
		b[3] |= flagHead | flags
		return end(append(b, body...), 0)
	}
	known := get("/echo")
	unknown := get("/echo")
	unknown.Length, unknown.Deadline = -1, time.Now().Add(time.Hour)
	more := end(append(begin(nil, kindIn, 1), "more"...), 0)
	for _, frames := range [][]byte{
		nil,
		request(1, known, flagEnd, ""),
		append(request(1, unknown, 0, "body"), more...),
		append(request(1, unknown, 0, ""), appendNumber(nil, kindCredit, 1, 1)...),
		append(request(1, unknown, 0, ""), end(begin(nil, kindCancel, 1), 0)...),
		append(end(append(begin(nil, kindLoad, 1), "\x00{}"...), 0), end(begin(nil, kindUnload, 1), 0)...),
	} {
		f.Add(frames)
	}
	page, file, err := NewPage()
	if err != nil {
		f.Fatal(err)
	}
	file.Close()
	f.Fuzz(func(t *testing.T, frames []byte) {
		daemon, worker := socketpair(t)
		var running sync.WaitGroup
		running.Go(func() { _, _ = io.Copy(io.Discard, daemon) })
		running.Go(func() {
			_, _ = daemon.Write(frames)
			_ = daemon.CloseWrite()
		})
		h := handler{serve: echo, load: func(_ uint32, _ *Spec, files []*os.File) error {
			closeAll(files)
			return context.Canceled
		}}
		err := Serve(worker, page, h, Hello{})
		var broke *ProtocolError
		if err == nil || !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.As(err, &broke) {
			t.Errorf("it ended with %v", err)
		}
		running.Wait()
		daemon.Close()
	})
}
