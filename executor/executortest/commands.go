package executortest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lambent"
)

// startScript starts testdata/exec/do.sh, which runs once for each request.
func (k *kit) startScript(t *testing.T, change func(*lambent.Settings)) *running {
	t.Helper()
	return k.startCode(t, scripts(t, "exec"), func(s *lambent.Settings) {
		s.Runtime, s.Handler, s.Command = "exec", "", []string{"./do.sh", "one", "two words"}
		if change != nil {
			change(s)
		}
	})
}

func testExecEcho(t *testing.T, k *kit) {
	r := k.startScript(t, nil)
	if p := r.StartPhases(); p[lambent.PhaseSandbox] <= 0 || p[lambent.PhaseBoot] <= 0 || p[lambent.PhaseLoad] <= 0 {
		t.Errorf("the start's phases are %v", p)
	}
	for _, body := range []string{"", "hello\x00\xff", strings.Repeat("0123456789abcdef", 1<<16)} {
		if status, got, err := r.do(request(t, "POST", "/echo", body)); status != 200 || got != body || err != nil {
			t.Errorf("status %d, %d bytes of %d came back, %v", status, len(got), len(body), err)
		}
	}
	// Far more than pipes hold, which the program does not read.
	if _, got, err := r.do(request(t, "POST", "/args", strings.Repeat("x", 4<<20))); got != "one\ntwo words\n" || err != nil {
		t.Errorf("the arguments are %q, %v", got, err)
	}
}

// testExecEnv checks the meta-variables of RFC 3875, and what must not become one.
func testExecEnv(t *testing.T, k *kit) {
	r := k.startScript(t, func(s *lambent.Settings) { s.Env = map[string]string{"COLOUR": "blue"} })
	req := request(t, "POST", "/env?a=1&b=%20", "12345")
	req.URL.Path, req.Host = "/env", "shop.example:8443"
	req.URL.Host = req.Host
	for name, value := range map[string]string{
		"Content-Type": "text/csv", "X-Forwarded-For": "6.6.6.6, 192.0.2.7", "X-Forwarded-Proto": "https", "Colour": "green",
		"Proxy": "http://evil.example", "X_Forwarded_For": "1.1.1.1", "X-Forwarded-Prefix": "/fn/shop", "Id": "0199aaaa",
	} {
		req.Header[name] = []string{value}
	}
	req.Header["Cookie"] = []string{"a=1", "b=2"}
	_, body, err := r.do(req)
	if err != nil {
		t.Fatal(err)
	}
	env := strings.Split(body, "\n")
	for _, want := range []string{
		"REQUEST_METHOD=POST", "QUERY_STRING=a=1&b=%20", "PATH_INFO=/env", "SCRIPT_NAME=/fn/shop", "REQUEST_URI=/env?a=1&b=%20",
		"CONTENT_TYPE=text/csv", "CONTENT_LENGTH=5", "GATEWAY_INTERFACE=CGI/1.1", "SERVER_PROTOCOL=HTTP/1.1",
		"SERVER_NAME=shop.example", "SERVER_PORT=8443", "SERVER_SOFTWARE=lambent", "HTTPS=on", "REMOTE_ADDR=192.0.2.7",
		"HTTP_X_FORWARDED_FOR=6.6.6.6, 192.0.2.7", "HTTP_COOKIE=a=1; b=2", "HTTP_HOST=shop.example:8443", "HTTP_COLOUR=green",
		"COLOUR=blue", "LAMBENT_INVOCATION=0199aaaa", "LAMBENT_TRIGGER=http", "LAMBENT_FUNCTION=fixture", "PWD=/var/task",
	} {
		if !slices.Contains(env, want) {
			t.Errorf("the environment lacks %s", want)
		}
	}
	for _, line := range env {
		for _, never := range []string{"HTTP_PROXY=", "HTTP_CONTENT", "LISTEN_", "HTTP_LAMBENT"} {
			if strings.HasPrefix(line, never) {
				t.Errorf("the environment has %s", line)
			}
		}
	}
	_, _, err = r.get(t, "/env%00")
	want(t, err, lambent.CodeInvalidRequest, "NUL")
}

