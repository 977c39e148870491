package system

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"lambent"
	"lambent/executor/executortest"
)

// socket opens a WebSocket to the function at path, whose messages come back in capitals.
func (n *node) socket(path string) (c *websocket.Conn, invocation string) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 20*time.Second)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(n.at.Functions, "http")+path, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { c.CloseNow() })
	return c, resp.Header.Get("Lambent-Invocation")
}

// echo sends text and wants it back in capitals.
func echo(t *testing.T, c *websocket.Conn, text string) {
	t.Helper()
	if err := c.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if _, got, err := c.Read(t.Context()); err != nil || string(got) != strings.ToUpper(text) {
		t.Fatalf("%q, %v", got, err)
	}
}

// wantRestart wants the WebSocket to be closed with 1012.
func wantRestart(t *testing.T, c *websocket.Conn) {
	t.Helper()
	_, _, err := c.Read(t.Context())
	var end websocket.CloseError
	if !errors.As(err, &end) || end.Code != websocket.StatusServiceRestart {
		t.Errorf("the WebSocket ended with %v", err)
	}
}

func (n *node) fixture(settings lambent.Settings) {
	n.t.Helper()
	n.program("fixture", settings)
}

// program deploys the program of executortest.
func (n *node) program(name string, settings lambent.Settings) {
	n.t.Helper()
	dir := n.t.TempDir()
	executortest.BuildFixture(n.t, dir)
	program, err := os.ReadFile(filepath.Join(dir, "fixture"))
	if err != nil {
		n.t.Fatal(err)
	}
	settings.Runtime = "go"
	n.deploy(name, files{"main": string(program)}, settings)
}

// What has no end of its own goes on for Timeouts.Drain when its revision was replaced, and is then ended in the way of
// its protocol, which no record counts as a failure. Who comes again meets the new revision.
func TestReplacedRevisionEndsItsStreams(t *testing.T) {
	const grace = 3 * time.Second
	n := start(t, t.TempDir())
	settings := lambent.Settings{Timeouts: lambent.Timeouts{Drain: lambent.Duration(grace)}}
	n.fixture(settings)
	settings.Runtime = "go"
	drip := files{"main": build(t, "testdata/drip")}
	n.deploy("drip", drip, settings)

	c, socket := n.socket("/fn/fixture/ws")
	echo(t, c, "before")
	resp, err := http.Get(n.at.Functions + "/fn/drip/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	events := bufio.NewReader(resp.Body)
	if line, err := events.ReadString('\n'); err != nil || line != "data: drop\n" {
		t.Fatalf("%q, %v", line, err)
	}

	settings.Env = map[string]string{"NEW": "1"}
	began := time.Now()
	n.fixture(settings)
	echo(t, c, "after") // it goes on for a while
	settings.Runtime = "go"
	n.deploy("drip", drip, settings)
	wantRestart(t, c)
	rest, err := io.ReadAll(events)
	if err != nil || !strings.HasSuffix(string(rest), "data: drop\n\n") {
		t.Errorf("the event stream ended with %q, %v", rest[max(0, len(rest)-20):], err)
	}
	if took := time.Since(began); took < grace {
		t.Errorf("they were ended after %v", took)
	}
	for _, id := range []string{socket, resp.Header.Get("Lambent-Invocation")} {
		if r := n.record(id); r.Error != nil || r.BytesOut == 0 {
			t.Errorf("record %+v", r)
		}
	}
	again, _ := n.socket("/fn/fixture/ws")
	echo(t, again, "again")
}
