package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"lambent"
	"lambent/executor/wasm/internal/compile"
	"lambent/executor/wasm/internal/wire"
)

// workerName is the argument that makes this test a worker.
const workerName = "worker-test-worker"

func TestMain(m *testing.M) {
	if os.Args[0] == workerName {
		f := os.NewFile(3, "socket")
		conn, err := net.FileConn(f)
		f.Close()
		if err == nil {
			err = Run(conn.(*net.UnixConn), os.NewFile(4, "page"), Options{Dir: os.Args[1], Memory: 1 << 30})
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// artefacts remembers what was compiled, by name.
var artefacts sync.Map

// build compiles a module that build makes at a path.
func build(t testing.TB, name string, build func(out string) *exec.Cmd) (*wire.Spec, []*os.File) {
	t.Helper()
	type made struct {
		spec  wire.Spec
		files [3][]byte
	}
	a, ok := artefacts.Load(name)
	if !ok {
		out := filepath.Join(t.TempDir(), "guest.wasm")
		cmd := build(out)
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		wasm, err := os.ReadFile(out)
		check(t, err)
		c, err := compile.Compile(t.Context(), wasm, compile.Options{Dir: t.TempDir()})
		check(t, err)
		a = made{wire.Spec{Meta: c.Meta}, [3][]byte{c.Module, c.Native, c.Image}}
		artefacts.Store(name, a)
	}
	m := a.(made)
	var files []*os.File
	for i, content := range m.files {
		path := filepath.Join(t.TempDir(), fmt.Sprint(i))
		check(t, os.WriteFile(path, content, 0o444))
		f, err := os.Open(path)
		check(t, err)
		t.Cleanup(func() { f.Close() })
		files = append(files, f)
	}
	m.spec.Function, m.spec.Env, m.spec.Memory, m.spec.MaxOutput = name, [][]byte{[]byte("SECRET=of " + name)}, 64<<20, -1
	return &m.spec, files
}

func reactor(t testing.TB) (*wire.Spec, []*os.File) {
	return build(t, "reactor", func(out string) *exec.Cmd {
		return exec.Command("clang", "--target=wasm32", "-nostdlib", "-O2", "-mbulk-memory", "-Wl,--no-entry", "-o", out, "testdata/guest.c")
	})
}

func command(t testing.TB) (*wire.Spec, []*os.File) {
	return build(t, "command", func(out string) *exec.Cmd {
		cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", out, "./testdata/command")
		cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
		return cmd
	})
}

// start starts a worker.
func start(t testing.TB) (*wire.Conn, *exec.Cmd) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	check(t, err)
	page, shared, err := wire.NewPage()
	check(t, err)
	defer shared.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{workerName, t.TempDir()}
	cmd.ExtraFiles, cmd.Stderr = []*os.File{theirs, shared}, os.Stderr
	check(t, cmd.Start())
	c, err := wire.New(conn.(*net.UnixConn), page)
	check(t, err)
	t.Cleanup(func() {
		c.Close()
		_ = cmd.Wait() // it may have been killed
	})
	hello, err := c.Hello(t.Context())
	check(t, err)
	if hello.Slow != "" {
		t.Logf("guests are not reset: %s", hello.Slow)
	}
	return c, cmd
}

func request(method, target, body string) *wire.Request {
	r := &wire.Request{Method: method, Target: target, Host: "f.example", Proto: "HTTP/1.1", Invocation: "i",
		Header: http.Header{"Accept": {"*/*"}, "User-Agent": {"test"}}, Deadline: time.Now().Add(5 * time.Minute)}
	if body != "" {
		r.Body, r.Length = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
	return r
}

// ask gives the whole answer.
func ask(ctx context.Context, c *wire.Conn, program uint32, r *wire.Request) (status int, body string, err error) {
	x, err := c.Do(ctx, program, r)
	if err != nil {
		return 0, "", err
	}
	b, err := io.ReadAll(x)
	return x.Status, string(b), errors.Join(err, x.Close())
}

func TestGuests(t *testing.T) {
	c, _ := start(t)
	spec, files := reactor(t)
	check(t, c.Load(t.Context(), 1, spec, files))
	spec, files = command(t)
	check(t, c.Load(t.Context(), 2, spec, files))
	big := strings.Repeat("0123456789", 1<<18)
	for range 3 {
		for _, test := range []struct {
			program              uint32
			target, body, answer string
			status               int
		}{
			{1, "/hello", "", "hello", 201},
			{1, "/echo", "some body", "some body", 201},
			{1, "/echo", big, big, 201},
			{1, "/env", "", "of reactor", 201},
			{2, "/path?query", "body", "POST /path of command body", 200},
			{2, "/path", big, "POST /path of command " + big, 200},
		} {
			r := request("POST", test.target, test.body)
			status, body, err := ask(t.Context(), c, test.program, r)
			if err != nil || status != test.status || body != test.answer {
				t.Errorf("%s: %d, %.100q (%d bytes), %v", test.target, status, body, len(body), err)
			}
			if r.Usage.CPU <= 0 || r.Usage.Memory < 1<<16 {
				t.Errorf("%s: %+v", test.target, r.Usage)
			}
		}
	}
}

// TestEnds: how guests fail, and that they do so alone.
func TestEnds(t *testing.T) {
	c, _ := start(t)
	spec, files := reactor(t)
	spec.MaxOutput = 1 << 20
	check(t, c.Load(t.Context(), 1, spec, files))
	spec.CPU = 50 * time.Millisecond
	check(t, c.Load(t.Context(), 2, spec, files))
	soon := func(r *wire.Request) { r.Deadline = time.Now().Add(20 * time.Millisecond) }
	for _, test := range []struct {
		target  string
		program uint32
		set     func(*wire.Request)
		want    lambent.Code
	}{
		{"/loop", 1, soon, lambent.CodeTotalTimeout},
		{"/loop", 2, nil, lambent.CodeCpuExceeded},
		{"/trap", 1, nil, lambent.CodeHandlerError},
		{"/bomb", 1, nil, lambent.CodeMemoryExceeded},
		{"/endless", 1, nil, lambent.CodeOutputTooLarge},
		{"/long", 1, nil, lambent.CodeOutputTooLarge},
		{"/talk", 1, soon, lambent.CodeTotalTimeout},
		{"/nothing", 1, nil, lambent.CodeBadResponse},
	} {
		r := request("GET", test.target, "")
		if test.set != nil {
			test.set(r)
		}
		_, _, err := ask(t.Context(), c, test.program, r)
		var late *wire.TimeoutError // of the daemon's end, when this machine is so busy that the worker comes later
		if !lambent.HasCode(err, test.want) && (test.want != lambent.CodeTotalTimeout || !errors.As(err, &late)) {
			t.Errorf("%s: %v, not %s", test.target, err, test.want)
		}
		if _, body, err := ask(t.Context(), c, 1, request("GET", "/hello", "")); body != "hello" || err != nil {
			t.Errorf("after %s: %q, %v", test.target, body, err)
		}
	}
	if _, _, err := ask(t.Context(), c, 9, request("GET", "/hello", "")); !lambent.HasCode(err, lambent.CodeInternal) {
		t.Error(err)
	}
}

// TestLeaves: a guest in a loop ends soon after its caller has left.
func TestLeaves(t *testing.T) {
	c, _ := start(t)
	spec, files := reactor(t)
	check(t, c.Load(t.Context(), 1, spec, files))
	for _, target := range []string{"/loop", "/talk", "/endless"} {
		ctx, cancel := context.WithCancel(t.Context())
		r := request("GET", target, "")
		r.Deadline = time.Time{}
		r.Log = func(string, string) { cancel() } // it has begun
		_, _, err := ask(ctx, c, 1, r)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", target, err)
		}
		// A busy machine may not notice that it has ended. Then it may not go on either: that would end the worker.
		if r.Usage.CPU == 0 && !errors.Is(err, wire.ErrRunning) {
			t.Errorf("%s: no usage", target)
		}
	}
}

// TestSpeaks: what a guest has said is heard while it computes.
func TestSpeaks(t *testing.T) {
	c, _ := start(t)
	spec, files := reactor(t)
	check(t, c.Load(t.Context(), 1, spec, files))
	x, err := c.Do(t.Context(), 1, request("GET", "/talk", ""))
	check(t, err)
	word := make([]byte, 4)
	if _, err := io.ReadFull(x, word); string(word) != "word" || err != nil {
		t.Errorf("%q, %v", word, err)
	}
	check(t, x.Close())
}

func TestLogs(t *testing.T) {
	c, _ := start(t)
	spec, files := reactor(t)
	check(t, c.Load(t.Context(), 1, spec, files))
	var lines []string
	r := request("GET", "/log", "")
	r.Log = func(stream, line string) { lines = append(lines, stream+" "+line) }
	if _, _, err := ask(t.Context(), c, 1, r); err != nil || strings.Join(lines, ",") != "stderr one,stderr two" {
		t.Errorf("%q, %v", lines, err)
	}
	lines = nil
	r.Target = "/chatter"
	if _, _, err := ask(t.Context(), c, 1, r); err != nil || len(lines) != wire.MaxLog/2001+1 || !strings.HasPrefix(lines[len(lines)-1], "lambent the request has written more") {
		t.Errorf("%d lines, %v", len(lines), err)
	}
}

// TestUnload: requests under way go on, others find no program.
func TestUnload(t *testing.T) {
	c, cmd := start(t)
	spec, files := reactor(t)
	check(t, c.Load(t.Context(), 1, spec, files))
	if err := c.Load(t.Context(), 1, spec, files); err == nil {
		t.Error("one number for two programs")
	}
	more, w := io.Pipe()
	r := request("POST", "/echo", "")
	r.Body, r.Length = more, -1
	var x *wire.Exchange
	var err error
	var asking sync.WaitGroup
	asking.Go(func() { x, err = c.Do(t.Context(), 1, r) })
	_, werr := w.Write([]byte("first "))
	check(t, werr)
	asking.Wait()
	check(t, err)
	c.Unload(1)
	if _, err := w.Write([]byte("second")); err != nil {
		t.Error(err)
	}
	w.Close()
	if b, err := io.ReadAll(x); string(b) != "first second" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	check(t, x.Close())
	if _, _, err := ask(t.Context(), c, 1, request("GET", "/hello", "")); !lambent.HasCode(err, lambent.CodeInternal) {
		t.Error(err)
	}
	var refused *wire.LoadError
	if err := c.Load(t.Context(), 2, spec, files[:2]); !errors.As(err, &refused) {
		t.Error(err)
	}
	spec.Memory = 1
	if err := c.Load(t.Context(), 3, spec, files); !errors.As(err, &refused) {
		t.Error(err)
	}
	check(t, cmd.Process.Signal(unix.SIGTERM))
	<-c.Done()
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// TestQueued: a request that waits for its turn when the worker dies has not been started.
func TestQueued(t *testing.T) {
	c, cmd := start(t)
	spec, files := reactor(t)
	check(t, c.Load(t.Context(), 1, spec, files))
	// More guests that never stop than there are cores: each gets its turn, so all begin.
	var callers sync.WaitGroup
	lost := make(chan bool, 100)
	for range cap(lost) {
		callers.Go(func() {
			_, err := c.Do(t.Context(), 1, request("GET", "/loop", ""))
			var l *wire.LostError
			if !errors.As(err, &l) {
				t.Error(err)
				return
			}
			lost <- l.Started()
		})
	}
	x, err := c.Do(t.Context(), 1, request("GET", "/talk", ""))
	check(t, err)
	check(t, cmd.Process.Kill())
	callers.Wait()
	x.Close()
	close(lost)
	began := 0
	for started := range lost {
		if started {
			began++
		}
	}
	if began == 0 {
		t.Error("none had begun")
	}
	t.Logf("%d of %d had begun", began, cap(lost))
}
