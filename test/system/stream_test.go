package system

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"lambent"
	"lambent/client"
	"lambent/executor/executortest"
)

func TestWebSocket(t *testing.T) {
	n := start(t, t.TempDir())
	dir := t.TempDir()
	executortest.BuildFixture(t, dir)
	program, err := os.ReadFile(filepath.Join(dir, "fixture"))
	if err != nil {
		t.Fatal(err)
	}
	n.deploy("fixture", files{"main": string(program)}, lambent.Settings{Runtime: "go"})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(n.at.Functions, "http")+"/fn/fixture/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	for _, size := range []int{1, 1000, 30_000} {
		sent := strings.Repeat("x", size)
		if err := c.Write(ctx, websocket.MessageText, []byte(sent)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(ctx); err != nil || string(got) != strings.ToUpper(sent) {
			t.Fatalf("%d bytes came back, want %d, %v", len(got), size, err)
		}
	}
	if err := c.Close(websocket.StatusNormalClosure, "done"); err != nil {
		t.Error(err)
	}
	r := n.record(resp.Header.Get("Lambent-Invocation"))
	if r.Status != http.StatusSwitchingProtocols || r.Error != nil || r.BytesIn < 31_001 || r.BytesOut < 31_001 {
		t.Errorf("record %+v", r)
	}
}

func TestServerSentEvents(t *testing.T) {
	n := start(t, t.TempDir())
	n.deploy("drip", files{"main": build(t, "testdata/drip")}, lambent.Settings{Runtime: "go"})
	resp, err := http.Get(n.at.Functions + "/fn/drip/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Errorf("content type %q", kind)
	}
	events := bufio.NewReader(resp.Body)
	for range 5 { // of a stream that never ends: each comes when it is sent
		if line, err := events.ReadString('\n'); err != nil || line != "data: drop\n" {
			t.Fatalf("%q, %v", line, err)
		}
		if line, err := events.ReadString('\n'); err != nil || line != "\n" {
			t.Fatalf("%q, %v", line, err)
		}
	}
}

// 50 MB go through a sandbox of 64 MiB, counted on the way.
func TestLargeUpload(t *testing.T) {
	n := start(t, t.TempDir())
	n.deploy("wordcount", files{"main": build(t, "../../examples/wordcount")}, lambent.Settings{Runtime: "go", Memory: 64})
	const line = "the quick brown fox jumps over the lazy dog\n"
	const lines = 50 << 20 / len(line)
	body := io.LimitReader(repeat(line), int64(lines*len(line)))
	a := n.call("POST", "/fn/wordcount", body)
	var got struct{ Bytes, Lines, Words int }
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 200 {
		t.Fatalf("%d %s, %v", a.status, a.body, err)
	}
	if got.Bytes != lines*len(line) || got.Lines != lines || got.Words != 9*lines {
		t.Errorf("%+v of %d lines", got, lines)
	}
}

// repeater is s without end.
type repeater struct {
	s  string
	at int
}

func repeat(s string) io.Reader { return &repeater{s: s} }

func (r *repeater) Read(p []byte) (n int, err error) {
	for n < len(p) {
		c := copy(p[n:], r.s[r.at:])
		n += c
		r.at = (r.at + c) % len(r.s)
	}
	return n, nil
}

func TestFollowLogs(t *testing.T) {
	n := start(t, t.TempDir())
	n.python("talk", "def handler(event, context): print('said', event['n'])", nil)
	say := func(payload string) {
		answer, err := n.client.Invoke(t.Context(), "default", "talk", "application/json", strings.NewReader(payload))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
	}
	say(`{"n":1}`)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var heard []string
	for line, err := range n.client.Logs(ctx, "default", "talk", client.LogQuery{Tail: -1, Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line.Text, "said") {
			heard = append(heard, line.Text)
			if len(heard) == 3 {
				break
			}
			say(`{"n":` + string('1'+rune(len(heard))) + `}`)
		}
	}
	if strings.Join(heard, ",") != "said 1,said 2,said 3" {
		t.Errorf("heard %q", heard)
	}
}
