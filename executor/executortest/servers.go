package executortest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lambent"
	"lambent/executor"
)

// served makes the fixture a server of runtime http, which listens as env says.
func (k *kit) served(protocol string, env map[string]string) *kit {
	other := *k
	other.base = func(s *lambent.Settings) {
		s.Runtime, s.Handler, s.Command, s.Protocol = "http", "", []string{"./fixture"}, protocol
		s.Env = maps.Clone(s.Env)
		if s.Env == nil {
			s.Env = map[string]string{}
		}
		maps.Copy(s.Env, env)
	}
	return &other
}

var servings = []struct {
	name, protocol string
	env            map[string]string
}{
	{"socket", "", nil},
	{"port", "", map[string]string{"SERVE": "127.0.0.1"}},
	{"port of IPv6", "", map[string]string{"SERVE": "::1", "PORT": "40000"}},
	{"socket, h2c", lambent.ProtocolH2C, map[string]string{"H2C": "1"}},
	{"port, h2c", lambent.ProtocolH2C, map[string]string{"SERVE": "127.0.0.1", "H2C": "1"}},
}

// testHTTPServer asks of each way to serve what is asked of servers in general.
func testHTTPServer(t *testing.T, k *kit) {
	for _, s := range servings {
		t.Run(s.name, func(t *testing.T) {
			k := k.served(s.protocol, s.env)
			for _, test := range []struct {
				name string
				run  func(*testing.T, *kit)
			}{
				{"Echo", testEcho}, {"Stream", testStream}, {"Concurrency", testConcurrency}, {"Timeouts", testTimeouts},
				{"ClientLeaves", testClientLeaves}, {"Exit", testExit}, {"StopWithGrace", testStopWithGrace}, {"Logs", testLogs},
			} {
				t.Run(test.name, func(t *testing.T) { test.run(t, k) })
			}
			if s.protocol == "" {
				t.Run("WebSocket", func(t *testing.T) { testWebSocket(t, k) })
				return
			}
			req := request(t, "GET", "/ws", "")
			req.Header.Set("Upgrade", "websocket")
			_, _, err := k.start(t, nil).do(req)
			want(t, err, lambent.CodeInvalidRequest, "websocket", "http1")
		})
	}
}

