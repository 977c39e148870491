package system

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"lambent"
)

// app deploys a Python application or handler that one instance must serve alone.
func (n *node) app(name, handler, main string, concurrency int) {
	n.t.Helper()
	n.python(name, main, func(s *lambent.Settings) {
		s.Handler, s.Concurrency, s.MaxInstances = handler, concurrency, 1
	})
}

// An ASGI application: a WebSocket, an answer that streams while the request does, and the news that a caller left.
func TestASGI(t *testing.T) {
	n := start(t, t.TempDir())
	n.app("app", "main:app", `
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        print("the app is up")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("the app is down")
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"].upper()})
        print("socket ended with", message["code"])
    else:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-root", scope["root_path"].encode())]})
        more = scope["path"] != "/fn/app/raise"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                print("somebody left")
                return
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"].upper(), "more_body": more})
        if scope["path"] == "/fn/app/raise": raise KeyError("as asked")
`, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(n.at.Functions, "http")+"/fn/app/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	for _, size := range []int{1, 1000, 30_000} {
		if err := c.Write(ctx, websocket.MessageText, []byte(strings.Repeat("x", size))); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(ctx); err != nil || string(got) != strings.Repeat("X", size) {
			t.Fatalf("%d bytes came back, want %d, %v", len(got), size, err)
		}
	}
	if err := c.Close(websocket.StatusGoingAway, "done"); err != nil {
		t.Error(err)
	}
	n.await("app", "socket ended with 1001")

	up, feed := io.Pipe()
	defer feed.Close()
	left, leave := context.WithCancel(ctx)
	req, err := http.NewRequestWithContext(left, "POST", n.at.Functions+"/fn/app/upper", up)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(feed, "piece 0\n") }()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Header.Get("X-Root") != "/fn/app" {
		t.Errorf("header %v", resp.Header)
	}
	answer := bufio.NewReader(resp.Body)
	for i := range 5 {
		if line, err := answer.ReadString('\n'); err != nil || line != fmt.Sprintf("PIECE %d\n", i) {
			t.Fatalf("piece %d came back as %q, %v", i, line, err)
		}
		if _, err := fmt.Fprintf(feed, "piece %d\n", i+1); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	n.await("app", "somebody left")
	n.call("GET", "/fn/app/raise", nil).wantError(t, lambent.CodeHandlerError, lambent.FaultFunction, "KeyError")
}

// await waits for a line of a function's log that holds part.
func (n *node) await(name, part string) {
	n.t.Helper()
	for range 1000 {
		if len(n.lines(name, part)) > 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.t.Errorf("%s did not print %q in 10 s", name, part)
}

// together calls a function count times at once; each call waits for the others.
func (n *node) together(name string, count int) {
	n.t.Helper()
	var all sync.WaitGroup
	for range count {
		all.Go(func() { n.call("GET", "/fn/"+name, nil).want(n.t, 200, "met") })
	}
	all.Wait()
}

func TestWSGIServesManyInOneInstance(t *testing.T) {
	n := start(t, t.TempDir())
	n.app("app", "main:app", `
import threading
meet = threading.Barrier(20)
def app(environ, start_response):
    meet.wait(20)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"met"]
`, 0)
	n.together("app", 20)
}

func TestPythonHandlersServeManyInOneInstance(t *testing.T) {
	n := start(t, t.TempDir())
	n.app("coroutines", "main.handler", `
import asyncio
waiting, go = [], asyncio.Event()
async def handler(event, context):
    waiting.append(context.aws_request_id)
    if len(set(waiting)) == 50: go.set()
    await go.wait()
    return {"statusCode": 200, "body": "met"}
`, 50)
	n.together("coroutines", 50)
	n.app("threads", "main.handler", `
import threading
from lambent import threads
meet = threading.Barrier(20)
@threads
def handler(event, context):
    meet.wait(20)
    return {"statusCode": 200, "body": "met"}
`, 20)
	n.together("threads", 20)
	n.app("fetch", "main:fetch", `
import asyncio
from lambent import Response
waiting, go = [], asyncio.Event()
async def fetch(request, env, ctx):
    waiting.append(ctx.aws_request_id)
    if len(waiting) == 20: go.set()
    await go.wait()
    return Response("met " + env["LAMBENT_FUNCTION"])
`, 0)
	n.together("fetch", 20)
}

func TestPythonHandlersThatAreRefused(t *testing.T) {
	n := start(t, t.TempDir())
	for _, c := range []struct {
		main string
		s    lambent.Settings
		part string
	}{
		{"def handler(event, context): pass", lambent.Settings{Concurrency: 2}, "@threads"},
		{"def handler(event, context): pass", lambent.Settings{Handler: "main:handler"}, "MODULE.handler"},
		{"app = 1", lambent.Settings{Handler: "main:app"}, "looked for"},
		{"def app(scope): pass", lambent.Settings{Handler: "main:app"}, "ASGI 2"},
	} {
		c.s.Runtime = "python"
		_, err := n.tryDeploy("f", files{"main.py": c.main}, c.s)
		if e := lambent.ErrorOf(err); e == nil || e.Code != lambent.CodeStartFailed || !strings.Contains(e.Message, c.part) {
			t.Errorf("%s %+v: %v, want %q", c.main, c.s, err, c.part)
		}
	}
}
