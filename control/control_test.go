package control_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lambent"
	"lambent/control"
	"lambent/control/controltest"
	"lambent/store"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

const noDigest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

func TestKeyNeeded(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/v1/system", "/v1/openapi.json", "/metrics", "/v1/nowhere", "/", hello} {
		for _, auth := range []string{"", "Bearer wrong", "Basic " + controltest.Key, controltest.Key, "Bearer"} {
			w.fails(lambent.CodeUnauthorized, "GET", path, "", "Authorization", auth)
		}
		if resp, body := w.do("GET", path, ""); resp.StatusCode == http.StatusUnauthorized {
			t.Errorf("%s with the key: %s", path, body)
		}
	}
	if resp, body := w.do("GET", "/healthz", "", "Authorization", ""); resp.StatusCode != 200 || body != "ok\n" {
		t.Errorf("healthz: %s %q", resp.Status, body)
	}
	if _, body := w.do("GET", "/metrics", ""); body != "up 1\n" {
		t.Errorf("metrics: %q", body)
	}
}

func TestBadInput(t *testing.T) {
	w := newWorld(t)
	digest := w.upload("code")
	ok := deployBody(`{"runtime": "python"}`, digest)
	for _, tt := range []struct {
		name               string
		code               lambent.Code
		method, path, body string
		message, hint      string
	}{
		{"unknown setting", lambent.CodeInvalidRequest, "PUT", hello, deployBody(`{"runtime":"go","memroy":1}`, digest), "body.settings.memroy: unexpected property", "did you mean memory?"},
		{"unknown timeout", lambent.CodeInvalidRequest, "PUT", hello, deployBody(`{"runtime":"go","timeouts":{"totl":"1s"}}`, digest), "body.settings.timeouts.totl: unexpected", "did you mean total?"},
		{"unknown field, no guess", lambent.CodeInvalidRequest, "PUT", hello, `{"settings":{"runtime":"go"},"code":"` + digest + `","colour":1}`, "body.colour: unexpected", "use settings, code"},
		{"missing field", lambent.CodeInvalidRequest, "PUT", hello, `{"code":"` + digest + `"}`, "body: expected required property settings", ""},
		{"wrong type", lambent.CodeInvalidRequest, "PUT", hello, deployBody(`{"runtime":"go","memory":"lots"}`, digest), "body.settings.memory: expected integer", ""},
		{"two errors", lambent.CodeInvalidRequest, "PUT", hello, deployBody(`{"runtime":"go","cpu":"x","pids":"x"}`, digest), "body.settings.cpu: expected integer; body.settings.pids: expected integer", ""},
		{"bad duration", lambent.CodeInvalidRequest, "PUT", hello, deployBody(`{"runtime":"go","keep_alive":"5"}`, digest), `"5" is not a duration`, ""},
		{"out of range", lambent.CodeInvalidRequest, "PUT", hello, deployBody(`{"runtime":"go","memory":5}`, digest), "body.settings.memory: 5 is not between 16 and 10240", ""},
		{"unknown runtime", lambent.CodeInvalidRequest, "PUT", hello, deployBody(`{"runtime":"cobol"}`, digest), `body.settings.runtime: "cobol"`, "python"},
		{"runtime not here", lambent.CodeTierUnavailable, "PUT", hello, deployBody(`{"runtime":"python3.12"}`, digest), "python3.12 is not installed", ""},
		{"floor not met", lambent.CodeTierUnavailable, "PUT", hello, deployBody(`{"runtime":"go","floor":"full"}`, digest), "body.settings.floor: this node isolates functions below the floor full: its level is userns, which lacks users of their own", "lower floor"},
		{"bad digest", lambent.CodeInvalidRequest, "PUT", hello, deployBody(`{"runtime":"go"}`, "sha256:12"), "body.code: expected string to be a digest", ""},
		{"no such code", lambent.CodeNotFound, "PUT", hello, deployBody(`{"runtime":"go"}`, noDigest), "body.code: there is no bundle", "upload it first"},
		{"no JSON", lambent.CodeInvalidRequest, "PUT", hello, "{\n  \"settings\": oops}", "body: line 2, column 15: invalid character 'o'", ""},
		{"JSON cut off", lambent.CodeInvalidRequest, "PUT", hello, `{"settings": {`, "line 1, column 15: the JSON ends too early", ""},
		{"JSON and more", lambent.CodeInvalidRequest, "PUT", hello, ok + " {}", "there is more after", ""},
		{"no body", lambent.CodeInvalidRequest, "PUT", hello, "", "request body is required", ""},
		{"oversized", lambent.CodeBodyTooLarge, "PUT", hello, `{"settings":"` + strings.Repeat("x", 2<<20), "too large", ""},
		{"invalid name", lambent.CodeInvalidRequest, "PUT", "/v1/namespaces/default/functions/Hello", ok, `"Hello" is no valid function name`, "a-z"},
		{"invalid namespace", lambent.CodeInvalidRequest, "PUT", "/v1/namespaces/a.b/functions/hello", ok, `"a.b" is no valid namespace name`, "a-z"},
		{"escaped slash", lambent.CodeInvalidRequest, "GET", "/v1/namespaces/default/functions/a%2fb", "", `"a/b" is no valid`, ""},
		{"get unknown", lambent.CodeFunctionNotFound, "GET", hello, "", "no function hello", "lambent ls"},
		{"delete unknown", lambent.CodeFunctionNotFound, "DELETE", hello, "", "no function hello", ""},
		{"revisions of unknown", lambent.CodeFunctionNotFound, "GET", hello + "/revisions", "", "no function hello", ""},
		{"logs of unknown", lambent.CodeFunctionNotFound, "GET", hello + "/logs", "", "no function hello", ""},
		{"invoke unknown", lambent.CodeFunctionNotFound, "POST", hello + "/invocations", "{}", "no function hello", ""},
		{"unknown invocation", lambent.CodeNotFound, "GET", "/v1/invocations/x", "", "no record", ""},
		{"unknown query", lambent.CodeInvalidRequest, "GET", "/v1/functions?limti=5", "", "query.limti: unknown query parameter", ""},
		{"bad limit", lambent.CodeInvalidRequest, "GET", "/v1/functions?limit=many", "", "query.limit: invalid integer", ""},
		{"limit too high", lambent.CodeInvalidRequest, "GET", "/v1/functions?limit=5000", "", "query.limit: expected number <= 1000", ""},
		{"bad cursor", lambent.CodeInvalidRequest, "GET", "/v1/functions?after=x", "", "query.after", ""},
		{"bad since", lambent.CodeInvalidRequest, "GET", hello + "/logs?since=yesterday", "", "query.since", ""},
		{"empty bundle", lambent.CodeBundleInvalid, "PUT", "/v1/code", "", "empty", "tar"},
		{"garbage bundle", lambent.CodeBundleInvalid, "POST", "/v1/code", "garbage", "neither", ""},
		{"no such path", lambent.CodeNotFound, "GET", "/v2/functions", "", "nothing at /v2/functions", "openapi"},
		{"method not allowed", lambent.CodeMethodNotAllowed, "DELETE", "/v1/system", "", "/v1/system does not take DELETE", "use GET, HEAD"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.t = t
			e := w.fails(tt.code, tt.method, tt.path, tt.body)
			if !strings.Contains(e.Message, tt.message) || !strings.Contains(e.Hint, tt.hint) {
				t.Errorf("message %q, hint %q; want %q, %q", e.Message, e.Hint, tt.message, tt.hint)
			}
		})
	}
	w.t = t
	if resp, _ := w.do("HEAD", "/v1/code/"+noDigest, ""); resp.StatusCode != 404 {
		t.Errorf("HEAD of missing code: %s", resp.Status)
	}
	if resp, _ := w.do("HEAD", "/v1/code/"+digest, ""); resp.StatusCode/100 != 2 {
		t.Errorf("HEAD of code: %s", resp.Status)
	}
	for e, err := range w.Store.List(t.Context(), "") {
		t.Errorf("bad input left %q (%v)", e.Key, err)
	}
}

