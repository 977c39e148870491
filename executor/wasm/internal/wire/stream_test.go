package wire

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lambent"
)

// within fails the test unless cond holds soon.
func within(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("not in a minute: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// noise is a body of n bytes, the same each time.
func noise(n int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), n) }

func sum(t testing.TB, r io.Reader) [32]byte {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

// TestLarge has 100 MB go both ways at the same time, in bounded memory.
func TestLarge(t *testing.T) {
	const size = 100 << 20
	c := connect(t, handler{serve: echo})
	want := sum(t, noise(size))
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var most atomic.Uint64
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most.Store(max(most.Load(), m.HeapAlloc))
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	r := post(noise(size), -1)
	x, err := c.Do(t.Context(), 1, r)
	if err != nil {
		t.Fatal(err)
	}
	got := sum(t, x)
	if err := x.Close(); err != nil || got != want || r.Sent != size {
		t.Errorf("%v, the same: %v, %d sent", err, got == want, r.Sent)
	}
	close(stop)
	watching.Wait()
	if most := most.Load(); most > before.HeapAlloc+64<<20 { // most of it garbage
		t.Errorf("%d MB of heap, %d before", most>>20, before.HeapAlloc>>20)
	}
}

// TestWindows: what the daemon keeps of answers that nobody reads, or no longer, is bounded.
func TestWindows(t *testing.T) {
	part := make([]byte, 2*Window)
	c := connect(t, handler{serve: func(s *Incoming) {
		_ = s.Respond(200, nil, -1)
		_, _ = s.Write(part)
		s.End(Usage{}, nil)
	}})
	kept := func() (sum int) {
		for i := range c.slot {
			if s := c.slot[i].Load(); s != nil {
				s.mu.Lock()
				sum += s.body.size
				s.mu.Unlock()
			}
		}
		return sum
	}
	const n = maxWide + 10
	var answers []*Exchange
	for range n {
		x, err := c.Do(t.Context(), 1, get("/"))
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, x)
	}
	within(t, "no more comes that nobody reads", func() bool { return kept() == n*firstWindow })
	for _, x := range answers {
		if _, err := io.ReadFull(x, part[:firstWindow]); err != nil {
			t.Fatal(err)
		}
	}
	within(t, "more comes to some", func() bool { return kept() == maxWide*Window+(n-maxWide)*firstWindow })
	for _, x := range answers {
		if rest, err := io.Copy(io.Discard, x); rest != 2*Window-firstWindow || err != nil {
			t.Errorf("%d bytes, %v", rest, err)
		}
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	}
	if wide := c.wide.Load(); wide != 0 {
		t.Errorf("%d windows are not given back", wide)
	}
}

