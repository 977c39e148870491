package system

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"lambent"
)

// nodejs deploys a module.
func (n *node) nodejs(name, index string, change func(*lambent.Settings)) {
	n.t.Helper()
	s := lambent.Settings{Runtime: "nodejs"}
	if change != nil {
		change(&s)
	}
	n.deploy(name, files{"index.mjs": index}, s)
}

// Each failure of a Node.js handler says so, keeps the platform whole, and the next call is served.
func TestFailingNodeHandlers(t *testing.T) {
	n := start(t, t.TempDir())
	n.nodejs("bad", `
export async function handler(event) {
  const what = event.queryStringParameters?.do;
  if (what === 'throw') throw new RangeError('as asked');
  if (what === 'later') return new Promise(() => setTimeout(() => { throw new Error('nobody caught me') }));
  if (what === 'reject') return new Promise(() => { Promise.reject(new Error('nobody looked')) });
  if (what === 'exit') process.exit(3);
  if (what === 'garbage') return { n: 1n };
  if (what === 'never') return new Promise(() => {});
  if (what === 'spin') { console.log('about to spin'); for (;;); }
  if (what === 'wait') return new Promise((go) => setTimeout(go, 3600_000));
  if (what === 'buffers') return Buffer.alloc(1 << 30, 1).length;
  if (what === 'heap') for (const all = []; ; ) all.push(Array.from({ length: 1000 }, (_, i) => ({ i })));
  return { statusCode: 200, body: 'fine' };
}
`, func(s *lambent.Settings) {
		s.Memory, s.Timeouts.Total = 128, lambent.Duration(10*time.Second)
	})
	for _, c := range []struct {
		do    string
		code  lambent.Code
		fault lambent.Fault
		part  string
	}{
		{"throw", lambent.CodeHandlerError, lambent.FaultFunction, "RangeError: as asked"},
		{"later", lambent.CodeHandlerError, lambent.FaultFunction, "nobody caught me"},
		{"reject", lambent.CodeHandlerError, lambent.FaultFunction, "nobody looked"},
		{"exit", lambent.CodeInstanceExited, lambent.FaultFunction, "code 3"},
		{"garbage", lambent.CodeBadResponse, lambent.FaultFunction, "BigInt"},
		{"never", lambent.CodeHandlerError, lambent.FaultFunction, "never settled"},
		{"buffers", lambent.CodeMemoryExceeded, lambent.FaultLimit, "128"},
		{"heap", lambent.CodeMemoryExceeded, lambent.FaultLimit, "128"},
		{"spin", lambent.CodeTotalTimeout, lambent.FaultLimit, "10s"},
		{"wait", lambent.CodeTotalTimeout, lambent.FaultLimit, "10s"},
	} {
		t.Run(c.do, func(t *testing.T) {
			a := n.call("GET", "/fn/bad?do="+c.do, nil)
			a.wantError(t, c.code, c.fault, c.part)
			if strings.Contains(a.body, "index.mjs") {
				t.Errorf("the public sees the stack: %s", a.body)
			}
			n.call("GET", "/fn/bad", nil).want(t, 200, "fine")
		})
	}
	if lines := n.lines("bad", "about to spin"); len(lines) != 1 || lines[0].Invocation == "" {
		t.Errorf("what was printed before the kill: %+v", lines)
	}
	if lines := n.lines("bad", "RangeError: as asked"); len(lines) != 1 || lines[0].Stream != "stderr" {
		t.Errorf("the error in the logs: %+v", lines)
	}
	_, err := n.tryDeploy("bad", files{"index.mjs": "import 'express'"}, lambent.Settings{Runtime: "nodejs"})
	if e := lambent.ErrorOf(err); e == nil || e.Code != lambent.CodeStartFailed || !strings.Contains(e.Message, "npm install") {
		t.Errorf("a package that is missing: %v", err)
	}
	n.call("GET", "/fn/bad", nil).want(t, 200, "fine")
}

