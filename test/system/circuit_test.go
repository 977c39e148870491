package system

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"lambent"
	"lambent/client"
)

const moody = `
import os
if os.environ["MOOD"] == "bad":
    raise RuntimeError("in no mood")
def handler(event, context):
    return "fine"
`

// A secret changes to what the function cannot start with, and back.
func TestCircuit(t *testing.T) {
	n := start(t, t.TempDir())
	mood := func(value string) {
		t.Helper()
		if _, err := n.client.SetSecret(t.Context(), "default", "mood", strings.NewReader(value)); err != nil {
			t.Fatal(err)
		}
	}
	mood("good")
	n.python("moody", moody, func(s *lambent.Settings) { s.Secrets = map[string]string{"MOOD": "mood"} })
	n.call("GET", "/fn/moody/", nil).want(t, 200, "fine")
	mood("bad")
	for range 5 {
		n.call("GET", "/fn/moody/", nil).wantError(t, lambent.CodeStartFailed, lambent.FaultFunction, "")
	}
	refused := n.call("GET", "/fn/moody/", nil)
	refused.wantError(t, lambent.CodeCircuitOpen, lambent.FaultFunction, "default/moody does not start")
	if after := refused.header.Get("Retry-After"); after != "1" && after != "2" {
		t.Errorf("Retry-After %q", after)
	}
	mood("good")
	n.call("GET", "/fn/moody/", nil).want(t, 200, "fine")
	want := []string{"instance.stopped stale", "start.failed start_failed", "circuit.opened start_failed", "circuit.closed"}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for ev, err := range n.client.SystemEvents(ctx, client.EventQuery{Function: "moody", Limit: 100, Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Text == "" && ev.Kind != lambent.EventInstanceStarted {
			t.Errorf("%+v does not say why", ev)
		}
		happened := strings.TrimSpace(string(ev.Kind) + " " + string(ev.Reason))
		want = slices.DeleteFunc(want, func(w string) bool { return w == happened })
		if len(want) == 0 {
			return
		}
	}
	t.Errorf("these did not happen: %q", want)
}
