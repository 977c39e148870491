package abi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"lambent"
	shim "lambent/shim/wasm"
)

// fixture is the conformance function in one language.
type fixture struct {
	name, folder string
	sdk          string // the file of package shim/wasm that it needs, where that lies
	env          []string
	argv         []string // OUT stands for the module, LIB for where Rust has its start files
	kind         Kind
	needs        string // a file without which there is no compiler

	compile func(t testing.TB) *guest
}

const (
	rustLib = "/usr/lib/rustlib/wasm32-wasi/lib"
	asc     = "/usr/local/lib/lambent/assemblyscript/0.28.20/node_modules/assemblyscript/bin/asc.js"
)

var (
	wasip1 = []string{"GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0"}
	rust   = []string{"/usr/bin/rustc", "--edition=2021", "-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols", "-o", "OUT"}
)

var fixtures = []*fixture{
	{name: "Go command", folder: "go-command", env: wasip1, argv: []string{"go", "build", "-o", "OUT", "main.go"}, kind: Command},
	{name: "Go reactor", folder: "go-reactor", sdk: "lambent/lambent.go", env: wasip1, kind: Reactor,
		argv: []string{"go", "build", "-buildmode=c-shared", "-ldflags=-s -w", "-o", "OUT", "."}},
	{name: "C command", folder: "c-command", kind: Command, needs: "/usr/lib/wasm32-wasi/libc.a",
		argv: []string{"clang", "--target=wasm32-wasi", "-Os", "-Wall", "-Werror", "-o", "OUT", "main.c"}},
	{name: "C reactor", folder: "c-reactor", sdk: "lambent.h", kind: Reactor, needs: "/usr/lib/wasm32-wasi/libc.a",
		argv: []string{"clang", "--target=wasm32-wasi", "-mexec-model=reactor", "-Os", "-Wall", "-Werror", "-o", "OUT", "main.c"}},
	{name: "Rust command", folder: "rust-command", kind: Command, needs: rustLib,
		argv: append(rust[:len(rust):len(rust)], "--target=wasm32-wasi", "--crate-type=bin", "main.rs")},
	{name: "Rust reactor", folder: "rust-reactor", sdk: "lambent.rs", kind: Reactor, needs: rustLib,
		argv: append(rust[:len(rust):len(rust)], "--target=wasm32-wasi", "--crate-type=cdylib", "-Clink-arg="+rustLib+"/self-contained/crt1-reactor.o",
			"-Clink-arg=--export=_initialize", "-Clink-arg=--export=handle", "lib.rs")},
	{name: "Rust reactor without WASI", folder: "rust-reactor", sdk: "lambent.rs", kind: Reactor, needs: rustLib,
		argv: append(rust[:len(rust):len(rust)], "--target=wasm32-unknown-unknown", "--crate-type=cdylib", "lib.rs")},
	{name: "AssemblyScript reactor", folder: "assemblyscript", sdk: "lambent.ts", kind: Reactor, needs: asc,
		argv: []string{"node", asc, "index.ts", "-O", "-o", "OUT", "--use", "abort=lambent_abort", "--use", "seed=lambent_seed", "--use", "trace=lambent_trace"}},
}

func init() {
	for _, f := range fixtures {
		var once sync.Once
		var g *guest
		f.compile = func(t testing.TB) *guest {
			once.Do(func() { g = compile(t, f.build(t)) })
			if g == nil {
				t.Fatal("the fixture could not be compiled")
			}
			return g
		}
	}
}

