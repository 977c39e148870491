package system

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lambent"
	"lambent/client"
	"lambent/daemon"
)

const hello = `
import json
def handler(event, context):
    print("called by", event.get("name"))
    if "requestContext" in event:
        return {"statusCode": 201, "headers": {"x-path": event["rawPath"]}, "body": event.get("body") or "no body"}
    return {"hello": event["name"], "id": context.aws_request_id}
`

func TestDeployCallLogWhy(t *testing.T) {
	n := start(t, t.TempDir())
	d := n.python("hello", hello, nil)
	if !d.Created || d.Unchanged || d.Phases[lambent.PhaseBoot] == 0 || d.Function.Latest.Settings.Runtime == "python" {
		t.Errorf("deployment %+v", d)
	}
	if again := n.python("hello", hello, nil); !again.Unchanged || again.Function.Latest.ID != d.Function.Latest.ID {
		t.Errorf("the same again: %+v", again)
	}
	a := n.call("POST", "/fn/hello/some/path?x=1", strings.NewReader("data"))
	a.want(t, 201, "data")
	if a.header.Get("X-Path") != "/some/path" {
		t.Errorf("header %v", a.header)
	}

	answer, err := n.client.Invoke(t.Context(), "default", "hello", "application/json", strings.NewReader(`{"name":"Ada"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil || !strings.Contains(string(raw), `"Ada"`) || !strings.Contains(string(raw), answer.Invocation) {
		t.Errorf("%s, %v", raw, err)
	}
	r := n.record(answer.Invocation)
	if r.Trigger != lambent.TriggerInvoke || r.Status != 200 || r.Error != nil || r.Phases[lambent.PhaseHandler] == 0 || r.Instance == "" {
		t.Errorf("record %+v", r)
	}
	if lines := n.lines("hello", "called by Ada"); len(lines) != 1 || lines[0].Invocation != answer.Invocation || lines[0].Stream != "stdout" {
		t.Errorf("log lines %+v", lines)
	}
}

func TestLogLinesBelongToTheirInvocation(t *testing.T) {
	n := start(t, t.TempDir())
	n.python("talk", `
def handler(event, context):
    for i in range(3):
        print(context.aws_request_id, i)
`, func(s *lambent.Settings) { s.MaxInstances = 2 })
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if a := n.call("GET", "/fn/talk", nil); a.status != 200 {
					t.Errorf("%d %s", a.status, a.body)
				}
			}
		})
	}
	wg.Wait()
	lines := n.lines("talk", "")
	if len(lines) != 600 {
		t.Errorf("%d lines, want 600", len(lines))
	}
	for _, l := range lines {
		if id, _, _ := strings.Cut(l.Text, " "); id != l.Invocation {
			t.Fatalf("line %q has invocation %q", l.Text, l.Invocation)
		}
	}
}

func TestUnknownFunction(t *testing.T) {
	n := start(t, t.TempDir())
	a := n.call("GET", "/fn/nobody/", nil)
	a.wantError(t, lambent.CodeFunctionNotFound, lambent.FaultClient, `"nobody"`)
	if a.status != 404 {
		t.Errorf("status %d", a.status)
	}
	if records, err := n.client.Invocations(t.Context(), "", "", 10); err != nil || len(records) != 0 {
		t.Errorf("%d records of a call to nothing, %v", len(records), err)
	}
}

// The function's own failures: each says so, keeps the platform whole, and the next call is served.
func TestFailingHandlers(t *testing.T) {
	n := start(t, t.TempDir())
	n.python("bad", `
import json, os, sys, time
count = 0
def handler(event, context):
    global count
    count += 1
    what = (event.get("queryStringParameters") or {}).get("do")
    if what == "raise": raise KeyError("x")
    if what == "exit": os._exit(3)
    if what == "sysexit": sys.exit("bye")
    if what == "garbage": return object()
    if what == "badstatus": return {"statusCode": "many"}
    if what == "hang":
        print("about to hang")
        time.sleep(3600)
    if what == "eat":
        a = []
        while True: a.append(bytearray(1 << 20))
    if what == "fork":
        for i in range(10000):
            if os.fork() == 0: time.sleep(3600)
    return {"statusCode": 200, "body": str(count)}
`, func(s *lambent.Settings) {
		s.Memory, s.Pids, s.Timeouts.Total = 64, 32, lambent.Duration(2*time.Second)
	})
	for _, c := range []struct {
		do     string
		status int
		code   lambent.Code
		fault  lambent.Fault
		part   string
	}{
		{"raise", 502, lambent.CodeHandlerError, lambent.FaultFunction, "KeyError"},
		{"sysexit", 502, lambent.CodeHandlerError, lambent.FaultFunction, "SystemExit"},
		{"exit", 502, lambent.CodeInstanceExited, lambent.FaultFunction, "code 3"},
		{"garbage", 502, lambent.CodeBadResponse, lambent.FaultFunction, "object"},
		{"badstatus", 502, lambent.CodeBadResponse, lambent.FaultFunction, "statusCode"},
		{"hang", 504, lambent.CodeTotalTimeout, lambent.FaultLimit, "2s"},
		{"eat", 502, lambent.CodeMemoryExceeded, lambent.FaultLimit, "64"},
		{"fork", 502, lambent.CodeHandlerError, lambent.FaultFunction, "BlockingIOError"},
	} {
		t.Run(c.do, func(t *testing.T) {
			a := n.call("GET", "/fn/bad?do="+c.do, nil)
			a.wantError(t, c.code, c.fault, c.part)
			if a.status != c.status || strings.Contains(a.body, "main.py") {
				t.Errorf("%d %s: want %d and no stack trace for the public", a.status, a.body, c.status)
			}
			if r := n.record(a.header.Get("Lambent-Invocation")); r.Error == nil || r.Error.Code != c.code {
				t.Errorf("record %+v", r)
			}
			n.call("GET", "/fn/bad", nil).want(t, 200, "")
		})
	}
	if lines := n.lines("bad", "about to hang"); len(lines) != 1 || lines[0].Invocation == "" {
		t.Errorf("what was printed before the kill: %+v", lines)
	}
	if lines := n.lines("bad", `raise KeyError("x")`); len(lines) == 0 {
		t.Error("the stack trace is not in the logs")
	}
	_, err := n.client.Invoke(t.Context(), "default", "bad", "application/json", strings.NewReader(`{"queryStringParameters":{"do":"raise"}}`))
	if e := lambent.ErrorOf(err); e == nil || e.Code != lambent.CodeHandlerError || !strings.Contains(e.Trace, "main.py") {
		t.Errorf("who administers it sees the trace: %+v", e)
	}
	_, err = n.client.Invoke(t.Context(), "default", "bad", "application/json", strings.NewReader(`{"a":`))
	if !lambent.HasCode(err, lambent.CodeInvalidJSON) || lambent.ErrorOf(err).Status() != 400 {
		t.Errorf("invalid JSON: %v", err)
	}
	big := strings.Repeat("x", 6<<20+1)
	n.call("POST", "/fn/bad", strings.NewReader(big)).wantError(t, lambent.CodeBodyTooLarge, lambent.FaultLimit, "6291456")
	n.call("POST", "/fn/bad", io.MultiReader(strings.NewReader(big))).wantError(t, lambent.CodeBodyTooLarge, lambent.FaultLimit, "6291456")
}

// A deploy that cannot serve changes nothing.
func TestFailingDeploys(t *testing.T) {
	n := start(t, t.TempDir())
	good := n.python("f", hello, nil)
	for _, c := range []struct {
		name, main, handler string
		code                lambent.Code
		part                string
	}{
		{"no module", hello, "other.handler", lambent.CodeStartFailed, "other"},
		{"no function", hello, "main.missing", lambent.CodeStartFailed, "missing"},
		{"raises at import", "raise ValueError('no luck')", "", lambent.CodeStartFailed, "no luck"},
		{"syntax error", "def handler(:", "", lambent.CodeStartFailed, "SyntaxError"},
		{"exits at import", "import os; os._exit(1)", "", lambent.CodeStartFailed, "code 1"},
		{"eats memory at import", "a = bytearray(1 << 30)\nfor i in range(0, len(a), 4096): a[i] = 1", "", lambent.CodeMemoryExceeded, "64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := n.tryDeploy("f", files{"main.py": c.main}, lambent.Settings{Runtime: "python", Handler: c.handler, Memory: 64})
			if e := lambent.ErrorOf(err); e == nil || e.Code != c.code || !strings.Contains(e.Message, c.part) {
				t.Errorf("got %+v, want %s with %q", err, c.code, c.part)
			}
			if f, err := n.client.Function(t.Context(), "default", "f"); err != nil || f.Version != good.Function.Version {
				t.Errorf("the function changed: %+v, %v", f, err)
			}
			n.call("GET", "/fn/f", nil).want(t, 201, "no body")
		})
	}
	_, err := n.tryDeploy("g", files{"readme": "x"}, lambent.Settings{Runtime: "go"})
	if e := lambent.ErrorOf(err); e == nil || e.Code != lambent.CodeStartFailed || !strings.Contains(e.Message, "main") {
		t.Errorf("no executable: %+v", err)
	}
	if _, err := n.client.Function(t.Context(), "default", "g"); !lambent.HasCode(err, lambent.CodeFunctionNotFound) {
		t.Errorf("a failed first deploy left %v", err)
	}
}

// No answer from the old revision to a request that is sent after deploy returned, and no failure meanwhile.
func TestDeployUnderLoad(t *testing.T) {
	n := start(t, t.TempDir())
	version := func(i int) string {
		return fmt.Sprintf("def handler(event, context): return {'statusCode': 200, 'body': '%d'}", i)
	}
	n.python("f", version(0), nil)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	calls := 0
	wg.Go(func() {
		for ctx.Err() == nil {
			if a := n.call("GET", "/fn/f", nil); a.status != 200 {
				t.Errorf("%d %s", a.status, a.body)
			}
			calls++
		}
	})
	for i := 1; i <= 10; i++ {
		n.python("f", version(i), nil)
		if a := n.call("GET", "/fn/f", nil); a.body != fmt.Sprint(i) {
			t.Errorf("after deploy %d: %s", i, a.body)
		}
	}
	cancel()
	wg.Wait()
	if calls < 10 {
		t.Errorf("only %d calls crossed the deploys", calls)
	}
}

func TestRestartKeepsWhatWasAcknowledged(t *testing.T) {
	dir := t.TempDir()
	n := start(t, dir)
	d := n.python("f", hello, nil)
	called := n.call("GET", "/fn/f", nil)
	called.want(t, 201, "")
	n.record(called.header.Get("Lambent-Invocation"))
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	n = start(t, dir)
	if n.at.NewKey {
		t.Error("the second start made a new key")
	}
	f, err := n.client.Function(t.Context(), "default", "f")
	if err != nil || f.Version != d.Function.Version || f.Latest.ID != d.Function.Latest.ID {
		t.Errorf("%+v, %v", f, err)
	}
	n.call("GET", "/fn/f", nil).want(t, 201, "")
	n.record(called.header.Get("Lambent-Invocation"))
	if lines := n.lines("f", "called by"); len(lines) != 2 {
		t.Errorf("%d log lines, want those from before and after", len(lines))
	}
	if err := n.client.Delete(t.Context(), "default", "f", 0); err != nil {
		t.Fatal(err)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	n = start(t, dir)
	n.call("GET", "/fn/f", nil).wantError(t, lambent.CodeFunctionNotFound, lambent.FaultClient, "")
}

func TestSecondUpIsRefused(t *testing.T) {
	dir := t.TempDir()
	n := start(t, dir)
	_, err := tryStart(t, daemon.Config{Data: dir})
	if !lambent.HasCode(err, lambent.CodeConflict) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("a second daemon: %v", err)
	}
	n.call("GET", "/fn/x", nil).want(t, 404, "")
}

func TestTruncatedStoreIsRefused(t *testing.T) {
	dir := t.TempDir()
	n := start(t, dir)
	n.python("f", hello, nil)
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	blocks, err := filepath.Glob(filepath.Join(dir, "nats/jetstream/*/streams/*/msgs/*.blk"))
	if err != nil || len(blocks) == 0 {
		t.Fatalf("no blocks: %v", err)
	}
	for _, b := range blocks {
		if err := os.Truncate(b, 100); err != nil {
			t.Fatal(err)
		}
	}
	_, err = tryStart(t, daemon.Config{Data: dir})
	if err == nil || !strings.Contains(err.Error(), "acknowledged") || !strings.Contains(err.Error(), dir) {
		t.Fatalf("a daemon started on a truncated store: %v", err)
	}
	t.Log(err)
	n, err = tryStart(t, daemon.Config{Data: dir, AcceptLoss: true})
	if err != nil {
		t.Fatal(err)
	}
	n.call("GET", "/fn/f", nil).wantError(t, lambent.CodeFunctionNotFound, lambent.FaultClient, "")
}

func TestControlNeedsTheKey(t *testing.T) {
	n := start(t, t.TempDir())
	for _, key := range []string{"", "wrong"} {
		c, err := client.New(n.at.Control, key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.System(t.Context()); lambent.ErrorOf(err).Status() != 401 {
			t.Errorf("key %q: %v", key, err)
		}
	}
	if info, err := os.Stat(n.at.KeyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info, err)
	}
}

// A client that leaves in mid-stream: the function's work is cancelled.
func TestClientLeaves(t *testing.T) {
	n := start(t, t.TempDir())
	program := build(t, "testdata/drip")
	n.deploy("drip", files{"main": program}, lambent.Settings{Runtime: "go"})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", n.at.Functions+"/fn/drip/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || line != "drop\n" {
		t.Fatalf("%q, %v", line, err)
	}
	cancel()
	resp.Body.Close()
	r := n.record(resp.Header.Get("Lambent-Invocation"))
	if r.Error == nil || r.Error.Code != lambent.CodeClientClosed || r.Error.Fault != lambent.FaultClient {
		t.Errorf("record %+v", r)
	}
	n.call("GET", "/fn/drip/cancelled", nil).want(t, 200, "1")
}

// attach gives a daemon of another process that runs on dir.
func attach(t *testing.T, dir string) *node {
	t.Helper()
	n := &node{t: t, dir: dir}
	readJSON(t, filepath.Join(dir, "endpoints.json"), &n.at)
	key, err := os.ReadFile(filepath.Join(dir, "admin.key"))
	if err != nil {
		t.Fatal(err)
	}
	if n.client, err = client.New(n.at.Control, strings.TrimSpace(string(key))); err != nil {
		t.Fatal(err)
	}
	return n
}

// A function sends its end of the log pipe to the host, where it stays open in the queue of an idle
// connection: the instance must end all the same, and with it the daemon.
func TestHiddenPipe(t *testing.T) {
	n := start(t, t.TempDir())
	n.python("hide", `
import array, os, socket, threading, time
def hide():
    time.sleep(0.1)
    for fd in range(3, 30):
        try:
            s = socket.socket(fileno=os.dup(fd))
            s.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1]))])
        except OSError:
            pass
    os._exit(0)
def handler(event, context):
    threading.Thread(target=hide).start()
    return {}
`, nil)
	n.call("GET", "/fn/hide", nil).want(t, 200, "")
	ended := func() bool {
		entries, err := os.ReadDir(filepath.Join(n.dir, "run", "instances"))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries) == 0
	}
	for range 200 {
		if ended() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("something of the instance is left after 10 s")
}