// One instance with fetch serves many at a time, streams both ways, and learns who leaves.
func TestFetchHandler(t *testing.T) {
	n := start(t, t.TempDir())
	n.nodejs("web", `
let waiting = [];
export default {
  async fetch(request) {
    const { pathname } = new URL(request.url);
    if (pathname === '/upper') return new Response(request.body.pipeThrough(new TransformStream({
      transform(chunk, out) { out.enqueue(new TextEncoder().encode(new TextDecoder().decode(chunk).toUpperCase())) } })));
    if (pathname === '/leave') return new Response(new ReadableStream({
      start(out) { out.enqueue(new Uint8Array(1)) }, cancel() { console.log('somebody left') } }));
    await new Promise((go) => { waiting.push(go); if (waiting.length === 20) for (const each of waiting) each() });
    return new Response(pathname + ' ' + new URL(request.url).host);
  },
};
`, func(s *lambent.Settings) { s.Handler, s.MaxInstances = "index.default", 1 })

	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			n.call("GET", fmt.Sprintf("/fn/web/%d", i), nil).want(t, 200, fmt.Sprintf("/%d 127.0.0.1:", i))
		})
	}
	all.Wait()

	up, feed := io.Pipe()
	defer feed.Close()
	req, err := http.NewRequestWithContext(t.Context(), "POST", n.at.Functions+"/fn/web/upper", up)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(feed, "piece 0") }()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for i := range 5 {
		got := make([]byte, len("piece 0"))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != fmt.Sprintf("PIECE %d", i) {
			t.Fatalf("piece %d came back as %q, %v", i, got, err)
		}
		if _, err := fmt.Fprintf(feed, "piece %d", i+1); err != nil {
			t.Fatal(err)
		}
	}
	feed.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "PIECE 5" {
		t.Errorf("the end is %q, %v", rest, err)
	}

	ctx, leave := context.WithCancel(t.Context())
	req, err = http.NewRequestWithContext(ctx, "GET", n.at.Functions+"/fn/web/leave", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err = http.DefaultClient.Do(req); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	leave()
	resp.Body.Close()
	for range 500 {
		if len(n.lines("web", "somebody left")) > 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the function did not learn in 5 s that its caller has left")
}

func TestConcurrencyNeedsFetch(t *testing.T) {
	n := start(t, t.TempDir())
	_, err := n.tryDeploy("f", files{"index.mjs": "export const handler = () => 1"}, lambent.Settings{Runtime: "nodejs", Concurrency: 2})
	if e := lambent.ErrorOf(err); e == nil || e.Code != lambent.CodeInvalidRequest || !strings.Contains(e.Hint, ".default") {
		t.Errorf("got %v", err)
	}
}

// A handler of streams, as for AWS Lambda, is heard while it still writes.
func TestNodeStreamsResponses(t *testing.T) {
	n := start(t, t.TempDir())
	n.nodejs("ticks", `
export const handler = awslambda.streamifyResponse(async (event, stream) => {
  const out = awslambda.HttpResponseStream.from(stream, { statusCode: 202, headers: { 'content-type': 'text/event-stream' } });
  for (let i = 0; i < 3; i++) {
    out.write('data: ' + i + '\n\n');
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  out.end();
});
`, nil)
	began := time.Now()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.at.Functions+"/fn/ticks/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, len("data: 0\n\n"))
	if _, err := io.ReadFull(resp.Body, first); err != nil || resp.StatusCode != 202 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("%d %q, %v", resp.StatusCode, first, err)
	}
	heard := time.Since(began)
	rest, err := io.ReadAll(resp.Body)
	if err != nil || string(rest) != "data: 1\n\ndata: 2\n\n" {
		t.Errorf("%q, %v", rest, err)
	}
	if whole := time.Since(began); whole-heard < 900*time.Millisecond {
		t.Errorf("the first event came after %s, the whole after %s", heard, whole)
	}
}
