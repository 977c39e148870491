package executortest

import (
	"bytes"
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

	"github.com/coder/websocket"

	"lambent"
	"lambent/executor"
)

func testEcho(t *testing.T, k *kit) {
	r := k.start(t, nil)
	for _, body := range []string{"", "hello", strings.Repeat("0123456789abcdef", 1<<16)} {
		req := request(t, "POST", "/echo?a=1&b=%20", body)
		req.Header["Many"] = []string{"one", "two"}
		resp, err := r.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusAccepted || string(got) != body {
			t.Errorf("status %d, %d bytes of %d came back", resp.StatusCode, len(got), len(body))
		}
		if h := resp.Header; h.Get("Method") != "POST" || h.Get("Target") != "/echo?a=1&b=%20" ||
			h.Get("Seen-Host") != "fixture.test" || !slices.Equal(h["Many"], []string{"one", "two"}) {
			t.Errorf("the function saw %v", h)
		}
	}
	if r.StartPhases()[lambent.PhaseSandbox] <= 0 || r.StartPhases()[lambent.PhaseBoot]+r.StartPhases()[lambent.PhaseLoad] <= 0 {
		t.Errorf("the start's phases are %v", r.StartPhases())
	}
}

// testStream sends the next piece when the answer to the one before has come.
func testStream(t *testing.T, k *kit) {
	r := k.start(t, nil)
	up, feed := io.Pipe()
	defer feed.Close()
	req := request(t, "POST", "/stream", "")
	req.Body, req.ContentLength = up, -1
	resp, err := r.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for i := range 20 {
		piece := strings.Repeat(fmt.Sprintf("piece %d ", i), 1+i*200)
		sent := make(chan error, 1)
		go func() {
			_, err := io.WriteString(feed, piece)
			sent <- err
		}()
		got := make([]byte, len(piece))
		if _, err := io.ReadFull(resp.Body, got); err != nil {
			t.Fatal(err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if string(got) != strings.ToUpper(piece) {
			t.Fatalf("piece %d came back as %.60q", i, got)
		}
	}
	feed.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 0 {
		t.Errorf("behind the last piece: %q, %v", rest, err)
	}
}

func testWebSocket(t *testing.T, k *kit) {
	r := k.start(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "ws://fixture.test/ws", &websocket.DialOptions{HTTPClient: &http.Client{Transport: r}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	for i := range 10 {
		message := bytes.Repeat([]byte{'a' + byte(i)}, 1+i*1000)
		if err := conn.Write(ctx, websocket.MessageText, message); err != nil {
			t.Fatal(err)
		}
		_, got, err := conn.Read(ctx)
		if err != nil || !bytes.Equal(got, bytes.ToUpper(message)) {
			t.Fatalf("message %d came back as %.60q, %v", i, got, err)
		}
	}
	if err := conn.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("close: %v", err)
	}
}

func testConcurrency(t *testing.T, k *kit) {
	const n = 16
	r := k.start(t, func(s *lambent.Settings) { s.Concurrency = n })
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			if _, body, err := r.get(t, fmt.Sprintf("/meet?n=%d", n)); body != "met" {
				t.Errorf("%q, %v", body, err)
			}
		})
	}
	all.Wait()
}

func testEnv(t *testing.T, k *kit) {
	r := k.start(t, func(s *lambent.Settings) {
		s.Env = map[string]string{"COLOUR": "blue", "TZ": "Europe/Berlin", "EMPTY": ""}
	})
	env := r.env(t)
	wanted := []string{
		"COLOUR=blue", "TZ=Europe/Berlin", "EMPTY=", "LANG=C.UTF-8", "LAMBENT_FUNCTION=fixture", "LAMBENT_NAMESPACE=default", "LAMBENT_REVISION=" + r.revision.ID,
		"LAMBENT_INSTANCE=" + r.ID(), "LAMBENT_MEMORY=128", "LAMBENT_CONCURRENCY=1",
		"LAMBENT_HANDLER=" + r.revision.Settings.Handler, "LAMBENT_RUNTIME=" + r.revision.Settings.Runtime,
	}
	if k.has(OneProcess) {
		wanted = append(wanted, "HOME=/tmp", "LISTEN_FDS=1")
	}
	for _, want := range wanted {
		if !slices.Contains(env, want) {
			t.Errorf("the environment lacks %s: %q", want, env)
		}
	}
	seen := map[string]bool{}
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		if seen[name] {
			t.Errorf("%s is there twice", name)
		}
		seen[name] = true
	}
	t.Setenv("OF_THE_DAEMON", "secret")
	if slices.Contains(k.start(t, nil).env(t), "OF_THE_DAEMON=secret") {
		t.Error("the daemon's environment leaks into the function")
	}
}