func TestLife(t *testing.T) {
	w := newWorld(t)
	one, two := w.upload("one"), w.upload("two")

	var d control.Deployment
	resp := w.gives(201, &d, "PUT", hello, deployBody(`{"runtime": "python", "keep_alive": "1m"}`, one))
	first := d.Function
	if !d.Created || d.Unchanged || first.Latest.Settings.Runtime != "python3.11" || first.Latest.Settings.Memory != 256 ||
		first.Latest.Code != one || first.Latest.Root != "debian-12" || d.Phases[lambent.PhaseBoot] != 12e6 ||
		d.URL != "http://127.0.0.1:8080/fn/hello/" || resp.Header.Get("ETag") != fmt.Sprintf(`"%d"`, first.Version) {
		t.Fatalf("first deploy: %+v", d)
	}

	w.Ready = func(context.Context, *lambent.Revision) (lambent.Phases, error) {
		t.Error("an unchanged revision was started again")
		return lambent.Phases{}, nil
	}
	d = control.Deployment{} // its pointers are those of first
	w.gives(200, &d, "PUT", hello, deployBody(`{"runtime": "python3.11", "keep_alive": "60s"}`, one))
	if d.Created || !d.Unchanged || d.Function.Version != first.Version {
		t.Errorf("same again: %+v", d)
	}

	w.Ready = func(context.Context, *lambent.Revision) (lambent.Phases, error) {
		e := lambent.Errorf(lambent.CodeStartFailed, "load: exited with code 1")
		e.Trace = "ImportError: no module named x"
		return lambent.Phases{}, e
	}
	e := w.fails(lambent.CodeStartFailed, "PUT", hello, deployBody(`{"runtime": "python"}`, two))
	if e.Trace != "ImportError: no module named x" || !strings.Contains(e.Hint, first.Latest.ID) {
		t.Errorf("failed deploy: %+v", e)
	}
	var f lambent.Function
	w.gives(200, &f, "GET", hello, "")
	if f.Latest.ID != first.Latest.ID || f.Version != first.Version {
		t.Errorf("a failed deploy changed the function: %+v", f)
	}
	for _, i := range []*lambent.Isolation{first.Isolation, f.Isolation} {
		if i == nil || i.Level != lambent.IsolationUserns || len(i.Lacks) != 1 {
			t.Errorf("the isolation is %+v", i)
		}
	}
	w.Circuit = lambent.Errorf(lambent.CodeCircuitOpen, "hello does not start")
	if w.gives(200, &f, "GET", hello, ""); f.Circuit == nil || f.Circuit.Message != w.Circuit.Message {
		t.Errorf("the circuit is %v", f.Circuit)
	}
	if e, err := w.Store.Get(t.Context(), control.FunctionPrefix+"default.hello"); err != nil || strings.Contains(string(e.Value), "isolation") {
		t.Errorf("stored: %s, %v", e.Value, err)
	}

	w.Ready = func(context.Context, *lambent.Revision) (lambent.Phases, error) { return lambent.Phases{}, nil }
	w.fails(lambent.CodeConflict, "PUT", hello, deployBody(`{"runtime": "go"}`, two), "If-None-Match", "*")
	w.fails(lambent.CodeConflict, "PUT", hello, deployBody(`{"runtime": "go"}`, two), "If-Match", `"999"`)
	w.fails(lambent.CodeConflict, "PUT", hello+"2", deployBody(`{"runtime": "go"}`, two), "If-Match", `"1"`)
	d = control.Deployment{}
	w.gives(200, &d, "PUT", hello, deployBody(`{"runtime": "go"}`, two), "If-Match", resp.Header.Get("ETag"))
	if d.Created || d.Unchanged || !d.Function.Created.Equal(first.Created) || d.Function.Version <= first.Version {
		t.Errorf("second deploy: %+v", d)
	}
	w.gives(201, nil, "PUT", "/v1/namespaces/team/functions/hello", deployBody(`{"runtime": "go"}`, two), "If-None-Match", "*")

	var revisions control.Revisions
	w.gives(200, &revisions, "GET", hello+"/revisions", "")
	if len(revisions.Revisions) != 2 {
		t.Fatalf("%d revisions", len(revisions.Revisions))
	}
	var r lambent.Revision
	w.gives(200, &r, "GET", hello+"/revisions/"+first.Latest.ID, "")
	if r.Code != one || r.ID != first.Latest.ID {
		t.Errorf("revision %+v", r)
	}
	w.fails(lambent.CodeNotFound, "GET", hello+"/revisions/0123456789abcdef", "")
	w.fails(lambent.CodeInvalidRequest, "GET", hello+"/revisions/latest", "")

	// Going back is a deploy of the same input: the revision is the one of then.
	d = control.Deployment{}
	w.gives(200, &d, "PUT", hello, deployBody(`{"runtime": "python", "keep_alive": "1m"}`, one))
	if d.Function.Latest.ID != first.Latest.ID || !d.Function.Latest.Created.Equal(first.Latest.Created) {
		t.Errorf("back: %+v, first %+v", d.Function.Latest, first.Latest)
	}

	w.fails(lambent.CodeConflict, "DELETE", hello, "", "If-Match", `"1"`)
	w.gives(204, nil, "DELETE", hello, "")
	w.fails(lambent.CodeFunctionNotFound, "GET", hello, "")
	var left []string
	for e, err := range w.Store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, e.Key)
	}
	slices.Sort(left)
	if len(left) != 2 || left[0] != "function.team.hello" || !strings.HasPrefix(left[1], "revision.team.hello.") {
		t.Errorf("left in the store: %v", left)
	}
	if !slices.Equal(w.Removed, []string{"default/hello"}) {
		t.Errorf("logs removed: %v", w.Removed)
	}
}

