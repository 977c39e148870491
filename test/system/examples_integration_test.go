//go:build integration

package system

import (
	"bytes"
	"context"
	"fmt"
	"image/jpeg"
	"image/png"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// The examples are deployed as a newcomer does it, dependencies from the registries and all, and called with real
// input by real clients.
func TestIntegrationExamples(t *testing.T) {
	if out, err := exec.CommandContext(t.Context(), "make", "-s", "-C", "../..", "build").CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	n := start(t, t.TempDir())
	key, err := os.ReadFile(n.at.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func(*testing.T, *node){
		"hello": helloExample, "wordcount": wordcountExample, "thumbnail": thumbnailExample, "markdown": markdownExample,
		"chat": chatExample, "legacy": legacyExample, "site": siteExample,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			deploy := exec.CommandContext(ctx, "../../bin/lambent", "deploy", filepath.Join("../../examples", name))
			deploy.Env = append(os.Environ(), "LAMBENT_URL="+n.at.Control, "LAMBENT_KEY="+strings.TrimSpace(string(key)))
			if out, err := deploy.CombinedOutput(); err != nil {
				t.Fatalf("deploy: %v\n%s", err, out)
			}
			call(t, n)
		})
	}
}

// file reads a file of the repository.
func file(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("../..", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func helloExample(t *testing.T, n *node) {
	n.call("GET", "/fn/hello/?name=Ada", nil).want(t, 200, "Hello, Ada!")
}

func wordcountExample(t *testing.T, n *node) {
	n.call("POST", "/fn/wordcount/", bytes.NewReader(file(t, "README.md"))).want(t, 200, `"words":`)
}

func thumbnailExample(t *testing.T, n *node) {
	photo := file(t, "examples/thumbnail/testdata/photo.jpg")
	whole, err := jpeg.DecodeConfig(bytes.NewReader(photo))
	if err != nil {
		t.Fatal(err)
	}
	a := n.call("POST", "/fn/thumbnail/?width=64", bytes.NewReader(photo))
	small, err := png.Decode(strings.NewReader(a.body))
	if err != nil || a.status != 200 || a.header.Get("Content-Type") != "image/png" {
		t.Fatalf("%d %.100q, %v", a.status, a.body, err)
	}
	if b := small.Bounds(); b.Dx() != 64 || b.Dy() < 1 || b.Dy() != (64*whole.Height+whole.Width/2)/whole.Width {
		t.Errorf("a thumbnail of %v of a photo of %d x %d", b, whole.Width, whole.Height)
	}
	if a := n.call("POST", "/fn/thumbnail/?width=64", strings.NewReader("no photo")); a.status != 415 && a.status != 400 {
		t.Errorf("what is no image: %d %s", a.status, a.body)
	}
}

func markdownExample(t *testing.T, n *node) {
	a := n.call("POST", "/fn/markdown/", bytes.NewReader(file(t, "README.md")))
	a.want(t, 200, "<h1")
	for _, part := range []string{"Lambent</h1>", "<table>", `<a href="docs/RATIONALE.md">`} {
		if !strings.Contains(a.body, part) {
			t.Errorf("the page has no %s", part)
		}
	}
	if kind := a.header.Get("Content-Type"); !strings.HasPrefix(kind, "text/html") {
		t.Errorf("it is %s", kind)
	}
}

func chatExample(t *testing.T, n *node) {
	n.call("GET", "/fn/chat/", nil).want(t, 200, "<title>Chat</title>")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	join := func(name string) *websocket.Conn {
		t.Helper()
		c, _, err := websocket.Dial(ctx, n.at.Functions+"/fn/chat/?name="+name, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	hear := func(c *websocket.Conn, want string) {
		t.Helper()
		if _, got, err := c.Read(ctx); string(got) != want || err != nil {
			t.Errorf("heard %s, %v; want %s", got, err, want)
		}
	}
	ann := join("Ann")
	defer ann.CloseNow()
	hear(ann, `{"joined":"Ann","here":1}`)
	bob := join("Bob")
	hear(ann, `{"joined":"Bob","here":2}`)
	hear(bob, `{"joined":"Bob","here":2}`)
	for i := range 100 {
		text := fmt.Sprintf("message %d, \u00e9\u4e2d", i)
		if err := ann.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
		hear(bob, `{"from":"Ann","text":"`+text+`"}`)
		hear(ann, `{"from":"Ann","text":"`+text+`"}`)
	}
	if err := bob.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	hear(ann, `{"left":"Bob","here":1}`)
}

func legacyExample(t *testing.T, n *node) {
	orders := file(t, "examples/legacy/orders.csv")
	n.call("POST", "/fn/legacy/?column=amount&by=city", bytes.NewReader(orders)).want(t, 200, "Bern,3,120.50,40.17,120.50")
	if a := n.call("POST", "/fn/legacy/?column=nothing", bytes.NewReader(orders)); a.status != 400 {
		t.Errorf("a column that is not there: %d %s", a.status, a.body)
	}
}

func siteExample(t *testing.T, n *node) {
	index := n.call("GET", "/fn/site/", nil)
	index.want(t, 200, "<!doctype html>")
	n.call("GET", "/fn/site/notes/5", nil).want(t, 200, index.body)
	if a := n.call("GET", "/fn/site/missing.js", nil); a.status != 404 {
		t.Errorf("an asset that is not there: %d", a.status)
	}
	for _, c := range []struct {
		field, value string
		status       int
		body         string
	}{
		{"If-None-Match", index.header.Get("ETag"), http.StatusNotModified, ""},
		{"Range", "bytes=0-14", http.StatusPartialContent, index.body[:15]},
		{"Range", "bytes=9999999-", http.StatusRequestedRangeNotSatisfiable, ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.at.Functions+"/fn/site/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(c.field, c.value)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.status || err != nil || c.body != "" && string(body) != c.body {
			t.Errorf("%s: %s: %d %q, %v", c.field, c.value, resp.StatusCode, body, err)
		}
	}
}
