package builtin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lambent"
	"lambent/executor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// files is a bundle by path; a content that begins with "->" is a link.
type files map[string]string

var page = files{
	"index.html": "<h1>home</h1>", "app.js": "let a = 1", "style.css": "p {}", "data": "\x89PNG\r\n\x1a\n", "empty.txt": "",
	"docs/index.html": "docs", "docs/a b.txt": "a b", "noindex/x.txt": "x", ".env": "secret", "docs/.git/config": "secret",
	".well-known/acme": "token", "lambent.yaml": "env: {A: secret}", "docs/lambent.yaml": "docs",
	"big.txt": "0123456789", "big.txt.br": "B", "big.txt.gz": "GZ", "outside": "->/etc/passwd", "up": "->../../etc/passwd", "inside": "->docs/index.html",
	"link": "->docs",
}

func with(more files) files {
	all := maps.Clone(page)
	maps.Copy(all, more)
	return all
}

func (f files) write(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, content := range f {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if target, link := strings.CutPrefix(content, "->"); link && err == nil {
			err = os.Symlink(target, path)
		} else if err == nil {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func spec(t testing.TB, dir, folder string) executor.Spec {
	t.Helper()
	s, err := lambent.Settings{Runtime: "static", Handler: folder}.Complete()
	if err != nil {
		t.Fatal(err)
	}
	return executor.Spec{ID: lambent.NewID(), CodeDir: dir, Revision: lambent.NewRevision("default", "site", s, "sha256:0", "", time.Now())}
}

func open(t testing.TB, f files, folder string) executor.Instance {
	t.Helper()
	e := New()
	i, err := e.Start(t.Context(), spec(t, f.write(t), folder))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return i
}

// do makes a whole call; fields are names and values of its header.
func do(t testing.TB, i executor.Instance, method, target string, fields ...string) (*lambent.Response, string) {
	t.Helper()
	inv := &lambent.Invocation{Method: method, Target: target, Header: http.Header{}, Revision: &lambent.Revision{}}
	for n := 0; n < len(fields); n += 2 {
		inv.Header.Add(fields[n], fields[n+1])
	}
	resp, err := i.Handle(t.Context(), inv, time.Now().Add(time.Minute))
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	if inv.Outcome.BytesOut != int64(len(body)) || method != "HEAD" && resp.ContentLength >= 0 && resp.ContentLength != int64(len(body)) {
		t.Errorf("%s %s: %d bytes, counted %d, announced %d", method, target, len(body), inv.Outcome.BytesOut, resp.ContentLength)
	}
	if resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%s %s: %v", method, target, resp.Header)
	}
	return resp, string(body)
}

func TestPaths(t *testing.T) {
	app := open(t, page, ".")
	pages := open(t, with(files{"404.html": "not here"}), ".")
	bare := open(t, files{"a.txt": "a"}, ".")
	inner := open(t, files{"public/index.html": "inner", "public/lambent.yaml": "mine", "secret.txt": "secret", "public/out": "->../secret.txt"}, "public")
	const html, text = "text/html; charset=utf-8", "text/plain; charset=utf-8"
	for _, c := range []struct {
		site   executor.Instance
		target string
		status int
		body   string
		media  string
	}{
		{app, "/", 200, "<h1>home</h1>", html},
		{app, "/?q=1", 200, "<h1>home</h1>", html},
		{app, "/index.html", 200, "<h1>home</h1>", html},
		{app, "/app.js?v=2", 200, "let a = 1", "text/javascript; charset=utf-8"},
		{app, "/%61pp.js", 200, "let a = 1", "text/javascript; charset=utf-8"},
		{app, "/style.css", 200, "p {}", "text/css; charset=utf-8"},
		{app, "/data", 200, "\x89PNG\r\n\x1a\n", "image/png"},
		{app, "/empty.txt", 200, "", text},
		{app, "/docs/", 200, "docs", html},
		{app, "/docs/a%20b.txt", 200, "a b", text},
		{app, "/inside", 200, "docs", text},
		{app, "/link/", 200, "docs", html},
		{app, "/.well-known/acme", 200, "token", text},
		{app, "/docs/lambent.yaml", 200, "docs", text},
		{app, "/docs", 308, "", ""},
		// pages of an application, and what is none
		{app, "/users/5", 200, "<h1>home</h1>", html},
		{app, "/noindex/", 200, "<h1>home</h1>", html},
		{app, "/noindex", 200, "<h1>home</h1>", html},
		{app, "/missing.js", 404, "404 not found\n", text},
		{app, "/app.js/", 404, "404 not found\n", text},
		{app, "/v1.2/users", 200, "<h1>home</h1>", html},
		// what must not get out
		{app, "/.env", 404, "404 not found\n", text},
		{app, "/%2eenv", 404, "404 not found\n", text},
		{app, "/docs/.git/config", 404, "404 not found\n", text},
		{app, "/docs/.well-known/x", 404, "404 not found\n", text},
		{app, "/lambent.yaml", 404, "404 not found\n", text},
		{app, "/docs/../lambent.yaml", 404, "404 not found\n", text},
		{app, "/%6cambent.yaml", 404, "404 not found\n", text},
		{app, "//lambent.yaml", 404, "404 not found\n", text},
		{app, "/lambent.yaml/", 404, "404 not found\n", text},
		{app, "/../../../etc/passwd", 404, "404 not found\n", text},
		{app, "/..%2f..%2fetc%2fpasswd", 404, "404 not found\n", text},
		{app, "/docs%2findex.html", 404, "404 not found\n", text},
		{app, `/..\..\etc\passwd`, 404, "404 not found\n", text},
		{app, "/docs%5cindex.html", 404, "404 not found\n", text},
		{app, "/app.js%00.html", 404, "404 not found\n", text},
		{app, "/app%zz", 404, "404 not found\n", text},
		{app, "/outside", 200, "<h1>home</h1>", html}, // not there, so it looks like a page
		{app, "/up", 200, "<h1>home</h1>", html},
		{app, "/" + strings.Repeat("x", 5000), 200, "<h1>home</h1>", html},
		{pages, "/users/5", 404, "not here", html},
		{pages, "/missing.js", 404, "not here", html},
		{pages, "/.env", 404, "not here", html},
		{pages, "/docs/", 200, "docs", html},
		{bare, "/", 404, "404 not found\n", text},
		{bare, "/a.txt", 200, "a", text},
		{bare, "/x", 404, "404 not found\n", text},
		{inner, "/", 200, "inner", html},
		{inner, "/lambent.yaml", 200, "mine", text},
		{inner, "/../secret.txt", 404, "404 not found\n", text},
		{inner, "/out", 200, "inner", html},
	} {
		resp, body := do(t, c.site, "GET", c.target)
		if resp.Status != c.status || body != c.body || resp.Header.Get("Content-Type") != c.media {
			t.Errorf("%s: %d %q %s, want %d %q %s", c.target, resp.Status, body, resp.Header.Get("Content-Type"), c.status, c.body, c.media)
		}
		if resp.Header.Get("Cache-Control") != "no-cache" || (resp.Header.Get("Etag") != "") != (resp.Status == 200) {
			t.Errorf("%s: %v", c.target, resp.Header)
		}
		head, body := do(t, c.site, "HEAD", c.target)
		if head.Status != resp.Status || c.status == 200 && (body != "" || head.ContentLength != resp.ContentLength || head.Header.Get("Etag") != resp.Header.Get("Etag")) {
			t.Errorf("HEAD %s: %+v %q, GET %+v", c.target, head, body, resp)
		}
	}
	for target, want := range map[string]string{"/docs": "./docs/", "/docs?a=b": "./docs/?a=b", "/link": "./link/"} {
		if resp, _ := do(t, app, "GET", target); resp.Header.Get("Location") != want {
			t.Errorf("%s leads to %q", target, resp.Header.Get("Location"))
		}
	}
	for method, status := range map[string]int{"POST": 405, "PUT": 405, "TRACE": 405, "OPTIONS": 204} {
		if resp, _ := do(t, app, method, "/"); resp.Status != status || resp.Header.Get("Allow") != "GET, HEAD, OPTIONS" {
			t.Errorf("%s: %+v", method, resp)
		}
	}
}

func TestConditions(t *testing.T) {
	i := open(t, page, ".")
	first, _ := do(t, i, "GET", "/app.js")
	tag := first.Header.Get("Etag")
	again, _ := do(t, open(t, page, "."), "GET", "/app.js")
	other, _ := do(t, i, "GET", "/style.css")
	if len(tag) != 24 || again.Header.Get("Etag") != tag || other.Header.Get("Etag") == tag {
		t.Errorf("tags %s, %s, %s", tag, again.Header.Get("Etag"), other.Header.Get("Etag"))
	}
	for _, c := range []struct {
		name, value string
		status      int
	}{
		{"If-None-Match", tag, 304},
		{"If-None-Match", "W/" + tag, 304},
		{"If-None-Match", `"x", ` + tag, 304},
		{"If-None-Match", "*", 304},
		{"If-None-Match", `"x"`, 200},
		{"If-Match", tag, 200},
		{"If-Match", "W/" + tag, 412},
		{"If-Match", `"x"`, 412},
		{"If-Match", "*", 200},
		{"If-Modified-Since", "Sun, 22 Nov 2026 00:00:00 GMT", 200}, // bundles have no times
	} {
		resp, body := do(t, i, "GET", "/app.js", c.name, c.value)
		if resp.Status != c.status || resp.Header.Get("Etag") != tag || (body != "") != (c.status == 200) {
			t.Errorf("%s: %s gives %d %q %v", c.name, c.value, resp.Status, body, resp.Header)
		}
	}
}

func TestRanges(t *testing.T) {
	i := open(t, files{"big.txt": "0123456789", "empty.txt": ""}, ".")
	resp, _ := do(t, i, "GET", "/big.txt")
	tag := resp.Header.Get("Etag")
	for _, c := range []struct {
		header, ifRange string
		status          int
		body, place     string
	}{
		{"bytes=0-3", "", 206, "0123", "bytes 0-3/10"},
		{"bytes=4-", "", 206, "456789", "bytes 4-9/10"},
		{"bytes=-3", "", 206, "789", "bytes 7-9/10"},
		{"bytes=-99", "", 206, "0123456789", "bytes 0-9/10"},
		{"bytes=8-99", "", 206, "89", "bytes 8-9/10"},
		{"bytes=9-9", tag, 206, "9", "bytes 9-9/10"},
		{"bytes=9-9", `"old"`, 200, "0123456789", ""},
		{"bytes=9-9", "W/" + tag, 200, "0123456789", ""},
		{"bytes=10-", "", 416, "", "bytes */10"},
		{"bytes=-0", "", 416, "", "bytes */10"},
		{"bytes=99999999999999999999-", "", 416, "", "bytes */10"},
		{"bytes=12-,3-3", "", 206, "3", "bytes 3-3/10"},
		{"bytes=3-1", "", 200, "0123456789", ""},
		{"bytes=", "", 200, "0123456789", ""},
		{"bytes=-", "", 200, "0123456789", ""},
		{"bytes=a-b", "", 200, "0123456789", ""},
		{"bytes=+1-2", "", 200, "0123456789", ""},
		{"lines=1-2", "", 200, "0123456789", ""},
		{"bytes=0-,0-,0-", "", 200, "0123456789", ""},
		{"bytes=" + strings.Repeat("0-0,", 17), "", 200, "0123456789", ""},
	} {
		fields := []string{"Range", c.header}
		if c.ifRange != "" {
			fields = append(fields, "If-Range", c.ifRange)
		}
		resp, body := do(t, i, "GET", "/big.txt", fields...)
		if resp.Status != c.status || body != c.body || resp.Header.Get("Content-Range") != c.place {
			t.Errorf("%s %s: %d %q %v", c.header, c.ifRange, resp.Status, body, resp.Header)
		}
	}
	if resp, _ := do(t, i, "GET", "/empty.txt", "Range", "bytes=0-"); resp.Status != 416 {
		t.Errorf("a range of nothing: %+v", resp)
	}
	if resp, _ := do(t, i, "HEAD", "/big.txt", "Range", "bytes=0-1"); resp.Status != 200 || resp.ContentLength != 10 {
		t.Errorf("HEAD: %+v", resp)
	}
	resp, body := do(t, i, "GET", "/big.txt", "Range", "bytes=0-1, 5-5 ,-2")
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/byteranges" || resp.Status != 206 {
		t.Fatalf("%v, %+v", err, resp)
	}
	parts := multipart.NewReader(strings.NewReader(body), params["boundary"])
	for _, want := range []string{"bytes 0-1/10 01", "bytes 5-5/10 5", "bytes 8-9/10 89"} {
		p, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(p)
		if got := p.Header.Get("Content-Range") + " " + string(raw); err != nil || got != want || p.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("part %q, %v, want %q", got, p.Header, want)
		}
	}
	if _, err := parts.NextPart(); err != io.EOF {
		t.Error(err)
	}
}

