package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"lambent"
	"lambent/client"
	"lambent/control"
	"lambent/control/controltest"
)

func newClient(t *testing.T, url, key string) *client.Client {
	t.Helper()
	c, err := client.New(url, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLife(t *testing.T) {
	w := controltest.New(t)
	c := newClient(t, w.URL+"/", controltest.Key)
	ctx := t.Context()

	var sent, total int64
	archive := strings.NewReader(strings.Repeat("code", 1<<16))
	b, err := c.Upload(ctx, archive, func(s, of int64) { sent, total = s, of })
	if err != nil || b.Size != 1<<18 || sent != b.Size || total != b.Size {
		t.Fatalf("upload %+v, sent %d of %d, %v", b, sent, total, err)
	}
	again, err := c.Upload(ctx, archive, func(int64, int64) { t.Error("the bundle was sent again") })
	if err != nil || again != b {
		t.Fatalf("second upload %+v, %v", again, err)
	}

	deploy := client.Deploy{Namespace: "default", Name: "hello", Code: b.Digest, Create: true,
		Settings: lambent.Settings{Runtime: "python", KeepAlive: lambent.Duration(time.Minute)}}
	d, err := c.Deploy(ctx, deploy)
	if err != nil || !d.Created || d.Function.Latest.Settings.KeepAlive.D() != time.Minute || d.Phases.Total() != 12*time.Millisecond || d.URL == "" {
		t.Fatalf("deploy %+v, %v", d, err)
	}
	if _, err := c.Deploy(ctx, deploy); !lambent.HasCode(err, lambent.CodeConflict) {
		t.Errorf("create again: %v", err)
	}
	deploy.Create, deploy.Version = false, d.Function.Version
	if d, err := c.Deploy(ctx, deploy); err != nil || !d.Unchanged {
		t.Errorf("unchanged: %+v, %v", d, err)
	}
	f, err := c.Function(ctx, "default", "hello")
	if err != nil || f.Latest.ID != d.Function.Latest.ID || f.Version != d.Function.Version {
		t.Errorf("function %+v, %v", f, err)
	}
	rs, err := c.Revisions(ctx, "default", "hello")
	if err != nil || len(rs) != 1 {
		t.Fatalf("revisions %v, %v", rs, err)
	}
	if r, err := c.Revision(ctx, "default", "hello", rs[0].ID); err != nil || r.Code != b.Digest {
		t.Errorf("revision %+v, %v", r, err)
	}
	testAliases(t, c, d.Function.Latest.ID, deploy)
	if f, err = c.Function(ctx, "default", "hello"); err != nil {
		t.Fatal(err)
	}
	if s, err := c.System(ctx); err != nil || s.Version != "test" || len(s.Findings) != 2 {
		t.Errorf("system %+v, %v", s, err)
	}
	if err := c.Delete(ctx, "default", "hello", 1<<40); !lambent.HasCode(err, lambent.CodeConflict) {
		t.Errorf("delete at a wrong version: %v", err)
	}
	if err := c.Delete(ctx, "default", "hello", f.Version); err != nil {
		t.Error(err)
	}
	if err := c.Delete(ctx, "default", "hello", 0); !lambent.HasCode(err, lambent.CodeFunctionNotFound) {
		t.Errorf("delete again: %v", err)
	}
}

// testAliases takes the function hello, whose only revision is first, through all that aliases do.
func testAliases(t *testing.T, c *client.Client, first string, deploy client.Deploy) {
	ctx := t.Context()
	if a, err := c.Publish(ctx, "default", "hello", ""); err != nil || a.Name != "1" || a.Targets[0].Revision.ID != first {
		t.Errorf("publish %+v, %v", a, err)
	}
	deploy.Version, deploy.Settings.Memory, deploy.Settings.Env = 0, 64, map[string]string{"A": "s3cret"}
	d, err := c.Deploy(ctx, deploy)
	if err != nil {
		t.Fatal(err)
	}
	second := d.Function.Latest.ID
	set := client.SetAlias{Namespace: "default", Function: "hello", Name: "prod", Create: true,
		Targets: []lambent.Weight{{Revision: "1", Weight: 9}, {Revision: "latest", Weight: 1}}, Sticky: "query:user"}
	a, err := c.SetAlias(ctx, set)
	if err != nil || a.Sticky != "query:user" || !slices.Equal(a.Weights(), []lambent.Weight{{Revision: first, Weight: 9}, {Revision: second, Weight: 1}}) {
		t.Fatalf("set %+v, %v", a, err)
	}
	if _, err := c.SetAlias(ctx, set); !lambent.HasCode(err, lambent.CodeConflict) {
		t.Errorf("create again: %v", err)
	}
	set.Create, set.Version, set.Targets = false, a.Version, []lambent.Weight{{Revision: second, Weight: 1}}
	moved, err := c.SetAlias(ctx, set)
	if err != nil || moved.Targets[0].Revision.ID != second {
		t.Errorf("move %+v, %v", moved, err)
	}
	if _, err := c.Rollback(ctx, "default", "hello", "prod", a.Version); !lambent.HasCode(err, lambent.CodeConflict) {
		t.Errorf("rollback of an old version: %v", err)
	}
	if back, err := c.Rollback(ctx, "default", "hello", "prod", moved.Version); err != nil || !slices.Equal(back.Weights(), a.Weights()) {
		t.Errorf("rollback %+v, %v", back, err)
	}
	if back, err := c.Rollback(ctx, "default", "hello", "", 0); err != nil || back.Name != lambent.LatestAlias || back.Targets[0].Revision.ID != first {
		t.Errorf("rollback of latest %+v, %v", back, err)
	}
	if got, err := c.Alias(ctx, "default", "hello", "prod"); err != nil || len(got.Targets) != 2 {
		t.Errorf("alias %+v, %v", got, err)
	}
	if all, err := c.Aliases(ctx, "default", "hello"); err != nil || len(all) != 3 || all[2].Name != "1" {
		t.Errorf("aliases %+v, %v", all, err)
	}
	diff, err := c.Diff(ctx, "default", "hello", "1", second)
	if err != nil || diff.To.ID != second || len(diff.Settings) != 1 || diff.Settings[0].Field != "memory" || !slices.Equal(diff.Env.Added, []string{"A"}) {
		t.Errorf("diff %+v, %v", diff, err)
	}
	if err := c.DeleteAlias(ctx, "default", "hello", "prod", 1); !lambent.HasCode(err, lambent.CodeConflict) {
		t.Errorf("delete at a wrong version: %v", err)
	}
	if err := c.DeleteAlias(ctx, "default", "hello", "prod", 0); err != nil {
		t.Error(err)
	}
	if _, err := c.Alias(ctx, "default", "hello", "prod"); !lambent.HasCode(err, lambent.CodeNotFound) {
		t.Errorf("deleted alias: %v", err)
	}
}

func TestFunctions(t *testing.T) {
	w := controltest.New(t)
	c := newClient(t, w.URL, controltest.Key)
	b, err := c.Upload(t.Context(), strings.NewReader("code"), nil)
	if err != nil {
		t.Fatal(err)
	}
	const n = 1001 // more than a page
	for i := range n {
		f := lambent.Function{Namespace: "default", Name: fmt.Sprintf("f%04d", i),
			Latest: &lambent.Revision{Namespace: "default", Function: fmt.Sprintf("f%04d", i), Code: b.Digest}}
		raw, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Store.Put(t.Context(), control.FunctionPrefix+"default."+f.Name, raw, 0); err != nil {
			t.Fatal(err)
		}
	}
	i := 0
	for f, err := range c.Functions(t.Context(), "") {
		if err != nil || f.Name != fmt.Sprintf("f%04d", i) {
			t.Fatalf("%d: %+v, %v", i, f, err)
		}
		i++
	}
	if i != n {
		t.Errorf("%d functions", i)
	}
	for range c.Functions(t.Context(), "none") {
		t.Error("a function in an empty namespace")
	}
}

func TestInvoke(t *testing.T) {
	w := controltest.New(t)
	c := newClient(t, w.URL, controltest.Key)
	b, err := c.Upload(t.Context(), strings.NewReader("code"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Deploy(t.Context(), client.Deploy{Namespace: "team", Name: "f", Code: b.Digest, Settings: lambent.Settings{Runtime: "go"}}); err != nil {
		t.Fatal(err)
	}
	w.Invoke = func(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
		return &lambent.Response{Status: 500, ContentLength: -1, Body: inv.Body,
			Header: http.Header{"Content-Type": inv.Header["Content-Type"]}}, nil
	}
	a, err := c.Invoke(t.Context(), "team", "f", "text/x", strings.NewReader("hi"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(a.Body)
	if err := errors.Join(err, a.Body.Close()); err != nil {
		t.Error(err)
	}
	if string(raw) != "hi" || a.Status != 500 || a.Header.Get("Content-Type") != "text/x" || a.Invocation == "" {
		t.Errorf("answer %+v %q", a, raw)
	}
	w.Invoke = func(context.Context, *lambent.Invocation) (*lambent.Response, error) {
		e := lambent.Errorf(lambent.CodeHandlerError, "ValueError: no")
		e.Trace = "Traceback"
		return nil, e
	}
	if _, err := c.Invoke(t.Context(), "team", "f:pr&d", "", nil); !lambent.HasCode(err, lambent.CodeNotFound) || !strings.Contains(err.Error(), `"pr&d"`) {
		t.Errorf("unknown alias: %v", err)
	}
	_, err = c.Invoke(t.Context(), "team", "f:latest", "", nil)
	if e := lambent.ErrorOf(err); e.Code != lambent.CodeHandlerError || e.Fault != lambent.FaultFunction || e.Trace != "Traceback" || e.Invocation == "" {
		t.Errorf("error %+v", e)
	}
	w.Records = []lambent.Record{{ID: "x", Namespace: "team", Function: "f", Error: lambent.Errorf(lambent.CodeHandlerError, "no")}}
	rs, err := c.Invocations(t.Context(), "team", "f", 5)
	if err != nil || len(rs) != 1 || rs[0].Error.Code != lambent.CodeHandlerError {
		t.Errorf("records %+v, %v", rs, err)
	}
	if r, err := c.Invocation(t.Context(), "x"); err != nil || r.ID != "x" {
		t.Errorf("record %+v, %v", r, err)
	}
	if _, err := c.Invocation(t.Context(), "a/b?c"); !lambent.HasCode(err, lambent.CodeNotFound) {
		t.Errorf("odd id: %v", err)
	}
}

func TestSystemEvents(t *testing.T) {
	w := controltest.New(t)
	c := newClient(t, w.URL, controltest.Key)
	since := time.Date(2026, 11, 22, 1, 2, 3, 4, time.UTC)
	want := control.EventQuery{Namespace: "team", Function: "f", Kind: "circuit", Since: since, Limit: 7, Follow: true}
	w.Events = func(_ context.Context, q control.EventQuery) iter.Seq2[lambent.SystemEvent, error] {
		if q != want {
			t.Errorf("query %+v", q)
		}
		return func(yield func(lambent.SystemEvent, error) bool) {
			_ = yield(lambent.SystemEvent{ID: "1", Exit: &lambent.Exit{Err: "none of the stream's"}}, nil) &&
				yield(lambent.SystemEvent{}, lambent.Errorf(lambent.CodeQueueFull, "too slow"))
		}
	}
	var got []string
	for e, err := range c.SystemEvents(t.Context(), client.EventQuery(want)) {
		got = append(got, e.ID)
		if lambent.HasCode(err, lambent.CodeQueueFull) != (len(got) == 2) {
			t.Errorf("%+v: %v", e, err)
		}
	}
	if !slices.Equal(got, []string{"1", ""}) {
		t.Errorf("got %q", got)
	}
}

func TestLogs(t *testing.T) {
	w := controltest.New(t)
	c := newClient(t, w.URL, controltest.Key)
	b, err := c.Upload(t.Context(), strings.NewReader("code"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Deploy(t.Context(), client.Deploy{Namespace: "default", Name: "f", Code: b.Digest, Settings: lambent.Settings{Runtime: "go"}}); err != nil {
		t.Fatal(err)
	}
	since := time.Date(2026, 11, 22, 1, 2, 3, 4, time.UTC)
	want := control.LogQuery{Namespace: "default", Function: "f", Tail: 7, Follow: true, Invocation: "x", Since: since}
	left := make(chan struct{})
	w.Lines = func(ctx context.Context, q control.LogQuery) iter.Seq2[lambent.LogLine, error] {
		if q != want {
			t.Errorf("query %+v", q)
		}
		return func(yield func(lambent.LogLine, error) bool) {
			for _, text := range []string{"one", "two"} {
				yield(lambent.LogLine{Text: text, Invocation: "x"}, nil)
			}
			<-ctx.Done()
			close(left)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []string
	for line, err := range c.Logs(ctx, "default", "f", client.LogQuery{Tail: 7, Follow: true, Invocation: "x", Since: since}) {
		if err != nil {
			t.Error(err)
		}
		if got = append(got, line.Text); len(got) == 2 {
			cancel()
		}
	}
	<-left
	if !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("lines %v", got)
	}

	w.Lines = func(context.Context, control.LogQuery) iter.Seq2[lambent.LogLine, error] {
		return func(yield func(lambent.LogLine, error) bool) {
			yield(lambent.LogLine{}, lambent.Errorf(lambent.CodeStorageFull, "no space"))
		}
	}
	for _, tt := range []struct {
		name string
		code lambent.Code
	}{{"f", lambent.CodeStorageFull}, {"g", lambent.CodeFunctionNotFound}} {
		n := 0
		for _, err := range c.Logs(t.Context(), "default", tt.name, client.LogQuery{}) {
			n++
			if !lambent.HasCode(err, tt.code) {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
		if n != 1 {
			t.Errorf("%s: %d items", tt.name, n)
		}
	}
}

func TestErrors(t *testing.T) {
	w := controltest.New(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	stranger := httptest.NewServer(http.NotFoundHandler())
	defer stranger.Close()
	html := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }))
	defer html.Close()
	for _, tt := range []struct{ url, key, code, want string }{
		{w.URL, "", "unauthorized", "needs a key"},
		{w.URL, "wrong", "unauthorized", "needs a key"},
		{"http://" + closed.Addr().String(), "", "internal", "cannot reach http://" + closed.Addr().String() + " (is `lambent up` running?)"},
		{stranger.URL, "", "internal", "404 Not Found, not in Lambent's way"},
		{html.URL, "", "internal", "not of Lambent's control API"},
		{"http://no-such-host.invalid", "", "internal", "cannot reach http://no-such-host.invalid"},
	} {
		_, err := newClient(t, tt.url, tt.key).System(t.Context())
		if err == nil || !lambent.HasCode(err, lambent.Code(tt.code)) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.url, err, tt.want)
		}
	}
	if _, err := newClient(t, w.URL, "").HasCode(t.Context(), "sha256:x"); !lambent.HasCode(err, lambent.CodeUnauthorized) {
		t.Errorf("HEAD without key: %v", err)
	}
	for _, url := range []string{"", "127.0.0.1:8081", "ftp://x", "http://", "http://[x"} {
		if _, err := client.New(url, ""); !lambent.HasCode(err, lambent.CodeInvalidRequest) {
			t.Errorf("New(%q): %v", url, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newClient(t, w.URL, controltest.Key).System(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// The client is for programs of others: it brings nothing but itself.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(string(out)); !slices.Equal(got, []string{"lambent", "lambent/client"}) {
		t.Errorf("client depends on %v", got)
	}
}
