package durability

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"lambent/client"
	"lambent/test/fault"
)

// The connections between the node and a function break in the midst of requests. Those fail as the function's, and
// everything else goes on.
func TestDroppedSockets(t *testing.T) {
	n, err := start(t, t.TempDir(), nil)
	check(t, err)
	ctx := t.Context()
	check(t, n.python(ctx, "f", `
import time
def handler(event, context):
    if event["rawPath"] == "/slow":
        print("begun", flush=True)
        time.sleep(3)
    return {"statusCode": 200, "body": "hello"}
`, nil))
	type answer struct {
		status int
		body   string
	}
	slow := make(chan answer, 1)
	go func() {
		status, body, _ := n.call(ctx, "/fn/f/slow") // an error is status 0
		slow <- answer{status, body}
	}()
	await(t, "line of the request that hangs", func() bool { return n.logged(ctx, "f", "begun") })
	dropped, err := fault.DropSockets(n.cmd.Process.Pid, func(peer string) bool { return filepath.Base(peer) == "http" })
	if err != nil || dropped == 0 {
		t.Fatalf("%d connections dropped: %v", dropped, err)
	}
	select {
	case a := <-slow:
		if a.status != 502 {
			t.Errorf("the request that was cut: %d %s", a.status, a.body)
		}
	case <-time.After(10 * time.Second):
		t.Error("the request that was cut hangs")
	}
	for range 20 {
		if status, body, err := n.call(ctx, "/fn/f"); err != nil || status != 200 {
			t.Errorf("after it: %d %s, %v", status, body, err)
		}
	}
	check(t, n.stop())
}

func (n *node) logged(ctx context.Context, function, text string) bool {
	for line, err := range n.client.Logs(ctx, "default", function, client.LogQuery{Tail: -1}) {
		if err == nil && line.Text == text {
			return true
		}
	}
	return false
}
