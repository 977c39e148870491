package system

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lambent"
	"lambent/daemon"
)

// until waits for what another process does.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("after 10 s: %s", what)
}

// SIGTERM under load: whoever was accepted gets a whole answer, streams end in the way of their protocol, and the
// daemon says what it waits for.
func TestStopUnderLoad(t *testing.T) {
	dir := t.TempDir()
	p := startUp(t, dir)
	n := attach(t, dir)
	settings := lambent.Settings{Timeouts: lambent.Timeouts{Drain: lambent.Duration(2 * time.Second)}}
	n.fixture(settings)
	settings.Runtime = "go"
	n.deploy("drip", files{"main": build(t, "testdata/drip")}, settings)

	c, _ := n.socket("/fn/fixture/ws")
	echo(t, c, "before")
	resp, err := http.Get(n.at.Functions + "/fn/drip/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil {
		t.Fatal(err)
	}

	var calls, refused atomic.Int64
	var calling sync.WaitGroup
	for i := range 8 {
		calling.Go(func() {
			transport := &http.Transport{DisableKeepAlives: i%2 == 0}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport}
			for range 10_000 {
				// A body that cannot be had again: net/http's client must not try twice.
				body := io.MultiReader(strings.NewReader("text"))
				resp, err := client.Post(fmt.Sprintf("%s/fn/fixture/sleep?ms=%d", n.at.Functions, rand.IntN(100)), "text/plain", body)
				var dial *net.OpError
				if errors.As(err, &dial) && dial.Op == "dial" {
					refused.Add(1)
					return
				}
				if err == nil {
					_, err = io.ReadAll(resp.Body)
					resp.Body.Close()
				}
				if err != nil || resp.StatusCode != 200 {
					t.Errorf("call %d: %v, %v", calls.Load(), resp, err)
					return
				}
				calls.Add(1)
			}
		})
	}
	until(t, "there is no load", func() bool { return calls.Load() > 50 })
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wantRestart(t, c)
	if rest, err := io.ReadAll(resp.Body); err != nil || !strings.HasSuffix(string(rest), "\n\n") {
		t.Errorf("the event stream ended with %q, %v", rest[max(0, len(rest)-20):], err)
	}
	calling.Wait()
	if err := p.wait(); err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if refused.Load() != 8 {
		t.Errorf("%d clients were refused at last, want 8", refused.Load())
	}
	said := p.log.String()
	for _, part := range []string{"stopping: waiting for ", "1 WebSocket of default/fixture", "1 event stream of default/drip", "Ctrl-C again", "stopped: nothing was lost"} {
		if !strings.Contains(said, part) {
			t.Errorf("it does not say %q", part)
		}
	}
	t.Logf("%d calls", calls.Load())
}

const deaf = `
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def handler(event, context):
    print("begun", flush=True)
    while True:
        time.sleep(1)
`

// A function that never ends, and does not hear SIGTERM, is waited for as long as was said and no longer.
func TestStopIsBounded(t *testing.T) {
	const drain, grace = time.Second, 10 * time.Second
	said := new(syncBuffer)
	n, err := tryStart(t, daemon.Config{Data: t.TempDir(), Drain: drain, Logger: slog.New(slog.NewTextHandler(said, nil))})
	if err != nil {
		t.Fatal(err)
	}
	n.python("deaf", deaf, nil)
	var calling sync.WaitGroup
	calling.Go(func() {
		if resp, err := http.Get(n.at.Functions + "/fn/deaf"); err == nil && resp.StatusCode == 200 {
			t.Errorf("an answer: %v", resp)
		}
	})
	until(t, "the call did not come", func() bool { return len(n.lines("deaf", "begun")) == 1 })
	began := time.Now()
	if err := n.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took < drain || took > drain+grace+5*time.Second {
		t.Errorf("it took %v", took)
	}
	calling.Wait()
	for _, part := range []string{"waiting for 1 request of default/deaf", "the time to drain, 1s, is over", "stopped: cut 1 request of default/deaf"} {
		if !strings.Contains(said.String(), part) {
			t.Errorf("it does not say %q:\n%s", part, said)
		}
	}
}

// A second signal ends a daemon that waits, at once and with nothing left behind.
func TestSecondSignal(t *testing.T) {
	dir := t.TempDir()
	p := startUp(t, dir)
	n := attach(t, dir)
	n.python("deaf", deaf, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var calling sync.WaitGroup
	calling.Go(func() {
		req, err := http.NewRequestWithContext(ctx, "GET", n.at.Functions+"/fn/deaf", nil)
		if err != nil {
			t.Error(err)
			return
		}
		if resp, err := http.DefaultClient.Do(req); err == nil && resp.StatusCode == 200 {
			t.Errorf("an answer: %v", resp)
		}
	})
	until(t, "the call did not come", func() bool { return len(n.lines("deaf", "begun")) == 1 })
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	until(t, "it does not say what it waits for", func() bool {
		return strings.Contains(p.log.String(), "waiting for 1 request of default/deaf")
	})
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := p.wait(); err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	calling.Wait()
	if !strings.Contains(p.log.String(), "stopped: cut 1 request of default/deaf") {
		t.Error("it does not say what it cut")
	}
	if left, err := os.ReadDir(filepath.Join(dir, "run", "instances")); err != nil && !errors.Is(err, os.ErrNotExist) || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}