func testExecAnswers(t *testing.T, k *kit) {
	r := k.startScript(t, nil)
	for _, c := range []struct {
		target string
		status int
		kind   string
		body   string
	}{
		{"/echo", 200, "text/plain; charset=utf-8", "in"},
		{"/silent", 200, "text/plain; charset=utf-8", ""},
		{"/png", 200, "image/png", "\x89PNG\r\n\x1a\n"},
		{"/html", 200, "text/plain; charset=utf-8", "<html><script>alert(1)</script>\n"},
		{"/field", 200, "text/plain; charset=utf-8", "Statu"},
		{"/cgi", 418, "text/html", "in"},
		{"/redirect", 302, "", ""},
		{"/nothing", 204, "", ""},
	} {
		resp, err := r.RoundTrip(request(t, "POST", c.target, "in"))
		if err != nil {
			t.Errorf("%s: %v", c.target, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		err = errors.Join(err, resp.Body.Close())
		h := resp.Header
		if resp.StatusCode != c.status || h.Get("Content-Type") != c.kind || string(body) != c.body || err != nil {
			t.Errorf("%s: %d %q %q, %v", c.target, resp.StatusCode, h.Get("Content-Type"), body, err)
		}
		if c.target == "/cgi" && (!slices.Equal(h["X-More"], []string{"a", "b"}) || h["Status"] != nil || h["Lambent-Error"] != nil) {
			t.Errorf("the header is %v", h)
		}
		if c.target == "/redirect" && h.Get("Location") != "https://example.com/x" {
			t.Errorf("the header is %v", h)
		}
	}
	if status, body, err := r.do(request(t, "HEAD", "/cgi", "")); status != 418 || body != "" || err != nil {
		t.Errorf("HEAD: %d %q, %v", status, body, err)
	}
}

// testExecStream talks with several programs at once, each line when the answer to the one before has come.
func testExecStream(t *testing.T, k *kit) {
	r := k.startScript(t, func(s *lambent.Settings) { s.Concurrency = 4 })
	var all sync.WaitGroup
	for i := range 4 {
		up, feed := io.Pipe()
		req := request(t, "POST", "/lines", "")
		req.Body, req.ContentLength = up, -1
		all.Go(func() {
			defer feed.Close()
			if _, err := fmt.Fprintln(feed, "first", i); err != nil {
				t.Error(err)
			}
			for j := range 10 {
				if _, err := fmt.Fprintln(feed, i, j); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() {
			resp, err := r.RoundTrip(req)
			if err != nil {
				t.Error(err)
				return
			}
			body, err := io.ReadAll(resp.Body)
			if err = errors.Join(err, resp.Body.Close()); err != nil || !strings.HasPrefix(string(body), fmt.Sprintf("got first %d\ngot %d 0\n", i, i)) || strings.Count(string(body), "\n") != 11 {
				t.Errorf("got %q, %v", body, err)
			}
		})
	}
	all.Wait()
	up, feed := io.Pipe()
	defer feed.Close()
	req := request(t, "POST", "/lines", "")
	req.Body, req.ContentLength = up, -1
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(feed, "one\n")
		sent <- err
	}()
	resp, err := r.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := make([]byte, len("got one\n"))
	if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != "got one\n" || <-sent != nil {
		t.Errorf("while the request goes on: %q, %v", got, err)
	}
}

func testExecFailures(t *testing.T, k *kit) {
	r := k.startScript(t, nil)
	for _, c := range []struct {
		target string
		code   lambent.Code
		texts  []string
	}{
		{"/fail?you", lambent.CodeHandlerError, []string{"do.sh: ended with exit code 7", "first\nno luck with you"}},
		{"/signal", lambent.CodeHandlerError, []string{"terminated"}},
		{"/status", lambent.CodeBadResponse, []string{`"99"`}},
		{"/broken", lambent.CodeBadResponse, []string{"no field"}},
		{"/endless", lambent.CodeBadResponse, []string{"empty line"}},
		{"/short", lambent.CodeBadResponse, nil},
		{"/late", lambent.CodeBadResponse, []string{"in the middle of its answer"}},
	} {
		before := len(r.logs.all())
		_, _, err := r.do(request(t, "POST", c.target, "x\n"))
		want(t, err, c.code, c.texts...)
		if c.target == "/late" {
			lines := r.logs.all()[before:]
			if len(lines) != 1 || !strings.Contains(lines[0].Text, "exit code 7") {
				t.Errorf("the log says %v", lines)
			}
		}
	}
	if k.Lacks[MemoryLimit] == "" {
		_, _, err := r.get(t, "/eat")
		want(t, err, lambent.CodeHandlerError, "killed", "raise memory")
	}
	_, err := k.tryStart(t, k.exec, scripts(t, "exec"), func(s *lambent.Settings) {
		s.Runtime, s.Handler, s.Command = "exec", "", []string{"./nothing.sh"}
	})
	want(t, err, lambent.CodeStartFailed, "nothing.sh")
	req := request(t, "GET", "/echo", "")
	req.Header.Set("Upgrade", "websocket") // a program of CGI cannot, and answers as if it was not asked
	if status, _, err := r.do(req); status != http.StatusOK || err != nil {
		t.Errorf("%d, %v", status, err)
	}
}

// sleepers gives what /ps lists of sleeping programs and of what was not reaped.
func sleepers(t *testing.T, r *running) string {
	t.Helper()
	var found []string
	for line := range strings.Lines(r.must(t, "/ps")) {
		if strings.Contains(line, "(sleep)") || strings.Contains(line, ") Z ") {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}

// testExecKills leaves programs alone that would run for minutes, in each of the ways that there are.
func testExecKills(t *testing.T, k *kit) {
	r := k.startScript(t, func(s *lambent.Settings) {
		s.Concurrency = 4
		s.Timeouts.FirstByte = lambent.Duration(time.Second)
	})
	gone := func(what string) {
		t.Helper()
		eventually(t, 10*time.Second, func() string {
			if left := sleepers(t, r); left != "" {
				return what + " leaves " + left
			}
			return ""
		})
	}
	if body := r.must(t, "/leave"); body != "left\n" {
		t.Errorf("got %q", body)
	}
	gone("a program that ends before its child")

	_, _, err := r.get(t, "/silence")
	want(t, err, lambent.CodeFirstByteTimeout)
	gone("a timeout")

	for _, upload := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		req := request(t, "POST", "/hang", "")
		if upload { // more than pipes hold, which the program does not read
			up, feed := io.Pipe()
			defer feed.Close()
			go io.WriteString(feed, strings.Repeat("x", 1<<20))
			req.Body, req.ContentLength = up, -1
		}
		resp, err := r.RoundTrip(req.WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, len("begun\n"))); err != nil {
			t.Fatal(err)
		}
		cancel()
		_, err = io.ReadAll(resp.Body)
		want(t, err, lambent.CodeClientClosed)
		if err := resp.Body.Close(); err != nil {
			t.Errorf("Close, with an upload %v: %v", upload, err)
		}
		gone("a client that leaves")
	}
}

func testExecLogs(t *testing.T, k *kit) {
	r := k.startScript(t, func(s *lambent.Settings) { s.Concurrency = 1 })
	for i := range 5 {
		before := len(r.logs.all())
		req := request(t, "GET", fmt.Sprintf("/log?%d", i), "")
		req.Header.Set("Id", lambent.NewID())
		if _, _, err := r.do(req); err != nil {
			t.Fatal(err)
		}
		lines := r.logs.all()[before:]
		if len(lines) != 2 || lines[0].Text != fmt.Sprintf("line of %d", i) || lines[1].Text != "rest" {
			t.Fatalf("the lines are %v", lines)
		}
		for _, line := range lines {
			if line.Invocation != req.Header.Get("Id") || line.Stream != "stderr" {
				t.Errorf("the line is attributed wrongly: %+v", line)
			}
		}
	}
}
