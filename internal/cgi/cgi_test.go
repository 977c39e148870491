package cgi

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestBeginsWithField(t *testing.T) {
	for text, want := range map[string][2]bool{
		"": {false, false}, "S": {false, false}, "status": {false, false}, "Status:": {true, true}, "CONTENT-TYPE: x": {true, true},
		"Location:/": {true, true}, "Stand": {false, true}, "hello": {false, true}, "Set-Cookie: a": {false, true}, "\n": {false, true},
	} {
		if header, sure := beginsWithField([]byte(text)); header != want[0] || sure != want[1] {
			t.Errorf("%q: header %v, sure %v", text, header, sure)
		}
	}
}

func TestCutHead(t *testing.T) {
	for text, want := range map[string][3]string{
		"A: b\n\nbody":       {"A: b\n", "body", "ok"},
		"A: b\r\n\r\n\nbody": {"A: b\r\n", "\nbody", "ok"},
		"A: b\r\n\nbody":     {"A: b\r\n", "body", "ok"},
		"A: b\nC: d\n":       {},
		"A: b\n\r":           {},
		"":                   {},
	} {
		head, body, ok := cutHead([]byte(text))
		if ok != (want[2] == "ok") || string(head) != want[0] || ok && text[body:] != want[1] {
			t.Errorf("%q: %q, %d, %v", text, head, body, ok)
		}
	}
}

func TestPasses(t *testing.T) {
	for name, want := range map[string]bool{
		"Accept": true, "Authorization": true, "X-Forwarded-For": true, "X_forwarded_for": false, "Proxy": false,
		"Lambent-Invocation": false, "Content-Length": false,
	} {
		if got := passes(http.CanonicalHeaderKey(name)); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestHead(t *testing.T) {
	plain := func(kind string) []Field { return []Field{{"Content-Type", kind}} }
	for _, c := range []struct {
		text, body string
		status     int
		header     []Field
		wrong      string
	}{
		{text: "", status: 200, header: plain("text/plain; charset=utf-8")},
		{text: "hello", body: "hello", status: 200, header: plain("text/plain; charset=utf-8")},
		{text: "<html><script>", body: "<html><script>", status: 200, header: plain("text/plain; charset=utf-8")},
		{text: "\x89PNG\x0d\x0a\x1a\x0a", body: "\x89PNG\x0d\x0a\x1a\x0a", status: 200, header: plain("image/png")},
		{text: "Stat", body: "Stat", status: 200, header: plain("text/plain; charset=utf-8")},
		{text: "Status: 404 Not here\n\nno", body: "no", status: 404},
		{text: "content-type: text/html\r\nX-A:  1 \r\n\r\n\r\n", body: "\r\n", status: 200, header: []Field{{"Content-Type", "text/html"}, {"X-A", "1"}}},
		{text: "Location: /x\n\n", status: 302, header: []Field{{"Location", "/x"}}},
		{text: "Location: /x\nStatus: 201\n\n", status: 201, header: []Field{{"Location", "/x"}}},
		{text: "Content-Type: a/b\nConnection: close\nLambent-Error: x\nContent-Type: c/d\nSet-Cookie: a\nset-cookie: b\n\n", status: 200,
			header: []Field{{"Content-Type", "c/d"}, {"Set-Cookie", "a"}, {"Set-Cookie", "b"}}},
		{text: "Status: 200\n", wrong: "does not end in an empty line"},
		{text: "Status: 99\n\n", wrong: "no status"},
		{text: "Status: ok\n\n", wrong: "no status"},
		{text: "Status: 200\nhello\n\n", wrong: "not of the form"},
		{text: "Status: 200\na b: c\n\n", wrong: "no name of a field"},
		{text: "Status: 200\nA: b\rc\n\n", wrong: "control character"},
		{text: "Status: 200\nA: " + strings.Repeat("x", maxHead), wrong: "no end within 64 KiB"},
	} {
		for _, step := range []int{len(c.text) + 1, 1} {
			if step == 1 && len(c.text) > 1000 {
				continue // a byte at a time would take long and show nothing else
			}
			var h Head
			body, done, err := []byte(nil), false, error(nil)
			rest := []byte(c.text)
			for len(rest) > 0 && !done && err == nil {
				n := min(step, len(rest))
				body, done, err = h.Write(rest[:n])
				rest = rest[n:]
			}
			if !done && err == nil {
				body, err = h.End()
			}
			got := string(body) + string(rest)
			switch {
			case c.wrong != "":
				if err == nil || !strings.Contains(err.Error(), c.wrong) {
					t.Errorf("%.40q: %v, want %q", c.text, err, c.wrong)
				}
			case err != nil || got != c.body || h.Status != c.status || step > 1 && !slices.Equal(h.Header, c.header):
				t.Errorf("%q by %d: %d %q %q, %v", c.text, step, h.Status, h.Header, got, err)
			}
		}
	}
}

func TestEnvironment(t *testing.T) {
	r := Request{Method: "POST", Target: "/a%20b?x=%201&y", Host: "shop.example:8443", Proto: "HTTP/1.1", Length: 7, Header: []Field{
		{"Accept", "a"}, {"accept", "b"}, {"Cookie", "c=1"}, {"Cookie", "d=2"}, {"Proxy", "http://evil.example"}, {"X_forwarded_for", "1.1.1.1"},
		{"Content-Type", "text/x"}, {"X-Forwarded-For", "10.0.0.1, 192.0.2.7"}, {"X-Forwarded-Proto", "https"}, {"X-Forwarded-Prefix", "/fn/shop"},
		{"Lambent-Invocation", "0199"}, {"Lambent-Route", "GET%20%2F%7Bid%7D"},
	}}
	block, count, err := r.Environment([]string{"HTTP_ACCEPT=own", "HTTP_PROXY=own", "PATH_INFO=own", "COLOUR=blue"})
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSuffix(string(block), "\x00"), "\x00")
	want := []string{
		"COLOUR=blue", "CONTENT_LENGTH=7", "CONTENT_TYPE=text/x", "GATEWAY_INTERFACE=CGI/1.1", "HTTPS=on", "HTTP_ACCEPT=a, b", "HTTP_COOKIE=c=1; d=2",
		"HTTP_HOST=shop.example:8443", "HTTP_PROXY=own", "HTTP_X_FORWARDED_FOR=10.0.0.1, 192.0.2.7", "HTTP_X_FORWARDED_PREFIX=/fn/shop",
		"HTTP_X_FORWARDED_PROTO=https", "LAMBENT_INVOCATION=0199", "LAMBENT_ROUTE=GET /{id}", "PATH_INFO=/a b", "QUERY_STRING=x=%201&y",
		"REMOTE_ADDR=192.0.2.7", "REMOTE_HOST=192.0.2.7", "REQUEST_METHOD=POST", "REQUEST_URI=/a%20b?x=%201&y", "SCRIPT_NAME=/fn/shop",
		"SERVER_NAME=shop.example", "SERVER_PORT=8443", "SERVER_PROTOCOL=HTTP/1.1", "SERVER_SOFTWARE=lambent", "X_FULL_URL=https://shop.example:8443/a%20b?x=%201&y",
	}
	if count != len(got) || !slices.Equal(got, want) {
		t.Errorf("%d variables:\n%q\nwant\n%q", count, got, want)
	}
	r.Target = "/%00"
	if _, _, err := r.Environment(nil); err == nil || !strings.Contains(err.Error(), "PATH_INFO") {
		t.Errorf("a NUL byte: %v", err)
	}
}