func TestFamilies(t *testing.T) {
	w := newWorld(t)
	digest := w.upload("code")
	for family, want := range map[string]string{"python": "python3.11", "nodejs": "nodejs20"} {
		var d control.Deployment
		w.gives(201, &d, "PUT", "/v1/namespaces/default/functions/"+family, deployBody(`{"runtime": "`+family+`"}`, digest))
		if got := d.Function.Latest.Settings.Runtime; got != want {
			t.Errorf("%s stands for %s, want %s", family, got, want)
		}
	}
}

func TestConcurrentDeploys(t *testing.T) {
	w := newWorld(t)
	const n = 8
	var bodies [n]string
	for i := range n {
		bodies[i] = deployBody(`{"runtime": "go"}`, w.upload(fmt.Sprint("code ", i)))
	}
	var all sync.WaitGroup
	all.Add(n) // every deploy has read the function before any writes it
	var mu sync.Mutex
	made := map[string]bool{}
	w.Ready = func(_ context.Context, r *lambent.Revision) (lambent.Phases, error) {
		mu.Lock()
		made[r.ID] = true
		mu.Unlock()
		all.Done()
		all.Wait()
		return lambent.Phases{}, nil
	}
	got := map[int]int{}
	var winner control.Deployment
	var clients sync.WaitGroup
	for _, body := range bodies {
		clients.Go(func() {
			resp, raw := w.do("PUT", hello, body)
			mu.Lock()
			defer mu.Unlock()
			got[resp.StatusCode]++
			if resp.StatusCode == 201 {
				if err := json.Unmarshal([]byte(raw), &winner); err != nil {
					t.Error(err)
				}
			}
		})
	}
	clients.Wait()
	if got[201] != 1 || got[409] != n-1 {
		t.Fatalf("statuses %v", got)
	}
	if len(made) != n {
		t.Errorf("%d revisions were made ready", len(made))
	}
	for id := range made {
		if w.Abandoned(id) == (id == winner.Function.Latest.ID) {
			t.Errorf("revision %s abandoned: %t, but %s has won", id, w.Abandoned(id), winner.Function.Latest.ID)
		}
	}
	var f lambent.Function
	w.gives(200, &f, "GET", hello, "")
	if f.Latest.ID != winner.Function.Latest.ID || f.Version != winner.Function.Version {
		t.Errorf("stored %+v, won %+v", f, winner.Function)
	}
}