// testHTTPTrailer makes a call as gRPC does: a stream of messages, and the outcome in the trailer.
func testHTTPTrailer(t *testing.T, k *kit) {
	for _, s := range servings {
		t.Run(s.name, func(t *testing.T) {
			r := k.served(s.protocol, s.env).start(t, nil)
			up, feed := io.Pipe()
			req := request(t, "POST", "/trailer", "")
			req.Body, req.ContentLength = up, -1
			req.Trailer = http.Header{"Checksum": nil, "Lambent-Forged": nil}
			req.Header.Set("Content-Type", "application/grpc")
			resp, err := r.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if te := resp.Header.Get("Te-Seen"); s.protocol != "" && te != "trailers" {
				t.Errorf("the function saw TE: %q", te)
			}
			message := "\x00\x00\x00\x00\x05hello"
			for range 3 {
				if _, err := io.WriteString(feed, message); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(message))
				if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != strings.ToUpper(message) {
					t.Fatalf("got %q, %v", got, err)
				}
			}
			req.Trailer["Checksum"] = []string{"abc"}
			feed.Close()
			if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
				t.Errorf("behind the messages: %q, %v", rest, err)
			}
			if got := resp.Trailer; got.Get("Grpc-Status") != "0" || got.Get("Grpc-Message") != "abc" || got["Lambent-Error"] != nil {
				t.Errorf("the trailer is %v", got)
			}
			if err := resp.Body.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
}

// scripts unpacks a folder of testdata as a bundle, whose shell scripts are executable.
func scripts(t *testing.T, folder string) string {
	t.Helper()
	files, err := fs.Sub(handlerCode, "testdata/"+folder)
	if err != nil {
		t.Fatal(err)
	}
	code := filepath.Join(t.TempDir(), "code")
	if err := os.CopyFS(code, files); err != nil {
		t.Fatal(err)
	}
	executable, err := filepath.Glob(filepath.Join(code, "*.sh"))
	for _, path := range append(executable, code) {
		err = errors.Join(err, os.Chmod(path, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func command(argv ...string) func(*lambent.Settings) {
	return func(s *lambent.Settings) {
		s.Runtime, s.Handler, s.Command = "http", "", argv
	}
}

// testHTTPCommands runs servers that know nothing of Lambent.
func testHTTPCommands(t *testing.T, k *kit) {
	code := scripts(t, "http")
	t.Run("node", func(t *testing.T) {
		r := k.startCode(t, code, func(s *lambent.Settings) {
			command("node", "server.js", "well")(s)
			s.Concurrency = 8
			s.Env = map[string]string{"PORT": "3000"}
		})
		r.logs.await(t, "starting well")
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				body := strings.Repeat("x", 1<<20)
				if status, got, err := r.do(request(t, "POST", "/a?b", body)); status != 200 || got != body || err != nil {
					t.Errorf("%d, %d bytes, %v", status, len(got), err)
				}
			})
		}
		all.Wait()
	})
	t.Run("python", func(t *testing.T) {
		r := k.startCode(t, code, command("python3", "-m", "http.server", "8080"))
		for range 3 { // it speaks HTTP/1.0: a connection for each
			if body := r.must(t, "/server.js"); !strings.Contains(body, "createServer") {
				t.Errorf("got %q", body)
			}
		}
	})
}

// testHTTPParts is about the 40 ms for which a kernel may hold the second part of an answer back.
func testHTTPParts(t *testing.T, k *kit) {
	r := k.startCode(t, scripts(t, "http"), command("python3", "parts.py"))
	r.must(t, "/") // a young connection knows no delay yet
	best := time.Hour
	for range 20 {
		began := time.Now()
		r.must(t, "/")
		best = min(best, time.Since(began))
	}
	if best > 35*time.Millisecond {
		t.Errorf("the fastest answer of 20 took %v", best)
	}
}

func testHTTPStartFailures(t *testing.T, k *kit) {
	code := scripts(t, "http")
	for _, c := range []struct {
		name   string
		change func(*lambent.Settings)
		want   lambent.Code
		texts  []string
	}{
		{"dies", command("./dies.sh"), lambent.CodeStartFailed, []string{"exited with code 5", "no database today"}},
		{"missing in the bundle", command("./nothing"), lambent.CodeStartFailed, []string{"bundle has no file", "nothing"}},
		{"missing everywhere", command("no-such-program"), lambent.CodeStartFailed, []string{"no-such-program", "neither in the bundle nor in"}},
		{"not executable", command("./server.js"), lambent.CodeStartFailed, []string{"not executable", "chmod"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := k.tryStart(t, k.exec, code, c.change)
			want(t, err, c.want, c.texts...)
		})
	}
	t.Run("never listens", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := k.exec.Start(ctx, executor.Spec{ID: lambent.NewID(), Revision: revision(t, command("./deaf.sh")), CodeDir: code, Log: newLogs().add})
		want(t, err, lambent.CodeStartTimeout, "will never listen", "127.0.0.1:8080", "descriptor 3")
	})
	t.Run("another protocol", func(t *testing.T) {
		_, err := k.served(lambent.ProtocolH2C, map[string]string{"SERVE": "127.0.0.1"}).tryStart(t, k.exec, k.code, nil)
		want(t, err, lambent.CodeStartFailed, "HTTP/1.1", "protocol: http1")
		_, err = k.served("", map[string]string{"SERVE": "127.0.0.1", "H2C": "1"}).tryStart(t, k.exec, k.code, nil)
		want(t, err, lambent.CodeStartFailed, "protocol: h2c")
	})
	k.clean(t, k.dir)
}
