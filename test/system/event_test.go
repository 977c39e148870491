package system

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"lambent"
	"lambent/client"
)

const mortal = `
import os
def handler(event, context):
    path = event["rawPath"]
    if path == "/exit":
        os._exit(3)
    if path == "/eat":
        return len(bytearray(1 << 30))
    return "fine"
`

// wait follows the system events until all of want have happened, each once.
func (n *node) wait(c *client.Client, q client.EventQuery, want ...string) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	open := map[string]bool{}
	for _, w := range want {
		open[w] = true
	}
	q.Limit, q.Follow = 1000, true
	for e, err := range c.SystemEvents(ctx, q) {
		if err != nil {
			n.t.Fatal(err)
		}
		what := string(e.Kind) + " " + e.Namespace + "/" + e.Function
		switch {
		case e.Exit != nil:
			what += " " + e.Exit.String()
		case e.Reason != "":
			what += " " + string(e.Reason)
		}
		if delete(open, what); len(open) == 0 {
			return
		}
	}
	n.t.Errorf("these did not happen: %v", open)
}

func (n *node) metrics() string {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), "GET", n.at.Control+"/metrics", nil)
	if err != nil {
		n.t.Fatal(err)
	}
	key, err := os.ReadFile(n.at.KeyFile)
	if err != nil {
		n.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(key)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(raw)
}

// What happens to instances and to the node is told with its reason, to those whom it concerns, and over restarts.
func TestWhatHappened(t *testing.T) {
	dir := t.TempDir()
	n := start(t, dir)
	n.python("mortal", mortal, func(s *lambent.Settings) { s.Memory = 64 })
	n.call("GET", "/fn/mortal/exit", nil).wantError(t, lambent.CodeInstanceExited, lambent.FaultFunction, "code 3")
	n.call("GET", "/fn/mortal/eat", nil).wantError(t, lambent.CodeMemoryExceeded, lambent.FaultLimit, "")
	n.python("mortal", mortal+"# changed\n", func(s *lambent.Settings) { s.Memory = 64 })
	n.wait(n.client, client.EventQuery{}, "node.started / first", "instance.started default/mortal",
		"instance.exited default/mortal exited with code 3", "instance.exited default/mortal killed for exceeding its memory limit")
	n.call("GET", "/fn/mortal/", nil).want(t, 200, "fine")
	n.python("mortal", mortal+"# once more\n", func(s *lambent.Settings) { s.Memory = 64 })
	n.wait(n.client, client.EventQuery{Kind: "instance.stopped", Namespace: "default"}, "instance.stopped default/mortal retired")

	key, err := n.client.CreateKey(t.Context(), "team", "ci", lambent.RoleDeploy)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := client.New(n.at.Control, key.Text)
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range stranger.SystemEvents(t.Context(), client.EventQuery{Limit: 1000}) {
		t.Errorf("a key of another namespace sees %+v, %v", e, err)
	}
	text := n.metrics()
	for _, line := range []string{`lambent_instance_exits_total{reason="oom"} 1`, `lambent_instance_exits_total{reason="code"} 1`, `lambent_node_starts_total{after="first"} 1`} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("the metrics lack %s", line)
		}
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	n = start(t, dir)
	n.wait(n.client, client.EventQuery{Kind: "node"}, "node.started / first", "node.stopping /", "node.started / clean")
	n.wait(n.client, client.EventQuery{Function: "mortal"}, "instance.exited default/mortal exited with code 3")
	if text := n.metrics(); !strings.Contains(text, `lambent_node_starts_total{after="clean"} 1`) || !strings.Contains(text, `lambent_node_starts_total{after="first"} 1`) {
		t.Error("the metrics do not count the starts before this one")
	}
}

// Revisions that nothing refers to go by themselves, and leave the function able to go back.
func TestOldRevisionsGo(t *testing.T) {
	n := start(t, t.TempDir())
	first := n.answering("0")
	n.alias("prod", "", lambent.Weight{Revision: first, Weight: 1})
	for i := 1; i <= 15; i++ {
		n.answering(fmt.Sprint(i))
	}
	const kept = 13 // prod's, the latest, the one before it, and ten
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		revisions, err := n.client.Revisions(t.Context(), "default", "f")
		if err != nil {
			t.Fatal(err)
		}
		if len(revisions) == kept {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d revisions are left, want %d", len(revisions), kept)
		}
	}
	n.call("GET", "/fn/f:prod", nil).want(t, 200, "0")
	n.call("GET", "/fn/f", nil).want(t, 200, "15")
	if _, err := n.client.Rollback(t.Context(), "default", "f", lambent.LatestAlias, 0); err != nil {
		t.Fatal(err)
	}
	n.call("GET", "/fn/f", nil).want(t, 200, "14")
}