func TestDeployEndsWithItsClient(t *testing.T) {
	w := newWorld(t)
	digest := w.upload("code")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	w.Ready = func(rctx context.Context, _ *lambent.Revision) (lambent.Phases, error) {
		cancel()
		<-rctx.Done()
		ended <- rctx.Err()
		return lambent.Phases{}, rctx.Err()
	}
	req, _ := http.NewRequestWithContext(ctx, "PUT", w.URL+hello, strings.NewReader(deployBody(`{"runtime":"go"}`, digest)))
	req.Header.Set("Authorization", "Bearer "+controltest.Key)
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Fatal("an answer after the client left")
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	w.fails(lambent.CodeFunctionNotFound, "GET", hello, "")
}

func TestPages(t *testing.T) {
	w := newWorld(t)
	digest := w.upload("code")
	var want []string
	for i := range 25 {
		for _, ns := range []string{"a", "a-b"} {
			name := fmt.Sprintf("f%d", i)
			w.gives(201, nil, "PUT", "/v1/namespaces/"+ns+"/functions/"+name, deployBody(`{"runtime":"go"}`, digest))
			want = append(want, ns+"/"+name)
		}
	}
	slices.SortFunc(want, func(a, b string) int {
		return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
	})
	for _, tt := range []struct{ limit, pages int }{{1, 50}, {7, 8}, {25, 2}, {49, 2}, {50, 1}, {1000, 1}} {
		var got []string
		after, pages := "", 0
		for {
			var page control.Page
			w.gives(200, &page, "GET", fmt.Sprintf("/v1/functions?limit=%d&after=%s", tt.limit, after), "")
			for _, f := range page.Functions {
				got = append(got, f.Namespace+"/"+f.Name)
			}
			pages++
			if after = page.Next; after == "" {
				break
			}
		}
		if !slices.Equal(got, want) || pages != tt.pages {
			t.Errorf("limit %d: %d pages, %v", tt.limit, pages, got)
		}
	}
	var page control.Page
	w.gives(200, &page, "GET", "/v1/functions?namespace=a-b", "")
	if len(page.Functions) != 25 || page.Next != "" {
		t.Errorf("one namespace: %d, next %q", len(page.Functions), page.Next)
	}
	w.gives(200, &page, "GET", "/v1/functions?namespace=none", "")
	if page.Functions == nil || len(page.Functions) != 0 {
		t.Errorf("no functions: %v", page.Functions)
	}
}