func FuzzRanges(f *testing.F) {
	f.Add("bytes=0-1,-2,5-", int64(10))
	f.Fuzz(func(t *testing.T, header string, size int64) {
		ranges, ok := parseRanges(header, max(0, size))
		if !ok && ranges != nil {
			t.Fatal(ranges)
		}
		for _, r := range ranges {
			if r.start < 0 || r.length <= 0 || r.start+r.length > size {
				t.Fatalf("%q of %d: %v", header, size, ranges)
			}
		}
	})
}

func TestEncodings(t *testing.T) {
	i := open(t, page, ".")
	tags := map[string]string{}
	for accept, want := range map[string]string{
		"": "", "identity": "", "gzip": "gzip", "br": "br", "gzip, deflate, br": "br", "br;q=0.5, gzip": "gzip", "br;q=0, gzip;q=0": "",
		"*": "br", "*;q=0.1, gzip": "gzip", "BR": "br", "br;q=x": "",
	} {
		resp, body := do(t, i, "GET", "/big.txt", "Accept-Encoding", accept)
		if got := resp.Header.Get("Content-Encoding"); got != want || resp.Header.Get("Vary") != "Accept-Encoding" ||
			resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" || body != map[string]string{"": "0123456789", "br": "B", "gzip": "GZ"}[want] {
			t.Errorf("%q: %q %v", accept, body, resp.Header)
		}
		tags[resp.Header.Get("Etag")] = want
	}
	if len(tags) != 3 {
		t.Errorf("tags %v", tags)
	}
	if resp, body := do(t, i, "GET", "/big.txt.gz", "Accept-Encoding", "gzip"); body != "GZ" || resp.Header.Get("Content-Encoding") != "" || resp.Header.Get("Content-Type") != "application/gzip" {
		t.Errorf("the compressed file itself: %q %v", body, resp.Header)
	}
	if resp, _ := do(t, i, "GET", "/app.js", "Accept-Encoding", "br"); resp.Header.Get("Vary") != "" {
		t.Errorf("nothing to choose from: %v", resp.Header)
	}
}

