package system

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"lambent"
	"lambent/client"
)

// alias points an alias of f to a revision, or to several by weight.
func (n *node) alias(name, sticky string, targets ...lambent.Weight) *lambent.Alias {
	n.t.Helper()
	a, err := n.client.SetAlias(n.t.Context(), client.SetAlias{Namespace: "default", Function: "f", Name: name, Targets: targets, Sticky: sticky})
	if err != nil {
		n.t.Fatalf("alias %s: %+v", name, err)
	}
	return a
}

// answering deploys f so that it answers with text, and gives the revision's id.
func (n *node) answering(text string) string {
	n.t.Helper()
	return n.python("f", fmt.Sprintf("def handler(event, context): return {'statusCode': 200, 'body': '%s'}", text), nil).Function.Latest.ID
}

// Under load nothing fails while an alias moves, and no request that is sent after a move returned meets the
// old target.
func TestAliasFlipsUnderLoad(t *testing.T) {
	const flips = 20
	n := start(t, t.TempDir())
	revisions := [2]string{n.answering("0"), n.answering("1")}
	n.alias("prod", "", lambent.Weight{Revision: revisions[0], Weight: 1})

	var moves [2]atomic.Int64 // begun, returned
	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	var calls atomic.Int64
	for range 4 {
		callers.Go(func() {
			for ctx.Err() == nil {
				earliest := moves[1].Load()
				a := n.call("GET", "/fn/f:prod", nil)
				latest := moves[0].Load()
				calls.Add(1)
				// Between two moves only one answer is right; while one is under way both are.
				if a.status != 200 || earliest == latest && a.body != fmt.Sprint(earliest%2) {
					t.Errorf("after %d moves of %d: %d %s", earliest, latest, a.status, a.body)
				}
			}
		})
	}
	for i := 1; i <= flips; i++ {
		moves[0].Add(1)
		n.alias("prod", "", lambent.Weight{Revision: revisions[i%2], Weight: 1})
		moves[1].Add(1)
		for range 3 {
			if a := n.call("GET", "/fn/f:prod", nil); a.body != fmt.Sprint(i%2) {
				t.Errorf("after flip %d: %d %s", i, a.status, a.body)
			}
		}
	}
	stop()
	callers.Wait()
	if n := calls.Load(); n < 2*flips {
		t.Errorf("only %d calls crossed %d flips", n, flips)
	}
	n.call("GET", "/fn/f", nil).want(t, 200, "1") // latest did not move
}

// A revision lives as long as something points to it: its instance serves on, warm, when another pointer has
// moved away.
func TestAliasKeepsItsRevisionWarm(t *testing.T) {
	n := start(t, t.TempDir())
	first := n.answering("first")
	n.alias("prod", "", lambent.Weight{Revision: first, Weight: 1})
	warm := n.record(n.call("GET", "/fn/f:prod", nil).header.Get("Lambent-Invocation"))
	n.answering("second")
	after := n.record(n.call("GET", "/fn/f:prod", nil).header.Get("Lambent-Invocation"))
	if after.Cold || after.Instance != warm.Instance || after.Alias != "prod" || after.Revision != first {
		t.Errorf("record %+v, the instance was %s", after, warm.Instance)
	}
	n.alias("prod", "", lambent.Weight{Revision: "latest", Weight: 1}) // and nothing points to the first
	n.alias("prod", "", lambent.Weight{Revision: first, Weight: 1})
	if fresh := n.record(n.call("GET", "/fn/f:prod", nil).header.Get("Lambent-Invocation")); fresh.Instance == warm.Instance {
		t.Error("nothing pointed to the revision, and its instance lived on")
	}
	n.alias("both", "query:user", lambent.Weight{Revision: first, Weight: 1}, lambent.Weight{Revision: "latest", Weight: 1})
	answers := map[string]bool{}
	for i := range 32 {
		path := fmt.Sprintf("/fn/f:both/?user=%d", i)
		a := n.call("GET", path, nil)
		if again := n.call("GET", path, nil); again.body != a.body {
			t.Errorf("user %d had %q, then %q", i, a.body, again.body)
		}
		answers[a.body] = true
	}
	if !answers["first"] || !answers["second"] || len(answers) != 2 {
		t.Errorf("answers %v", answers)
	}
}

// kill -9: aliases, numbers and the way back are there after it.
func TestAliasesSurviveAKill(t *testing.T) {
	dir := t.TempDir()
	p := launch(t, binaries(t), dir)
	n := attach(t, dir)
	first := n.answering("first")
	if _, err := n.client.Publish(t.Context(), "default", "f", ""); err != nil {
		t.Fatal(err)
	}
	n.alias("prod", "", lambent.Weight{Revision: first, Weight: 1})
	second := n.answering("second")
	n.alias("prod", "header:X-User", lambent.Weight{Revision: second, Weight: 3}, lambent.Weight{Revision: first, Weight: 1})
	p.kill()
	n = start(t, dir)
	n.call("GET", "/fn/f:prod", nil).want(t, 200, "")
	n.call("GET", "/fn/f:1", nil).want(t, 200, "first")
	back, err := n.client.Rollback(t.Context(), "default", "f", "prod", 0)
	if err != nil || len(back.Targets) != 1 || back.Targets[0].Revision.ID != first {
		t.Errorf("rollback %+v, %v", back, err)
	}
	n.call("GET", "/fn/f:prod", nil).want(t, 200, "first")
	if err := n.client.Delete(t.Context(), "default", "f", 0); err != nil {
		t.Fatal(err)
	}
	n.call("GET", "/fn/f:1", nil).wantError(t, lambent.CodeFunctionNotFound, lambent.FaultClient, "")
}