func TestInvoke(t *testing.T) {
	w := newWorld(t)
	w.gives(201, nil, "PUT", hello, deployBody(`{"runtime":"python","max_body":10}`, w.upload("code")))
	var seen *lambent.Invocation
	w.Invoke = func(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
		seen = inv
		raw, err := io.ReadAll(inv.Body)
		if err != nil {
			return nil, err
		}
		return &lambent.Response{
			Status: 418, ContentLength: -1, Body: io.NopCloser(strings.NewReader("echo " + string(raw))),
			Header:  http.Header{"Content-Type": {"text/x"}, "Lambent-Invocation": {"forged"}, "Lambent-Status": {"forged"}},
			Trailer: http.Header{"X-Sum": {"7"}},
		}, nil
	}
	resp, body := w.do("POST", hello+"/invocations", "payload", "Content-Type", "text/y", "Cookie", "c=1")
	if resp.StatusCode != 418 || body != "echo payload" || resp.Header.Get("Content-Type") != "text/x" || resp.Trailer.Get("X-Sum") != "7" ||
		resp.Header.Get(control.InvocationHeader) != seen.ID || resp.Header.Get(control.StatusHeader) != "418" {
		t.Errorf("answer %d %q %v, trailer %v", resp.StatusCode, body, resp.Header, resp.Trailer)
	}
	if seen.Method != "POST" || seen.Target != "/" || seen.Trigger != lambent.TriggerInvoke || seen.ContentLength != 7 ||
		seen.Header.Get("Content-Type") != "text/y" || seen.Revision.Function != "hello" || time.Since(seen.Accepted) > time.Minute {
		t.Errorf("invocation %+v", seen)
	}
	if seen.Header.Get("Authorization")+seen.Header.Get("Cookie") != "" {
		t.Error("the function saw the caller's secrets")
	}

	w.fails(lambent.CodeBodyTooLarge, "POST", hello+"/invocations", "12345678901")

	w.Invoke = func(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
		e := lambent.Errorf(lambent.CodeHandlerError, "ValueError: bad")
		e.Invocation, e.Trace = inv.ID, "Traceback"
		return nil, e
	}
	if e := w.fails(lambent.CodeHandlerError, "POST", hello+"/invocations", ""); e.Trace != "Traceback" || e.Invocation == "" {
		t.Errorf("handler error %+v", e)
	}
	w.Invoke = func(context.Context, *lambent.Invocation) (*lambent.Response, error) {
		return nil, lambent.Errorf(lambent.CodeQueueFull, "full")
	}
	if resp, _ := w.do("POST", hello+"/invocations", ""); resp.Header.Get("Retry-After") == "" || resp.Header.Get(control.StatusHeader) != "" {
		t.Errorf("queue full: %v", resp.Header)
	}
}