// testLogs holds the tier to its word: when Close has returned, all lines of the request are there.
func testLogs(t *testing.T, k *kit) {
	r := k.start(t, nil)
	for i := range 20 {
		before := len(r.logs.all())
		req := request(t, "GET", fmt.Sprintf("/log?n=50&tag=%d&tail=no-line-end", i), "")
		id := lambent.NewID()
		req.Header.Set("Id", id)
		if _, _, err := r.do(req); err != nil {
			t.Fatal(err)
		}
		lines := r.logs.all()[before:]
		if len(lines) != 101 {
			t.Fatalf("%d lines are there when the response is closed, want 101", len(lines))
		}
		next := map[string]int{}
		for _, line := range lines {
			if line.Invocation != id || line.InFlight != nil || line.Instance != r.ID() || line.Function != "fixture" || line.Revision != r.revision.ID {
				t.Fatalf("the line is attributed wrongly: %+v", line)
			}
			want := fmt.Sprintf("%s %d %d", line.Stream[3:], i, next[line.Stream])
			if line.Text != want && line.Text != "no-line-end" {
				t.Fatalf("%s has %q, want %q", line.Stream, line.Text, want)
			}
			next[line.Stream]++
		}
	}
}

func testLogsOfManyRequests(t *testing.T, k *kit) {
	r := k.start(t, func(s *lambent.Settings) { s.Concurrency = 2 })
	slow := request(t, "GET", "/drip?n=1&stall=1", "")
	slow.Header.Set("Id", lambent.NewID())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	resp, err := r.RoundTrip(slow.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	quick := request(t, "GET", "/log?n=1&tag=both", "")
	quick.Header.Set("Id", lambent.NewID())
	if _, _, err := r.do(quick); err != nil {
		t.Fatal(err)
	}
	line := r.logs.await(t, "out both")
	ids := []string{slow.Header.Get("Id"), quick.Header.Get("Id")}
	if line.Invocation != "" || !slices.Equal(line.InFlight, ids) {
		t.Errorf("the line is attributed to %q and %v, want the two in flight", line.Invocation, line.InFlight)
	}
	cancel()
	_ = resp.Body.Close() // busy: it stalls
}

func testTimeouts(t *testing.T, k *kit) {
	cases := []struct {
		name, target string
		settings     lambent.Timeouts
		total        time.Duration
		code         lambent.Code
	}{
		{"first byte", "/sleep?ms=20000", lambent.Timeouts{FirstByte: lambent.Duration(brief)}, 0, lambent.CodeFirstByteTimeout},
		{"idle", "/drip?n=3&ms=10&stall=1", lambent.Timeouts{Idle: lambent.Duration(brief)}, 0, lambent.CodeIdleTimeout},
		{"total, before the head", "/sleep?ms=20000", lambent.Timeouts{}, brief, lambent.CodeTotalTimeout},
		{"total, in the body", "/drip?n=1000&ms=50", lambent.Timeouts{}, brief, lambent.CodeTotalTimeout},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := k.start(t, func(s *lambent.Settings) { s.Timeouts = c.settings })
			r.total = c.total
			start := time.Now()
			resp, err := r.RoundTrip(request(t, "GET", c.target, ""))
			busy := err
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				busy = resp.Body.Close()
			}
			e := want(t, err, c.code)
			if e.Fault != lambent.FaultLimit {
				t.Errorf("the fault is %s", e.Fault)
			}
			if errors.Is(busy, executor.ErrBusy) != k.has(OneProcess) {
				t.Errorf("%v does not say whether the function still works", busy)
			}
			if took := time.Since(start); took < 250*time.Millisecond || took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// testClientLeaves cuts a function off that notices, and one that does not.
func testClientLeaves(t *testing.T, k *kit) {
	for _, c := range []struct {
		name, target string
		busy         bool
	}{{"attentive", "/drip?n=1&stall=1", false}, {"deaf", "/drip?n=1&ms=20000&deaf=1", true}} {
		t.Run(c.name, func(t *testing.T) {
			r := k.start(t, nil)
			ctx, cancel := context.WithCancel(t.Context())
			resp, err := r.RoundTrip(request(t, "GET", c.target, "").WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			cancel()
			_, err = io.ReadAll(resp.Body)
			want(t, err, lambent.CodeClientClosed)
			busy := c.busy || r.revision.Settings.Protocol == lambent.ProtocolH2C // which has no way to tell
			busy = busy && k.has(OneProcess)
			if err := resp.Body.Close(); errors.Is(err, executor.ErrBusy) != busy {
				t.Errorf("Close gives %v", err)
			}
		})
	}
}

func testUsage(t *testing.T, k *kit) {
	r := k.start(t, nil)
	r.must(t, "/alloc?mb=20")
	eventually(t, patience, func() string { // a busy machine gives it less than it asks for
		r.must(t, "/burn?ms=100")
		if u, err := r.Usage(); err != nil || u.CPU < 50*time.Millisecond {
			return fmt.Sprintf("the usage is %+v, %v", u, err)
		}
		return ""
	})
	for _, when := range []string{"before", "after"} {
		u, err := r.Usage()
		if err != nil || u.CPU < 50*time.Millisecond || u.CPU > time.Minute || u.MemoryPeak < 20<<20 || u.MemoryPeak > 128<<20 {
			t.Errorf("the usage %s Stop is %+v, %v", when, u, err)
		}
		r.Stop(0)
	}
}
