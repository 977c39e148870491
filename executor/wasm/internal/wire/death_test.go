package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKilled: when a worker is killed, what its guests have begun with is lost, and what they have not is known.
func TestKilled(t *testing.T) {
	c, cmd := process(t)
	var callers sync.WaitGroup
	for _, test := range []struct {
		target  string
		body    string
		started bool
	}{{"/hang", "", true}, {"/hang", "body", true}, {"/wait", "", false}, {"/wait", "body", false}} {
		r := post(strings.NewReader(test.body), int64(len(test.body)))
		r.Target = test.target
		callers.Go(func() {
			_, err := c.Do(t.Context(), 1, r)
			var lost *LostError
			if !errors.As(err, &lost) || lost.Started() != test.started {
				t.Errorf("%s: %v", test.target, err)
			}
			want := test.body
			if test.started {
				want = ""
			}
			if got := string(r.Untaken()); got != want {
				t.Errorf("%s: %q can be sent again, of %q", test.target, got, test.body)
			}
		})
	}
	within(t, "two have begun", func() bool {
		n := 0
		for i := range c.page.words {
			if c.page.words[i].Load() != 0 {
				n++
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return n == 2 && c.made == 4
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	callers.Wait()
	<-c.Done()
	if !errors.Is(c.Err(), io.EOF) && !errors.Is(c.Err(), syscall.ECONNRESET) {
		t.Error(c.Err())
	}
	var lost *LostError
	if _, err := c.Do(t.Context(), 1, get("/")); !errors.As(err, &lost) || lost.Started() {
		t.Error(err)
	}
	if err := c.Load(t.Context(), 1, &Spec{}, nil); !errors.As(err, &lost) {
		t.Error(err)
	}
}

// TestLostInTheMiddle: the connection ends while an answer is read: what came is given first.
func TestLostInTheMiddle(t *testing.T) {
	half := make(chan struct{})
	c := connect(t, handler{serve: func(s *Incoming) {
		s.Start()
		_ = s.Respond(200, nil, 10)
		_, _ = s.Write([]byte("half"))
		s.Flush()
		<-half
		_ = s.server.w.conn.CloseWrite() // half-closed: the daemon could still speak
		<-s.Done()
	}})
	x, err := c.Do(t.Context(), 1, get("/"))
	if err != nil {
		t.Fatal(err)
	}
	close(half)
	<-c.Done()
	b, err := io.ReadAll(x)
	var lost *LostError
	if string(b) != "half" || !errors.As(err, &lost) || !lost.Started() {
		t.Errorf("%q, %v", b, err)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
}

// TestLastWords: what a worker has answered counts, though it could not be written to any more.
func TestLastWords(t *testing.T) {
	c, worker, wait := raw(t, get("/"), func(err error) {
		if err != nil && err != io.EOF {
			t.Error(err)
		}
	})
	s := c.slot[0].Load()
	s.mu.Lock() // the reader stands still
	_, err := worker.Write(out(flagHead|flagEnd, MaxStreams, head(200, 4), "body", trailer(string(appendResult(nil, Usage{}, nil)))))
	c.fail(unix.EPIPE)
	s.mu.Unlock()
	if err != nil {
		t.Error(err)
	}
	wait()
}

// TestLateStart: a worker that lives on when the daemon has ended the connection may still begin with what it has not read.
func TestLateStart(t *testing.T) {
	daemon, worker := socketpair(t)
	page, file, err := NewPage()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := OpenPage(file)
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(daemon, page)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := c.Do(t.Context(), 1, get("/"))
		got <- err
	}()
	socket, err := worker.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = socket.Read(func(fd uintptr) bool { // the request is there, and stays there
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK)
		return n > 0 || err != unix.EAGAIN
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	var lost *LostError
	if err := <-got; !errors.As(err, &lost) || lost.Started() {
		t.Error(err)
	}
	if err := Serve(worker, theirs, handler{serve: echo}, Hello{}); err != io.EOF {
		t.Error(err)
	}
	if !lost.Started() {
		t.Error("the worker has begun with it, and the daemon does not know")
	}
}

// TestDeaf: a worker that does not read is given up.
func TestDeaf(t *testing.T) {
	daemon, worker := socketpair(t)
	defer worker.Close()
	page, file, err := NewPage()
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	c, err := New(daemon, page)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.w.patience = 20 * time.Millisecond
	var callers sync.WaitGroup
	for range 100 {
		callers.Go(func() {
			r := get("/")
			r.Header.Set("X-Big", strings.Repeat("x", MaxHead/2))
			var lost *LostError
			if _, err := c.Do(t.Context(), 1, r); !errors.As(err, &lost) || lost.Started() {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	var broke *ProtocolError
	if <-c.Done(); !errors.As(c.Err(), &broke) {
		t.Error(c.Err())
	}
}

// raw gives a Conn with one request under way, whose stream's number is given, and its worker's end.
func raw(t testing.TB, r *Request, ended func(error)) (c *Conn, worker io.WriteCloser, wait func()) {
	t.Helper()
	daemon, peer := socketpair(t)
	page, file, err := NewPage()
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	if c, err = New(daemon, page); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { _, _ = io.Copy(io.Discard, peer) }) // until c hangs up
	running.Go(func() {
		x, err := c.Do(t.Context(), 1, r)
		if err == nil {
			_, err = io.Copy(io.Discard, x)
			x.Close()
		}
		ended(err)
	})
	within(t, "the request is under way", func() bool {
		s := c.slot[0].Load()
		if s == nil {
			return false
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.open
	})
	return c, peer, func() {
		running.Wait()
		c.Close()
		peer.Close()
	}
}

// out makes an out frame of the first request of a connection.
func out(flags byte, id uint32, parts ...string) []byte {
	b := begin(nil, kindOut, id)
	b[3] |= flags
	return end(append(b, strings.Join(parts, "")...), 0)
}

func section(s string) string { return string(endSection(append(beginSection(nil), s...), 0)) }

func trailer(s string) string {
	n := section(s)[:4]
	return s + n
}

func head(status int, length int64, fields ...Field) string {
	b, err := appendResponse(nil, status, fields, length)
	if err != nil {
		panic(err)
	}
	return section(string(b))
}

// TestHostile: whoever breaks a rule loses the connection.
func TestHostile(t *testing.T) {
	const id = MaxStreams
	fine := head(200, -1)
	result := string(appendResult(nil, Usage{}, nil))
	for name, frames := range map[string][]byte{
		"unknown type":                  end(begin(nil, 0x1f, id), 0),
		"daemon's type":                 end(begin(nil, kindCancel, id), 0),
		"flags of others":               append(end(append(begin(nil, kindCredit, id), 1, 0, 0, 0), 0)[:3], byte(kindCredit)|flagHead, 0, 0, 0, 0, 1, 0, 0, 0),
		"huge frame":                    {0xff, 0xff, 0xff, byte(kindOut), 0, 0, 0, 0},
		"another's stream":              out(flagHead, id+1, fine),
		"an earlier stream":             out(flagHead, 0, fine),
		"a later stream":                out(flagHead, 2*id, fine),
		"body before head":              out(0, id, "body"),
		"two heads":                     append(out(flagHead, id, fine), out(flagHead, id, fine)...),
		"after the end":                 append(out(flagHead|flagEnd, id, fine, trailer(result)), out(0, id, "more")...),
		"more than its credit":          out(flagHead, id, fine, strings.Repeat("x", Window+1)),
		"longer than its length":        out(flagHead, id, head(200, 3), "four"),
		"shorter than its length":       out(flagHead|flagEnd, id, head(200, 5), "four", trailer(result)),
		"end without answer":            out(flagEnd, id, trailer(result)),
		"section without length":        out(flagHead, id, "x"),
		"section beyond frame":          out(flagHead, id, "\xff\xff\xff\xff"),
		"trailer without length":        out(flagEnd, id, "x"),
		"trailer beyond frame":          out(flagEnd, id, "\xff\xff\xff\xff"),
		"status 101":                    out(flagHead, id, head(101, -1)),
		"status 1000":                   out(flagHead, id, head(1000, -1)),
		"length -2":                     out(flagHead, id, head(200, -2)),
		"a head of nothing":             out(flagHead, id, section("")),
		"a head with more":              out(flagHead, id, section("\xc8\x01\x01\x00more")),
		"more fields than bytes":        out(flagHead, id, section("\xc8\x01\x01\xff\x1f")),
		"a line in a field":             out(flagHead, id, head(200, -1, Field{Name: "A", Value: "b\nc"})),
		"a field without name":          out(flagHead, id, head(200, -1, Field{Name: "", Value: "b"})),
		"a name with a space":           out(flagHead, id, head(200, -1, Field{Name: "a b", Value: "b"})),
		"an unknown verdict":            out(flagEnd, id, trailer("\x00\x00\x01x\x00\x00\x00")),
		"a result with more":            out(flagEnd, id, trailer(string(appendResult(nil, Usage{}, nil))+"\x0dhandler_error\x00\x00\x00more")),
		"a result of nothing":           out(flagEnd, id, trailer("")),
		"a negative time":               out(flagHead|flagEnd, id, fine, trailer("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00")),
		"a credit for a body it has":    appendNumber(nil, kindCredit, id, 1),
		"a credit of three bytes":       end(append(begin(nil, kindCredit, id), 1, 2, 3), 0),
		"a program nobody asked for":    end(begin(nil, kindLoaded, 3), 0),
		"a hello that is none":          end(append(begin(nil, kindHello, 0), "{"...), 0),
		"two hellos":                    append(end(append(begin(nil, kindHello, 0), "{}"...), 0), end(append(begin(nil, kindHello, 0), "{}"...), 0)...),
		"a line of a stream that isn't": end(append(begin(nil, kindLog, id), "\x03x"...), 0),
		"a line without a stream":       end(begin(nil, kindLog, id), 0),
		"a line that is too long":       end(append(begin(nil, kindLog, id), make([]byte, MaxLine+2)...), 0),
		"two lines as one":              end(append(begin(nil, kindLog, id), "\x00a\nb"...), 0),
		"a log without end":             bytes.Repeat(end(append(begin(nil, kindLog, id), make([]byte, 1+MaxLine)...), 0), 19),
		"a line of nobody's":            end(append(begin(nil, kindLog, id+1), 0), 0),
	} {
		t.Run(name, func(t *testing.T) {
			c, worker, wait := raw(t, get("/"), func(err error) {
				if answered := err == nil || err == io.EOF; answered != (name == "after the end") {
					t.Errorf("the request ended with %v", err)
				}
			})
			if _, err := worker.Write(frames); err != nil && !errors.Is(err, unix.EPIPE) {
				t.Error(err)
			}
			<-c.Done()
			wait()
			var broke *ProtocolError
			if !errors.As(c.Err(), &broke) {
				t.Error(c.Err())
			}
		})
	}
	t.Run("credits beyond the window", func(t *testing.T) {
		r := get("/")
		r.Body, r.Length = &closable{closed: make(chan struct{})}, -1
		c, worker, wait := raw(t, r, func(error) {})
		for range 2 {
			if _, err := worker.Write(appendNumber(nil, kindCredit, id, Window)); err != nil && !errors.Is(err, unix.EPIPE) {
				t.Error(err)
			}
		}
		<-c.Done()
		wait()
		var broke *ProtocolError
		if !errors.As(c.Err(), &broke) {
			t.Error(c.Err())
		}
	})
	t.Run("half a frame", func(t *testing.T) {
		c, worker, wait := raw(t, get("/"), func(error) {})
		if _, err := worker.Write(out(flagHead, id, fine)[:10]); err != nil {
			t.Error(err)
		}
		worker.Close()
		<-c.Done()
		wait()
		if !errors.Is(c.Err(), io.ErrUnexpectedEOF) {
			t.Error(c.Err())
		}
	})
}