// A function that fails while it answers must not look as if it had finished.
func TestInvokeBrokenOff(t *testing.T) {
	w := newWorld(t)
	w.gives(201, nil, "PUT", hello, deployBody(`{"runtime":"go"}`, w.upload("code")))
	w.Invoke = func(context.Context, *lambent.Invocation) (*lambent.Response, error) {
		body := io.MultiReader(strings.NewReader("half"), failing{})
		return &lambent.Response{Status: 200, ContentLength: -1, Body: io.NopCloser(body)}, nil
	}
	req, _ := http.NewRequestWithContext(t.Context(), "POST", w.URL+hello+"/invocations", nil)
	req.Header.Set("Authorization", "Bearer "+controltest.Key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if raw, err := io.ReadAll(resp.Body); string(raw) != "half" || err == nil {
		t.Errorf("got %q, error %v", raw, err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) {
	return 0, lambent.Errorf(lambent.CodeInstanceExited, "killed by SIGKILL")
}

func TestLogs(t *testing.T) {
	w := newWorld(t)
	w.gives(201, nil, "PUT", hello, deployBody(`{"runtime":"go"}`, w.upload("code")))
	var query control.LogQuery
	more, left := make(chan string), make(chan error, 1)
	w.Lines = func(ctx context.Context, q control.LogQuery) iter.Seq2[lambent.LogLine, error] {
		query = q
		return func(yield func(lambent.LogLine, error) bool) {
			for {
				select {
				case text := <-more:
					if !yield(lambent.LogLine{Text: text}, nil) {
						return
					}
				case <-ctx.Done():
					left <- ctx.Err()
					return
				}
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", w.URL+hello+"/logs?tail=-1&follow=true&invocation=x&since=2026-11-22T01:02:03.5Z", nil)
	req.Header.Set("Authorization", "Bearer "+controltest.Key)
	resp, err := http.DefaultClient.Do(req) // returns although there is no line yet
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if ct := resp.Header.Get("Content-Type"); ct != "application/x-ndjson" {
		t.Errorf("content type %q", ct)
	}
	want := control.LogQuery{Namespace: "default", Function: "hello", Tail: -1, Follow: true, Invocation: "x",
		Since: time.Date(2026, 11, 22, 1, 2, 3, 5e8, time.UTC)}
	lines := bufio.NewScanner(resp.Body)
	for _, text := range []string{"one", "two"} { // each arrives before the next is written
		more <- text
		var line lambent.LogLine
		if !lines.Scan() || json.Unmarshal(lines.Bytes(), &line) != nil || line.Text != text {
			t.Fatalf("line %q, want %q", lines.Text(), text)
		}
	}
	if query != want {
		t.Errorf("query %+v", query)
	}
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}

	w.Lines = func(context.Context, control.LogQuery) iter.Seq2[lambent.LogLine, error] {
		return func(yield func(lambent.LogLine, error) bool) {
			_ = yield(lambent.LogLine{Text: "one"}, nil) && yield(lambent.LogLine{}, errors.New("disk gone"))
		}
	}
	if _, body := w.do("GET", hello+"/logs", ""); !strings.Contains(body, `"text":"one"`) || !strings.HasSuffix(body, `"message":"disk gone"}}`+"\n") {
		t.Errorf("broken logs: %q", body)
	}
}

func TestInvocations(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		w.Records = append(w.Records, lambent.Record{ID: fmt.Sprint(i), Namespace: "default", Function: []string{"a", "b"}[i%2],
			Phases: lambent.Phases{lambent.PhaseHandler: 15e5}})
	}
	var out control.Invocations
	w.gives(200, &out, "GET", "/v1/invocations?namespace=default&function=a&limit=2", "")
	if len(out.Invocations) != 2 || out.Invocations[1].ID != "2" {
		t.Errorf("list %+v", out)
	}
	var r lambent.Record
	w.gives(200, &r, "GET", "/v1/invocations/3", "")
	if r.Function != "b" || r.Phases[lambent.PhaseHandler] != 15e5 {
		t.Errorf("record %+v", r)
	}
	w.gives(200, &out, "GET", "/v1/invocations?namespace=none", "")
	if out.Invocations == nil || len(out.Invocations) != 0 {
		t.Errorf("none: %#v", out.Invocations)
	}
}

func TestSystem(t *testing.T) {
	var s control.System
	newWorld(t).gives(200, &s, "GET", "/v1/system", "")
	if s.Version != "test" || s.Functions != "http://127.0.0.1:8080" || len(s.Runtimes) != 6 || len(s.Findings) != 2 || s.Arch == "" {
		t.Errorf("%+v", s)
	}
}

func TestDamagedRecord(t *testing.T) {
	w := newWorld(t)
	for _, value := range []string{"{", "{}", `{"namespace":"default","name":"other","latest":{}}`} {
		if _, err := w.Store.Put(t.Context(), "function.default.hello", []byte(value), store.Any); err != nil {
			t.Fatal(err)
		}
		if e := w.fails(lambent.CodeInternal, "GET", hello, ""); !strings.Contains(e.Message, "function.default.hello is damaged") {
			t.Errorf("%+v", e)
		}
	}
}

func TestOpenAPI(t *testing.T) {
	var doc struct {
		OpenAPI    string
		Paths      map[string]map[string]struct{ OperationID string }
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct{ Type any }
			}
		}
	}
	newWorld(t).gives(200, &doc, "GET", "/v1/openapi.json", "")
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("OpenAPI %q", doc.OpenAPI)
	}
	function := "/v1/namespaces/{namespace}/functions/{name}"
	want := map[string][]string{
		function:                                    {"delete", "get", "put"},
		function + "/revisions":                     {"get"},
		function + "/revisions/{id}":                {"get"},
		function + "/invocations":                   {"post"},
		function + "/logs":                          {"get"},
		function + "/aliases":                       {"get"},
		function + "/aliases/{alias}":               {"delete", "get", "put"},
		"/v1/namespaces/{namespace}/routes":         {"get"},
		"/v1/namespaces/{namespace}/routes/{name}":  {"delete", "get", "put"},
		function + "/publish":                       {"post"},
		function + "/rollback":                      {"post"},
		function + "/diff":                          {"get"},
		"/v1/functions":                             {"get"},
		"/v1/code":                                  {"post", "put"},
		"/v1/code/{digest}":                         {"head"},
		"/v1/invocations":                           {"get"},
		"/v1/invocations/{id}":                      {"get"},
		"/v1/system":                                {"get"},
		"/v1/system/events":                         {"get"},
		"/v1/system/secrets/rotate":                 {"post"},
		"/v1/namespaces/{namespace}/builds":         {"post"},
		"/v1/namespaces/{namespace}/keys":           {"get", "post"},
		"/v1/namespaces/{namespace}/keys/{name}":    {"delete"},
		"/v1/namespaces/{namespace}/secrets":        {"get"},
		"/v1/namespaces/{namespace}/secrets/{name}": {"delete", "get", "put"},
	}
	ids := map[string]bool{}
	for path, methods := range want {
		var got []string
		for method, op := range doc.Paths[path] {
			got = append(got, method)
			if op.OperationID == "" || ids[op.OperationID] {
				t.Errorf("%s %s: operation id %q", method, path, op.OperationID)
			}
			ids[op.OperationID] = true
		}
		if slices.Sort(got); !slices.Equal(got, methods) {
			t.Errorf("%s: %v, want %v", path, got, methods)
		}
	}
	if len(doc.Paths) != len(want) {
		t.Errorf("%d paths, want %d", len(doc.Paths), len(want))
	}
	schemas := doc.Components.Schemas
	if schemas["Settings"].Properties["keep_alive"].Type != "string" || schemas["Record"].Properties["phases_ms"].Type != "object" ||
		schemas["Settings"].Properties["memory"].Type != "integer" || schemas["Error"].Properties["code"].Type != "string" {
		t.Errorf("schemas %+v", schemas)
	}
}