func TestLife(t *testing.T) {
	e := New()
	dir := files{"index.html": "x", "big": strings.Repeat("x", 1<<20)}.write(t)
	for folder, part := range map[string]string{"none": "no folder none", "index.html": "no folder index.html"} {
		if _, err := e.Start(t.Context(), spec(t, dir, folder)); !lambent.HasCode(err, lambent.CodeStartFailed) || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v", folder, err)
		}
	}
	if _, err := e.Root("go"); !lambent.HasCode(err, lambent.CodeTierUnavailable) {
		t.Error(err)
	}
	if root, err := e.Root("static"); root == "" || err != nil {
		t.Error(root, err)
	}
	call := func(i executor.Instance, ctx context.Context, deadline time.Time) (*lambent.Response, error) {
		return i.Handle(ctx, &lambent.Invocation{Method: "GET", Target: "/big", Revision: &lambent.Revision{}}, deadline)
	}
	later := time.Now().Add(time.Minute)
	begin := func() (executor.Instance, *lambent.Response) {
		i, err := e.Start(t.Context(), spec(t, dir, "."))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := call(i, t.Context(), later)
		if err != nil {
			t.Fatal(err)
		}
		return i, resp
	}
	// a grace lets it end
	i, resp := begin()
	var stopped sync.WaitGroup
	stopped.Go(func() { i.Stop(time.Minute) })
	var all bytes.Buffer
	if _, err := all.ReadFrom(resp.Body); err != nil || all.Len() != 1<<20 {
		t.Errorf("%d bytes, %v", all.Len(), err)
	}
	resp.Body.Close()
	stopped.Wait()
	<-i.Done()
	if _, err := call(i, t.Context(), later); !errors.Is(err, executor.ErrNotSent) {
		t.Errorf("after its end: %v", err)
	}
	// without one it is cut
	i, resp = begin()
	i.Stop(0)
	i.Stop(0)
	if _, err := io.ReadAll(resp.Body); !lambent.HasCode(err, lambent.CodeInstanceStopped) {
		t.Error(err)
	}
	resp.Body.Close()
	// limits
	i, resp = begin()
	resp.Body.Close()
	if resp, err := call(i, t.Context(), time.Now()); err != nil {
		t.Error(err)
	} else if _, err := io.ReadAll(resp.Body); !lambent.HasCode(err, lambent.CodeTotalTimeout) {
		t.Error(err)
	} else {
		resp.Body.Close()
	}
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	if resp, err := call(i, ctx, later); err != nil {
		t.Error(err)
	} else {
		leave()
		if _, err := io.ReadAll(resp.Body); !lambent.HasCode(err, lambent.CodeClientClosed) {
			t.Error(err)
		}
		resp.Body.Close()
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	<-i.Done()
	if _, err := e.Start(t.Context(), spec(t, dir, ".")); !lambent.HasCode(err, lambent.CodeShuttingDown) {
		t.Error(err)
	}
}

// What is remembered of files is bounded, whatever is asked for.
func TestMemory(t *testing.T) {
	s := &site{young: map[string]*file{}}
	for i := range 3 * maxFiles {
		s.keep(&file{name: fmt.Sprint(i)})
	}
	if n := len(s.young) + len(s.old); n > maxFiles || s.old[fmt.Sprint(3*maxFiles-1)] == nil && s.young[fmt.Sprint(3*maxFiles-1)] == nil {
		t.Errorf("%d are remembered", n)
	}
}

func BenchmarkFile(b *testing.B) {
	i := open(b, page, ".")
	b.ReportAllocs()
	for b.Loop() {
		do(b, i, "GET", "/app.js")
	}
}