// build gives the module.
func (f *fixture) build(t testing.TB) []byte {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/"+f.folder)); err != nil {
		t.Fatal(err)
	}
	if f.sdk != "" {
		file := filepath.Join(dir, f.sdk)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(shim.Source(filepath.Base(f.sdk))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if f.folder == "go-reactor" {
		if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module fixture\n\ngo 1.26\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(t.TempDir(), "main.wasm")
	argv := strings.Split(strings.ReplaceAll(strings.Join(f.argv, "\n"), "OUT", out), "\n")
	tool(t, f.env, dir, argv...)
	return readFile(t, out)
}

// each runs the test for the fixtures whose compiler is there. Go's always is.
func each(t *testing.T, test func(t *testing.T, f *fixture, g *guest)) {
	for _, f := range fixtures {
		if _, err := os.Stat(f.needs); f.needs != "" && err != nil {
			t.Logf("%s: no compiler here: %v", f.name, err)
			continue
		}
		t.Run(f.name, func(t *testing.T) { test(t, f, f.compile(t)) })
	}
}

func post(target string) *Call {
	return &Call{Method: "POST", Target: target, Host: "example.com", Proto: "HTTP/1.1", Length: -1, Env: []string{"COLOURS=none", "COLOUR=blue"},
		Header: []Field{{Name: "X-Tag", Value: "7"}, {Name: "Content-Type", Value: "text/x"}}}
}

// there is a body that is there.
type there struct{ *strings.Reader }

func (w there) Buffered() int { return w.Len() }

const plainText = "text/plain; charset=utf-8"

// TestConformance is what all languages must have in common, in both kinds of modules.
func TestConformance(t *testing.T) {
	each(t, func(t *testing.T, f *fixture, g *guest) {
		if g.kind != f.kind {
			t.Fatalf("it is a %s", g.kind)
		}
		big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
		for _, c := range []struct {
			target, body string
			status       int
			text, log    string
			header       map[string]string
			length       int64
		}{
			{target: "/hello", status: 200, text: "hello\n", length: 6, header: map[string]string{"Content-Type": plainText}},
			{target: "/echo?a=%20b", body: "the body", status: 200, text: "the body", length: 8,
				header: map[string]string{"Content-Type": "text/x", "X-Request": "POST /echo a=%20b", "X-Tag": "7"}},
			{target: "/echo", body: big, status: 200, text: big, length: -1},
			{target: "/echo", status: 200},
			{target: "/count", body: big, status: 200, text: "1048576\n", length: 8, header: map[string]string{"Content-Type": plainText}},
			{target: "/big?1024", status: 200, text: strings.Repeat(strings.Repeat("x", 1023)+"\n", 1024), length: -1},
			{target: "/teapot", status: 418, text: "short and stout", length: 15, header: map[string]string{"Set-Cookie": "a=1|b=2"}},
			{target: "/env", status: 200, text: "blue", length: 4},
			{target: "/log", status: 200, text: "logged", length: 6, log: "stderr: one line\n"},
		} {
			for _, whole := range []bool{true, false} {
				call := post(c.target)
				if call.Length = int64(len(c.body)); !whole {
					call.Length = -1
					call.Body = iotest.OneByteReader(strings.NewReader(c.body))
					if len(c.body) > 1<<10 {
						call.Body = iotest.HalfReader(strings.NewReader(c.body))
					}
				} else if c.body != "" {
					call.Body = there{strings.NewReader(c.body)}
				}
				r := g.run(t, call)
				if r.err != nil || r.status != c.status || r.body.String() != c.text || r.log.String() != c.log {
					t.Errorf("%s: %d, %d bytes of body %.100q, log %q, %v", c.target, r.status, r.body.Len(), r.body.String(), r.log.String(), r.err)
				}
				if whole && r.length != c.length {
					t.Errorf("%s: length %d, want %d", c.target, r.length, c.length)
				}
				if most := 4 + r.body.Len()/(4<<10); r.writes > most && whole {
					t.Errorf("%s: %d writes for %d bytes", c.target, r.writes, r.body.Len())
				}
				for name, want := range c.header {
					if got := r.get(name); got != want {
						t.Errorf("%s: %s is %q, want %q", c.target, name, got, want)
					}
				}
			}
		}
	})
}

// TestFailures is how calls end that do not end well.
func TestFailures(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel() // no sleep lasts: Go sleeps when it panics
	each(t, func(t *testing.T, f *fixture, g *guest) {
		for _, c := range []struct {
			target  string
			only    []string // the beginnings of fixtures' names; all when empty
			code    lambent.Code
			message string
			trace   string
		}{
			{"/panic", nil, lambent.CodeHandlerError, "", "on purpose"},
			{"/partly", nil, lambent.CodeHandlerError, "", "on purpose"},
			{"/bad", nil, lambent.CodeBadResponse, `"A B" is no name of a field`, ""},
			{"/exit", []string{"Go", "C ", "Rust command"}, lambent.CodeHandlerError, "ended with exit code 3", "about to go"},
			{"/panic", []string{"Go reactor", "C ", "Rust", "Assembly"}, lambent.CodeHandlerError, "trapped: unreachable", "on purpose"},
			{"/panic", []string{"Go command"}, lambent.CodeHandlerError, "ended with exit code 2", "panic: on purpose"},
			{"/inject", []string{"Go reactor", "Rust reactor", "Assembly"}, lambent.CodeHandlerError, "trapped: unreachable", "a NUL byte in a field"},
			{"/fail", []string{"Rust reactor"}, lambent.CodeHandlerError, "trapped: unreachable", "the request failed: on purpose"},
			{"/nothing", []string{"C reactor", "Rust reactor", "Assembly"}, lambent.CodeBadResponse, "ended without one", ""},
			{"/pointer", []string{"C reactor"}, lambent.CodeHandlerError, "lambent_v1.write with 100 bytes at 0xfffffff0, beyond its memory", ""},
			{"/twice", []string{"C reactor"}, lambent.CodeBadResponse, "called respond after its head was given", ""},
		} {
			if len(c.only) > 0 && !begins(f.name, c.only) {
				continue
			}
			r := g.runWith(over, t, post(c.target))
			e := lambent.ErrorOf(r.err)
			if e == nil || e.Code != c.code || !strings.Contains(e.Message, c.message) || !strings.Contains(e.Trace, c.trace) {
				t.Errorf("%s: %#v", c.target, e)
			}
			if r.status != 0 {
				t.Errorf("%s: the head went out: %d", c.target, r.status)
			}
		}
	})
}

func begins(s string, with []string) bool {
	for _, w := range with {
		if strings.HasPrefix(s, w) {
			return true
		}
	}
	return false
}

// TestEmpty is what comes of a guest that says nothing where that is an answer.
func TestEmpty(t *testing.T) {
	each(t, func(t *testing.T, f *fixture, g *guest) {
		if !strings.HasPrefix(f.name, "Go") && f.kind == Reactor {
			return // TestFailures
		}
		if r := g.run(t, post("/nothing")); r.err != nil || r.status != 200 || r.length != 0 || r.body.Len() != 0 {
			t.Errorf("%d, %d bytes, %v", r.status, r.length, r.err)
		}
	})
}

// TestStream proves that bodies go both ways at a time: each piece is answered before the next is sent.
func TestStream(t *testing.T) {
	each(t, func(t *testing.T, f *fixture, g *guest) {
		call, r := post("/echo"), &result{}
		r.on(call)
		requests, client := io.Pipe()
		call.Body = requests
		answers := make(chan string)
		call.Write = func(p []byte) (int, error) {
			answers <- string(p)
			return len(p), nil
		}
		done := make(chan *result)
		go func() { done <- g.run(t, call) }()
		for i := range 5 {
			piece := fmt.Sprintf("piece %d", i)
			if _, err := io.WriteString(client, piece); err != nil {
				t.Fatal(err)
			}
			if got := <-answers; got != piece {
				t.Fatalf("%q came for %q", got, piece)
			}
		}
		client.Close()
		if got := <-done; got.err != nil || r.status != 200 || r.length != -1 {
			t.Errorf("%v, status %d, length %d", got.err, r.status, r.length)
		}
	})
}

// TestSleep is Call.Block around a sleep.
func TestSleep(t *testing.T) {
	each(t, func(t *testing.T, f *fixture, g *guest) {
		if !begins(f.name, []string{"Go", "C ", "Rust command"}) {
			return // without WASI there is no sleep
		}
		call, blocked := post("/sleep"), 0
		call.Block = func(wait func()) { blocked++; wait() }
		if r := g.run(t, call); r.err != nil || !strings.HasPrefix(r.body.String(), "true") || blocked == 0 {
			t.Errorf("%q, %d blocks, %v", r.body.String(), blocked, r.err)
		}
	})
}

// TestRandom shows that copies of one module do not draw the same numbers.
func TestRandom(t *testing.T) {
	each(t, func(t *testing.T, f *fixture, g *guest) {
		if !strings.HasPrefix(f.name, "Assembly") {
			return
		}
		one, other := g.run(t, post("/random")), g.run(t, post("/random"))
		if one.err != nil || one.body.String() == other.body.String() || !strings.HasPrefix(one.log.String(), "stderr: trace: now 1") {
			t.Errorf("%q, %q, %q, %v", one.body.String(), other.body.String(), one.log.String(), one.err)
		}
	})
}

// TestFiles shows that there are none.
func TestFiles(t *testing.T) {
	each(t, func(t *testing.T, f *fixture, g *guest) {
		if f.kind != Command {
			return
		}
		if r := g.run(t, post("/files")); r.err != nil || r.body.String() != "none\n" {
			t.Errorf("%q, %v", r.body.String(), r.err)
		}
	})
}

// TestBroken is a body that ends in an error, and a client that leaves.
func TestBroken(t *testing.T) {
	gone := lambent.Errorf(lambent.CodeClientClosed, "gone")
	each(t, func(t *testing.T, f *fixture, g *guest) {
		for _, body := range []io.Reader{
			io.MultiReader(strings.NewReader("half"), iotest.ErrReader(gone)),
			iotest.DataErrReader(io.MultiReader(strings.NewReader("half"), iotest.ErrReader(gone))),
		} {
			call := post("/echo")
			call.Body = body
			if r := g.run(t, call); r.err != gone {
				t.Errorf("a body that breaks off: %v", r.err)
			}
		}
		call, r := post("/big?1000"), &result{}
		r.on(call)
		call.Write = func([]byte) (int, error) { return 0, gone }
		if got := g.run(t, call); got.err != gone {
			t.Errorf("a client that leaves: %v", got.err)
		}
	})
}

// TestHead is a request whose answer has no body.
func TestHead(t *testing.T) {
	each(t, func(t *testing.T, f *fixture, g *guest) {
		call := post("/hello")
		call.Method = "HEAD"
		if r := g.run(t, call); r.err != nil || r.status != 200 || r.length != 6 || r.body.Len() != 0 {
			t.Errorf("%d, length %d, %d bytes, %v", r.status, r.length, r.body.Len(), r.err)
		}
	})
}

// TestLongHead is a request whose head is longer than what the SDKs first make room for.
func TestLongHead(t *testing.T) {
	each(t, func(t *testing.T, f *fixture, g *guest) {
		call := post("/echo")
		call.Header = append(call.Header, Field{Name: "X-Long", Value: string(bytes.Repeat([]byte("x"), 20<<10))})
		call.Body = strings.NewReader("body")
		if r := g.run(t, call); r.err != nil || r.body.String() != "body" || r.get("X-Tag") != "7" {
			t.Errorf("%q, %v", r.body.String(), r.err)
		}
	})
}