// TestSlow holds a writer back whose reader does not read, both ways.
func TestSlow(t *testing.T) {
	var written atomic.Int64
	c := connect(t, handler{serve: func(s *Incoming) {
		if s.Target == "/deaf" {
			<-s.Done()
			return
		}
		_ = s.Respond(200, nil, -1)
		part := make([]byte, 1000)
		for range 1000 {
			n, err := s.Write(part)
			written.Add(int64(n))
			if err != nil {
				t.Error(err)
				break
			}
		}
		s.End(Usage{}, nil)
	}})
	x, err := c.Do(t.Context(), 1, get("/"))
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the window is used", func() bool { return written.Load() == firstWindow/1000*1000 })
	// Others are none the wiser.
	y, err := c.Do(t.Context(), 1, get("/"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(y); len(b) != 1_000_000 || err != nil {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if b, err := io.ReadAll(x); len(b) != 1_000_000 || err != nil {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if err := errors.Join(x.Close(), y.Close()); err != nil {
		t.Error(err)
	}
	// A guest that does not ask for the body: nothing of it is read.
	ctx, cancel := context.WithCancel(t.Context())
	body := &closable{Reader: noise(1 << 20)}
	r := post(body, -1)
	r.Target, r.Body = "/deaf", body
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := c.Do(ctx, 1, r); !errors.Is(err, context.Canceled) || errors.Is(err, ErrRunning) {
		t.Error(err)
	}
	if r.Sent != 0 || body.reads.Load() != 0 {
		t.Errorf("%d bytes were sent, %d reads", r.Sent, body.reads.Load())
	}
}

// closable is a body whose Close ends a Read, as net/http's is.
type closable struct {
	io.Reader
	reads  atomic.Int32
	closed chan struct{}
	once   sync.Once
}

func (b *closable) Read(p []byte) (int, error) {
	b.reads.Add(1)
	if b.Reader != nil {
		return b.Reader.Read(p)
	}
	<-b.closed
	return 0, errors.New("read after close")
}

func (b *closable) Close() error {
	if b.closed != nil {
		b.once.Do(func() { close(b.closed) })
	}
	return nil
}

// TestMany has a thousand requests under way at the same time.
func TestMany(t *testing.T) {
	const many = 1000
	var here sync.WaitGroup
	here.Add(many)
	c := connect(t, handler{serve: func(s *Incoming) {
		here.Done()
		here.Wait()
		echo(s)
	}})
	var callers sync.WaitGroup
	for i := range many {
		callers.Go(func() {
			want := strings.Repeat(fmt.Sprint(i, " "), 1+i%20*1000)
			x, err := c.Do(t.Context(), 1, post(strings.NewReader(want), int64(len(want))))
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := io.ReadAll(x); string(got) != want || err != nil {
				t.Errorf("%d: %d of %d bytes, %v", i, len(got), len(want), err)
			}
			if err := x.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
}

// TestFull: a connection carries so many requests and no more, and goes on when some have ended.
func TestFull(t *testing.T) {
	c := connect(t, handler{serve: func(s *Incoming) { <-s.Done() }})
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for range MaxStreams {
		callers.Go(func() {
			if _, err := c.Do(ctx, 1, get("/")); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	within(t, "all have a stream", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.made == MaxStreams && len(c.free) == 0 })
	if _, err := c.Do(ctx, 1, get("/")); err != ErrFull {
		t.Error(err)
	}
	cancel()
	callers.Wait()
	// On a busy machine some callers do not wait for the end of what they have cancelled.
	within(t, "all are free", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.free) == MaxStreams })
}

// TestStubborn: who does not notice that its caller has left keeps its stream until it does.
func TestStubborn(t *testing.T) {
	release := make(chan struct{})
	c := connect(t, handler{serve: func(s *Incoming) {
		<-release
		_ = s.Respond(200, nil, -1)
		s.End(Usage{}, nil)
	}})
	c.settle = time.Millisecond
	ended := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, err := c.Do(ctx, 1, get("/"))
		ended <- err
	}()
	within(t, "it has a stream", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.made == 1 && len(c.free) == 0 })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) || !errors.Is(err, ErrRunning) {
		t.Error(err)
	}
	if len(c.free) != 0 {
		t.Error("its stream is free")
	}
	close(release)
	within(t, "its stream is free", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.free) == 1 })
	x, err := c.Do(t.Context(), 1, get("/"))
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
}

func TestLimits(t *testing.T) {
	c := connect(t, handler{serve: func(s *Incoming) {
		if s.Target == "/talk" {
			_ = s.Respond(200, nil, -1)
			_, _ = s.Write([]byte("talk"))
			s.Flush()
		}
		<-s.Done()
	}})
	soon := func() time.Time { return time.Now().Add(20 * time.Millisecond) }
	for _, test := range []struct {
		target string
		set    func(*Request)
		want   Limit
	}{
		{"/", func(r *Request) { r.FirstByte = soon() }, LimitFirstByte},
		{"/", func(r *Request) { r.Deadline, r.FirstByte = soon(), time.Now().Add(time.Hour) }, LimitTotal},
		{"/talk", func(r *Request) { r.Idle = 20 * time.Millisecond }, LimitIdle},
		{"/talk", func(r *Request) { r.Deadline, r.Idle = soon(), time.Hour }, LimitTotal},
	} {
		r := get(test.target)
		test.set(r)
		x, err := c.Do(t.Context(), 1, r)
		if err == nil {
			_, err = io.ReadAll(x)
			if cerr := x.Close(); cerr != nil {
				t.Error(cerr)
			}
		}
		var late *TimeoutError
		if !errors.As(err, &late) || late.Limit != test.want || errors.Is(err, ErrRunning) {
			t.Errorf("%s, %s: %v", test.target, test.want, err)
		}
	}
}

// TestWaits: what a guest waits for ends with its time.
func TestWaits(t *testing.T) {
	c := connect(t, handler{serve: func(s *Incoming) {
		_, err := s.Read(make([]byte, 1))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		s.End(Usage{}, lambent.Errorf(lambent.CodeTotalTimeout, "%w", err))
	}})
	c.late = time.Minute
	body := &closable{closed: make(chan struct{})}
	r := get("/")
	r.Body, r.Length, r.Deadline = body, -1, time.Now().Add(20*time.Millisecond)
	if _, err := c.Do(t.Context(), 1, r); !lambent.HasCode(err, lambent.CodeTotalTimeout) {
		t.Error(err)
	}
}

func TestBodies(t *testing.T) {
	broken := errors.New("broken")
	c := connect(t, handler{serve: func(s *Incoming) {
		if s.Target == "/early" {
			_ = s.Respond(200, nil, 5)
			_, _ = s.Write([]byte("early"))
			s.End(Usage{}, nil)
			return
		}
		echo(s)
	}})
	failing := func(n int64) io.Reader {
		return io.MultiReader(noise(n), readerFunc(func([]byte) (int, error) { return 0, broken }))
	}
	for _, test := range []struct {
		name   string
		body   io.Reader
		length int64
		want   error
	}{
		{"small, broken", failing(10), 20, broken},
		{"small, short", noise(10), 20, io.ErrUnexpectedEOF},
		{"small, empty", noise(0), 20, io.ErrUnexpectedEOF},
		{"large, broken", failing(1 << 20), 2 << 20, broken},
		{"large, short", noise(1 << 20), 2 << 20, io.ErrUnexpectedEOF},
		{"unknown, broken", failing(1 << 20), -1, broken},
		{"unknown, idle", readerFunc(func([]byte) (int, error) { return 0, nil }), -1, io.ErrNoProgress},
		{"more than it says", noise(1 << 21), 1 << 20, nil},
	} {
		x, err := c.Do(t.Context(), 1, post(test.body, test.length))
		if err == nil {
			_, err = io.ReadAll(x)
			if cerr := x.Close(); cerr != nil {
				t.Errorf("%s: %v", test.name, cerr)
			}
		}
		var body *BodyError
		if !errors.Is(err, test.want) || test.want != nil && !errors.As(err, &body) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	// A small body that does not come, and one that is not needed.
	slow := &closable{closed: make(chan struct{})}
	r := get("/")
	r.Body, r.Length, r.FirstByte = slow, 10, time.Now().Add(20*time.Millisecond)
	if _, err := c.Do(t.Context(), 1, r); !errors.Is(err, ErrLate) {
		t.Error(err)
	}
	r.Body = &closable{closed: make(chan struct{})}
	r.FirstByte = time.Time{}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := c.Do(ctx, 1, r); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	r.Target, r.Body, r.Length = "/early", &closable{closed: make(chan struct{})}, 1<<20
	x, err := c.Do(t.Context(), 1, r)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(x); string(b) != "early" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestClose: Close ends a Read in another goroutine, and a body that waits.
func TestClose(t *testing.T) {
	c := connect(t, handler{serve: func(s *Incoming) {
		_ = s.Respond(200, nil, -1)
		s.Flush()
		if _, err := s.Read(make([]byte, 10)); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		s.End(Usage{Memory: 1}, lambent.Errorf(lambent.CodeClientClosed, "left"))
	}})
	r := get("/")
	r.Body, r.Length = &closable{closed: make(chan struct{})}, -1
	x, err := c.Do(t.Context(), 1, r)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error)
	go func() {
		_, err := x.Read(make([]byte, 10))
		read <- err
	}()
	within(t, "the read waits", func() bool {
		if x.mu.TryLock() {
			x.mu.Unlock()
			return false
		}
		return true
	})
	if err := x.Close(); err != nil || x.Close() != nil {
		t.Error(err)
	}
	if err := <-read; !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	if r.Usage.Memory != 1 {
		t.Error("no usage of a request that was given up")
	}
}

func TestHeads(t *testing.T) {
	big := strings.Repeat("x", MaxHead-1000)
	c := connect(t, handler{serve: func(s *Incoming) {
		answer := []Field{{Name: "Set-Cookie", Value: "a"}, {Name: "set-cookie", Value: "b"}}
		switch s.Target {
		case "/bad":
			answer = []Field{{Name: "X", Value: "a\r\nb"}}
		case "/huge":
			answer = []Field{{Name: "X", Value: big + big}}
		}
		for _, f := range s.Header {
			if f.Name == "X-Big" {
				answer = append(answer, f)
			}
		}
		if err := s.Respond(200, answer, -1); err != nil {
			s.End(Usage{}, lambent.Errorf(lambent.CodeBadResponse, "%w", err))
			return
		}
		if s.Target == "/short" {
			_ = s.Respond(200, nil, 3)
		}
		s.End(Usage{}, nil)
	}})
	r := get("/")
	r.Header.Set("X-Big", big)
	r.Header.Set("X-Skipped", big)
	r.Skip = func(name string) bool { return name == "X-Skipped" }
	x, err := c.Do(t.Context(), 1, r)
	if err != nil {
		t.Fatal(err)
	}
	if x.Header.Get("X-Big") != big || !slices.Equal(x.Header["Set-Cookie"], []string{"a", "b"}) || len(x.Header) != 2 {
		t.Errorf("%.200v", x.Header)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	var head *HeadError
	r.Skip = nil
	if _, err := c.Do(t.Context(), 1, r); !errors.As(err, &head) {
		t.Errorf("%.200v", err)
	}
	many := get("/")
	many.Header = http.Header{"X": make([]string, maxFields+1)}
	if _, err := c.Do(t.Context(), 1, many); !errors.As(err, &head) {
		t.Errorf("%.200v", err)
	}
	for _, target := range []string{"/bad", "/huge"} {
		if _, err := c.Do(t.Context(), 1, get(target)); !lambent.HasCode(err, lambent.CodeBadResponse) {
			t.Errorf("%s: %.200v", target, err)
		}
	}
	if len(c.free) != c.made {
		t.Errorf("%d of %d streams are free", len(c.free), c.made)
	}
}

// TestLogs: lines come in order, and before the end of the answer does.
func TestLogs(t *testing.T) {
	c := connect(t, handler{serve: func(s *Incoming) {
		for i := range 100 {
			s.Log(logStreams[i%3], fmt.Append(nil, i))
		}
		s.Log("stdout", bytes.Repeat([]byte("x"), MaxLine+1))
		_ = s.Respond(200, nil, 0)
		s.End(Usage{}, nil)
		s.Log("stdout", []byte("too late"))
	}})
	var lines []string
	r := get("/")
	r.Log = func(stream, line string) { lines = append(lines, stream+" "+line) }
	x, err := c.Do(t.Context(), 1, r)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil || len(lines) != 101 || lines[1] != "stderr 1" || lines[98] != "lambent 98" || len(lines[100]) != len("stdout ")+MaxLine {
		t.Errorf("%v, %d lines", err, len(lines))
	}
}

// TestCrowded: who logs faster than the daemon reads is told to wait, and is not held up unasked.
func TestCrowded(t *testing.T) {
	c := connect(t, handler{serve: func(s *Incoming) {
		w := s.server.w
		w.mu.Lock()
		w.busy = true // nobody writes
		w.mu.Unlock()
		before := s.Crowded()
		for range 2*maxQueued/MaxLine + 1 {
			s.Log("stdout", bytes.Repeat([]byte("x"), MaxLine))
		}
		crowded := s.Crowded()
		w.drain()
		s.Wait()
		if before || !crowded || s.Crowded() {
			t.Error("the room in the queue is not told")
		}
		_ = s.Respond(200, nil, 0)
		s.End(Usage{}, nil)
	}})
	r := get("/")
	r.Log = func(string, string) {}
	x, err := c.Do(t.Context(), 1, r)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
}

// TestMistakes: what a handler does wrong fails its own request.
func TestMistakes(t *testing.T) {
	c := connect(t, handler{serve: func(s *Incoming) {
		switch s.Target {
		case "/panic":
			panic("at the disco")
		case "/silent":
			s.End(Usage{}, nil)
		case "/short":
			_ = s.Respond(200, nil, 10)
			s.End(Usage{}, nil)
		case "/long":
			_ = s.Respond(200, nil, 1)
			if _, err := s.Write([]byte("long")); err == nil {
				t.Error("it could write more than it said")
			}
			s.End(Usage{}, nil)
		case "/twice":
			if err := errors.Join(s.Respond(200, nil, 0)); err != nil || s.Respond(200, nil, 0) == nil {
				t.Error("two heads")
			}
		case "/headless":
			if _, err := s.Write([]byte("x")); err == nil {
				t.Error("a body without a head")
			}
		case "/99":
			if err := s.Respond(99, nil, 0); err == nil {
				t.Error("status 99")
			}
		}
	}})
	for target, want := range map[string]lambent.Code{
		"/panic": lambent.CodeInternal, "/silent": lambent.CodeBadResponse, "/short": lambent.CodeBadResponse, "/long": lambent.CodeBadResponse,
		"/twice": lambent.CodeInternal, "/headless": lambent.CodeInternal, "/99": lambent.CodeInternal, "/none": lambent.CodeInternal,
	} {
		if _, err := c.Do(t.Context(), 1, get(target)); !lambent.HasCode(err, want) {
			t.Errorf("%s: %v", target, err)
		}
	}
	r := get("/short")
	r.Method = "HEAD"
	if x, err := c.Do(t.Context(), 1, r); err != nil || x.Length != 10 || x.Close() != nil {
		t.Error(err)
	}
}

// TestRunaway: a worker that goes on with what nobody waits for any more is given up.
func TestRunaway(t *testing.T) {
	release := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	c := connect(t, handler{serve: func(s *Incoming) {
		cancel()
		<-release
		s.End(Usage{}, nil)
	}})
	c.settle, c.w.patience = time.Millisecond, 20*time.Millisecond
	if _, err := c.Do(ctx, 1, get("/")); !errors.Is(err, ErrRunning) {
		t.Error(err)
	}
	var broke *ProtocolError
	if <-c.Done(); !errors.As(c.Err(), &broke) {
		t.Error(c.Err())
	}
	close(release)
}
