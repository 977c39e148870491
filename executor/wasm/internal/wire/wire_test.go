package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"lambent"
)

func TestMain(m *testing.M) {
	if os.Args[0] == workerName {
		runWorker()
	}
	goleak.VerifyTestMain(m)
}

// socketpair gives both ends of a worker's socket.
func socketpair(t testing.TB) (daemon, worker *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// handler is a Handler of functions. A nil one does nothing.
type handler struct {
	load   func(program uint32, spec *Spec, files []*os.File) error
	unload func(program uint32)
	serve  func(s *Incoming)
}

func (h handler) Load(program uint32, spec *Spec, files []*os.File) error {
	return h.load(program, spec, files)
}
func (h handler) Unload(program uint32) {
	if h.unload != nil {
		h.unload(program)
	}
}
func (h handler) Serve(s *Incoming) { h.serve(s) }

// connect serves h and gives the daemon's end.
func connect(t testing.TB, h handler) *Conn {
	t.Helper()
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
	var ended sync.WaitGroup
	ended.Go(func() {
		if err := Serve(worker, theirs, h, Hello{Slow: "as a test"}); err != io.EOF && !errors.Is(err, io.EOF) {
			t.Errorf("the worker's end ended with %v", err)
		}
	})
	c, err := New(daemon, page)
	if err != nil {
		t.Fatal(err)
	}
	c.settle = time.Minute // a busy machine takes its time
	t.Cleanup(func() {
		c.Close()
		ended.Wait()
	})
	return c
}

// echo answers with the request's body.
func echo(s *Incoming) {
	s.Start()
	err := s.Respond(200, []Field{{Name: "Content-Type", Value: "text/plain"}, {Name: "x-target", Value: s.Target}}, s.Length)
	if err == nil {
		_, err = io.Copy(struct{ io.Writer }{s}, struct{ io.Reader }{s})
	}
	if err != nil {
		s.End(Usage{}, lambent.Errorf(lambent.CodeInternal, "%w", err))
		return
	}
	s.End(Usage{CPU: time.Millisecond, Memory: 65536}, nil)
}

func get(target string) *Request {
	return &Request{Method: "GET", Target: target, Host: "f.example", Proto: "HTTP/1.1",
		Header: http.Header{"Accept": {"*/*"}, "User-Agent": {"test"}}}
}

func post(body io.Reader, length int64) *Request {
	r := get("/")
	r.Method, r.Body, r.Length = "POST", io.NopCloser(body), length
	return r
}

func TestRoundTrip(t *testing.T) {
	c := connect(t, handler{serve: echo})
	if hello, err := c.Hello(t.Context()); err != nil || hello.Slow != "as a test" {
		t.Fatalf("hello %+v, %v", hello, err)
	}
	big := strings.Repeat("0123456789abcdef", 1<<16)
	for _, body := range []string{"", "x", big[:smallBody], big[:smallBody+1], big[:Window], big} {
		for _, known := range []bool{true, false} {
			length := int64(len(body))
			if !known {
				length = -1
			}
			r := post(strings.NewReader(body), length)
			x, err := c.Do(t.Context(), 7, r)
			if err != nil {
				t.Fatalf("%d bytes, known %v: %v", len(body), known, err)
			}
			got, err := io.ReadAll(x)
			if err != nil || string(got) != body {
				t.Errorf("%d bytes, known %v: %d bytes back, %v", len(body), known, len(got), err)
			}
			if x.Status != 200 || x.Length != length || x.Header.Get("X-Target") != "/" {
				t.Errorf("%d bytes: %d %v %d", len(body), x.Status, x.Header, x.Length)
			}
			if err := x.Close(); err != nil {
				t.Error(err)
			}
			if r.Usage != (Usage{time.Millisecond, 65536}) || r.Sent != int64(len(body)) {
				t.Errorf("%d bytes: %+v, %d sent", len(body), r.Usage, r.Sent)
			}
		}
	}
}

func TestVerdict(t *testing.T) {
	told := lambent.Errorf(lambent.CodeHandlerError, "it \xff exited with 1").WithHint("look")
	told.Trace = "wasm stack"
	c := connect(t, handler{serve: func(s *Incoming) {
		_ = s.Respond(200, nil, -1)
		s.End(Usage{CPU: time.Second}, told)
	}})
	r := get("/")
	_, err := c.Do(t.Context(), 1, r)
	var e *lambent.Error
	if !errors.As(err, &e) || e.Code != told.Code || e.Message != "it \uFFFD exited with 1" || e.Hint != told.Hint || e.Trace != told.Trace || r.Usage.CPU != time.Second {
		t.Errorf("%#v, %v", e, r.Usage)
	}
}

func TestLoad(t *testing.T) {
	got, secrets := make(chan string, 1), make(chan [][]byte, 1)
	unloaded := make(chan uint32, 2)
	c := connect(t, handler{
		load: func(program uint32, spec *Spec, files []*os.File) error {
			var all []string
			for _, f := range files {
				b, err := io.ReadAll(f)
				if err != nil {
					return err
				}
				f.Close()
				all = append(all, string(b))
			}
			got <- fmt.Sprint(program, spec.Function, all)
			switch program {
			case 2:
				return errors.New("no such thing")
			case 3:
				return &LoadError{true, "a broken thing"}
			case 4:
				secrets <- spec.Env
			}
			return nil
		},
		unload: func(program uint32) { unloaded <- program },
	})
	var files []*os.File
	for _, name := range []string{"a", "b", "c"} {
		path := t.TempDir() + "/" + name
		if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	if err := c.Load(t.Context(), 1, &Spec{Function: "f"}, files); err != nil {
		t.Fatal(err)
	}
	if s := <-got; s != "1f[a b c]" && s != "1 f [a b c]" {
		t.Error(s)
	}
	var e *LoadError
	if err := c.Load(t.Context(), 2, &Spec{}, nil); !errors.As(err, &e) || *e != (LoadError{false, "no such thing"}) {
		t.Error(err)
	}
	<-got
	if err := c.Load(t.Context(), 3, &Spec{}, nil); !errors.As(err, &e) || *e != (LoadError{true, "a broken thing"}) {
		t.Error(err)
	}
	<-got
	many := make([][]byte, 100) // as many and as long as secrets may be
	for i := range many {
		many[i] = bytes.Repeat([]byte{byte(i + 128)}, lambent.MaxSecret)
	}
	if err := c.Load(t.Context(), 4, &Spec{Env: many}, nil); err != nil {
		t.Fatal(err)
	}
	if <-got; !reflect.DeepEqual(<-secrets, many) {
		t.Error("secrets have changed on their way")
	}
	if err := c.Load(t.Context(), 5, &Spec{Env: slices.Repeat(many, 2)}, nil); !lambent.HasCode(err, lambent.CodeStartFailed) {
		t.Error(err)
	}
	c.Unload(1)
	if p := <-unloaded; p != 1 {
		t.Error(p)
	}
}
