package system

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"lambent"
)

// load is requests of many kinds, until stop; each failure is an error of the test.
type load struct {
	*up
	ctx   context.Context
	calls atomic.Int64
	wg    sync.WaitGroup

	mu  sync.Mutex
	ids []string // of invocations that took their time
}

func (l *load) each(what string, do func(client *http.Client, n int) error) {
	l.wg.Go(func() {
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport}
		for n := 0; l.ctx.Err() == nil; n++ {
			if err := do(client, n); err != nil {
				l.t.Errorf("%s %d: %v", what, n, err)
				return
			}
			l.calls.Add(1)
		}
	})
}

// ask sends a request whose answer must be 200 and want.
func (l *load) ask(c *http.Client, method, path string, body io.Reader, want func(string) bool) error {
	req, err := http.NewRequest(method, l.at.Functions+path, body)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != 200 || !want(string(raw))) {
		err = fmt.Errorf("%d %.300s", resp.StatusCode, raw)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if id := resp.Header.Get("Lambent-Invocation"); err == nil && !strings.HasPrefix(path, "/fn/u/echo") && strings.HasPrefix(path, "/fn/u/") {
		l.ids = append(l.ids, id)
	}
	return err
}

func is(want string) func(string) bool { return func(got string) bool { return got == want } }

// begin begins the load: functions u, of many requests at a time, p, of one, and w, a module.
func begin(u *up) (stop func() *load) {
	ctx, cancel := context.WithCancel(u.t.Context())
	l := &load{up: u, ctx: ctx}
	for i := range 4 {
		l.each("echo", func(c *http.Client, n int) error {
			if i == 0 {
				c.CloseIdleConnections()
			}
			text := fmt.Sprintf("%d of %d", n, i)
			return l.ask(c, "POST", "/fn/u/echo", io.NopCloser(strings.NewReader(text)), is(text))
		})
	}
	l.each("python", func(c *http.Client, n int) error {
		return l.ask(c, "POST", "/fn/p", strings.NewReader("x"), func(s string) bool { return s == "x" })
	})
	l.each("wasm", func(c *http.Client, n int) error { return l.ask(c, "GET", "/fn/w", nil, is("from a module")) })
	for range 2 {
		l.each("stream", func(c *http.Client, n int) error {
			return l.ask(c, "GET", "/fn/u/stream?ms=700", nil, func(s string) bool { return strings.HasSuffix(s, "line\nend\n") })
		})
		l.each("slow", func(c *http.Client, n int) error {
			return l.ask(c, "GET", "/fn/u/slow?ms=300", nil, is("slow"))
		})
	}
	l.each("upload", func(c *http.Client, n int) error {
		r, w := io.Pipe()
		go func() {
			for range 10 {
				_, _ = w.Write(bytes.Repeat([]byte("x"), 1000))
				time.Sleep(50 * time.Millisecond)
			}
			w.Close()
		}()
		return l.ask(c, "POST", "/fn/u/echo", r, is(strings.Repeat("x", 10_000)))
	})
	l.each("websocket", func(c *http.Client, n int) error {
		conn, _, err := websocket.Dial(u.t.Context(), "ws"+strings.TrimPrefix(u.at.Functions, "http")+"/fn/u/ws", &websocket.DialOptions{HTTPClient: c})
		if err != nil {
			return err
		}
		defer conn.CloseNow()
		for i := range 20 {
			text := fmt.Sprint(n, i)
			if err := conn.Write(u.t.Context(), websocket.MessageText, []byte(text)); err != nil {
				return err
			}
			if _, got, err := conn.Read(u.t.Context()); err != nil || string(got) != text {
				return fmt.Errorf("%q, %w", got, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
		return conn.Close(websocket.StatusNormalClosure, "")
	})
	l.each("control", func(_ *http.Client, n int) error {
		_, err := u.client.Function(u.t.Context(), "default", "u")
		if err != nil {
			return err
		}
		a, err := u.client.Invoke(u.t.Context(), "default", "p", "application/json", strings.NewReader(`{"body": "y"}`))
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, a.Body)
		return errors.Join(err, a.Body.Close())
	})
	l.each("deploy", func(_ *http.Client, n int) error {
		text := fmt.Sprint(n)
		if _, err := u.tryDeploy("d", files{"main.py": "def handler(event, context): return {'statusCode': 200, 'body': '" + text + "'}"}, lambent.Settings{Runtime: "python"}); err != nil {
			return err
		}
		return l.ask(http.DefaultClient, "GET", "/fn/d", nil, is(text))
	})
	return func() *load {
		cancel()
		l.wg.Wait()
		return l
	}
}

func (u *up) deployLoad() {
	u.t.Helper()
	u.wasm("w", "from a module")
	u.deploy("u", files{"main": build(u.t, "testdata/upgrade")}, lambent.Settings{Runtime: "go", KeepAlive: lambent.Duration(time.Hour)})
	u.python("p", "def handler(event, context): return {'statusCode': 200, 'body': event['body']}",
		func(s *lambent.Settings) { s.KeepAlive = lambent.Duration(time.Hour) })
}
