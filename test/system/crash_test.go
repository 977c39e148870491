package system

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lambent"
	"lambent/client"
)

// remains lists what is on the machine of the instances of a daemon on dir.
func remains(t *testing.T, dir string) []string {
	t.Helper()
	run, err := filepath.EvalSymlinks(filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("%x", sha256.Sum256([]byte(run)))[:8]
	var found []string
	for _, pattern := range []string{run + "/*", "/sys/fs/cgroup/lambent/" + name, "/sys/fs/cgroup/*/lambent/" + name} {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, matches...)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range processes {
		if raw, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(raw), "lambent-init\x00"+name+"\x00") {
			found = append(found, file)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(mounts), run); n > 0 {
		found = append(found, fmt.Sprintf("%d mounts", n))
	}
	return found
}

// systemEvents gives the system events so far of a kind.
func (n *node) systemEvents(kind lambent.EventKind) []lambent.SystemEvent {
	n.t.Helper()
	var out []lambent.SystemEvent
	for e, err := range n.client.SystemEvents(n.t.Context(), client.EventQuery{Kind: kind, Limit: 1000}) {
		if err != nil {
			n.t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// traffic calls functions until its context ends.
type traffic struct {
	n      *node
	down   atomic.Bool // while there is no daemon
	calls  atomic.Int64
	missed atomic.Int64 // of them, those that met no daemon
}

func (l *traffic) call(ctx context.Context, path string) {
	for ctx.Err() == nil {
		down := l.down.Load()
		resp, err := http.Get(l.n.at.Functions + path)
		l.calls.Add(1)
		var body []byte
		if err == nil {
			body, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		switch {
		case err != nil && (down || l.down.Load()):
			l.missed.Add(1)
			time.Sleep(time.Millisecond) // nothing tells when it is back
		case err != nil:
			l.n.t.Errorf("GET %s: %v", path, err)
		case resp.StatusCode != http.StatusOK:
			l.n.t.Errorf("GET %s: %d %s", path, resp.StatusCode, body)
		}
	}
}

const counting = `
import os
count = 0
def handler(event, context):
    global count
    count += 1
    return {"statusCode": 200, "body": os.environ["LAMBENT_INSTANCE"] + " " + str(count)}
`

// kill -9 of the daemon under load, several times: instances are the same afterwards, what they wrote meanwhile
// is in their logs, and every resource that was acknowledged is there. After a clean stop nothing is left.
func TestCrashUnderLoad(t *testing.T) {
	const crashes = 4
	dir, bin := t.TempDir(), binaries(t)
	p := launch(t, bin, dir)
	n := attach(t, dir)
	n.python("one", counting, func(s *lambent.Settings) { s.MaxInstances = 1 })
	if _, err := n.client.SetSecret(t.Context(), "default", "token", strings.NewReader("the value of the token")); err != nil {
		t.Fatal(err)
	}
	n.program("many", lambent.Settings{Concurrency: 20, MaxInstances: 1, Secrets: map[string]string{"TOKEN": "token"}})
	count := func(name string) (who string, count int) {
		t.Helper()
		path := "/fn/" + name
		if name == "many" {
			path += "/count"
		}
		a := n.call("GET", path, nil)
		a.want(t, 200, " ")
		if _, err := fmt.Sscan(a.body, &who, &count); err != nil {
			t.Fatal(err)
		}
		return who, count
	}
	who, counts := map[string]string{}, map[string]int{}
	for _, name := range []string{"one", "many"} {
		who[name], counts[name] = count(name)
	}
	instances := func() []string {
		entries, err := os.ReadDir(filepath.Join(dir, "run", "instances"))
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, e := range entries {
			ids = append(ids, e.Name())
		}
		return ids
	}
	before := instances()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	load := &traffic{n: n}
	var work sync.WaitGroup
	for range 2 {
		work.Go(func() { load.call(ctx, "/fn/one") })
		work.Go(func() { load.call(ctx, "/fn/many/sleep?ms=20") })
	}
	var acknowledged []string
	work.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			name := fmt.Sprintf("route-%d", i)
			_, err := n.client.SetRoute(ctx, client.SetRoute{Namespace: "default", Name: name, Spec: lambent.RouteSpec{Path: "/" + name, Function: "one"}})
			if err == nil {
				acknowledged = append(acknowledged, name)
			}
			time.Sleep(5 * time.Millisecond) // a change now and then
		}
	})

	for i := range crashes {
		for enough := load.calls.Load() + 200; load.calls.Load() < enough && !t.Failed(); {
			time.Sleep(10 * time.Millisecond)
		}
		n.call("GET", fmt.Sprintf("/fn/many/later?ms=50&tag=crash-%d&secret=TOKEN", i), nil).want(t, 200, "")
		load.down.Store(true)
		p.kill()
		killed := time.Now()
		p = launch(t, bin, dir)
		load.down.Store(false)
		began := time.Now()
		for name := range who {
			again, c := count(name)
			if again != who[name] || c <= counts[name] {
				t.Errorf("crash %d: %s was %s and had counted to %d, now it is %s and has to %d", i, name, who[name], counts[name], again, c)
			}
			counts[name] = c
		}
		t.Logf("crash %d: it serves again after %v, and has answered each function %v later", i, p.took.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
		if p.took+time.Since(began) > 10*time.Second {
			t.Error("that is late")
		}
		started := n.systemEvents("node.started")
		if last := started[len(started)-1]; last.Reason != lambent.ReasonCrash || !strings.Contains(last.Text, "; 2 of 2 instances adopted") {
			t.Errorf("the node's start was %+v", last)
		}
		for _, id := range before {
			if !slices.ContainsFunc(n.systemEvents("instance.adopted"), func(e lambent.SystemEvent) bool { return e.Instance == id && e.Time.After(killed) }) {
				t.Errorf("crash %d: nothing tells that %s was adopted", i, id)
			}
		}
		var lines []lambent.LogLine
		for end := time.Now().Add(10 * time.Second); len(lines) == 0 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			lines = n.lines("many", fmt.Sprintf("later crash-%d", i))
		}
		if len(lines) != 1 || strings.Contains(lines[0].Text, "the value") {
			t.Errorf("written while nobody was there: %+v", lines)
		}
		if after := instances(); !slices.Equal(after, before) {
			t.Errorf("there are the instances %v, before there were %v", after, before)
		}
	}
	cancel()
	work.Wait()
	t.Logf("%d calls, of which %d met no daemon; %d routes", load.calls.Load(), load.missed.Load(), len(acknowledged))
	routes, err := n.client.Routes(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range acknowledged {
		if !slices.ContainsFunc(routes, func(r *lambent.Route) bool { return r.Name == name }) {
			t.Errorf("%s was acknowledged and is not there", name)
		}
	}
	p.stop(t)
	if left := remains(t, dir); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	p = launch(t, bin, dir)
	if started := n.systemEvents("node.started"); started[len(started)-1].Reason != lambent.ReasonClean {
		t.Errorf("the node's start was %+v", started[len(started)-1])
	}
	// A stop is clean once it is over.
	answered := make(chan error, 1)
	go func() { // its answer does not come
		resp, err := http.Get(n.at.Functions + "/fn/many/sleep?ms=5000")
		if err == nil {
			resp.Body.Close()
		}
		answered <- err
	}()
	for end := time.Now().Add(20 * time.Second); !strings.Contains(n.metrics(), `faas_in_flight{function="many",namespace="default"} 1`) && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); !strings.Contains(p.log.String(), "stopping: waiting") && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
	}
	p.kill()
	<-answered
	p = launch(t, bin, dir)
	if started := n.systemEvents("node.started"); started[len(started)-1].Reason != lambent.ReasonCrash {
		t.Errorf("after a kill while it stopped, the node's start was %+v", started[len(started)-1])
	}
	p.stop(t)
}

// What a crash leaves and nobody can use any more is ended: by a deploy or a delete just before, for a caller
// who is gone, or because it is for one use.
func TestCrashReapsUnwanted(t *testing.T) {
	dir, bin := t.TempDir(), binaries(t)
	p := launch(t, bin, dir)
	n := attach(t, dir)
	n.program("kept", lambent.Settings{})
	n.program("once", lambent.Settings{Concurrency: 1, Reuse: lambent.ReuseNever})
	for _, name := range []string{"redeployed", "deleted"} {
		n.program(name, lambent.Settings{Concurrency: 20})
		resp, err := http.Get(n.at.Functions + "/fn/" + name + "/drip?n=1&stall=1") // keeps its instance
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
	}
	n.python("busy", `
import time
def handler(event, context):
    if "requestContext" in event and event["rawPath"] == "/sleep":
        print("sleeping", flush=True)
        time.sleep(600)
    return {"statusCode": 200, "body": "awake"}
`, nil)
	go func() {
		if resp, err := http.Get(n.at.Functions + "/fn/busy/sleep"); err == nil {
			resp.Body.Close()
		}
	}()
	for len(n.lines("busy", "sleeping")) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	n.call("GET", "/fn/redeployed/later?ms=1000&tag=farewell", nil).want(t, 200, "")
	n.program("redeployed", lambent.Settings{Concurrency: 20, Env: map[string]string{"NEW": "1"}})
	if err := n.client.Delete(t.Context(), "default", "deleted", 0); err != nil {
		t.Fatal(err)
	}
	p.kill()
	time.Sleep(time.Second) // it says good-bye to nobody
	p = launch(t, bin, dir)
	n.call("GET", "/fn/kept/count", nil).want(t, 200, " 1")
	n.call("GET", "/fn/busy", nil).want(t, 200, "awake") // by another instance, at once
	deadline := time.Now().Add(20 * time.Second)
	for len(n.systemEvents("instance.stopped")) < 4 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	reaped := map[string]bool{}
	for _, e := range n.systemEvents("instance.stopped") {
		if e.Reason == lambent.ReasonUnwanted {
			reaped[e.Function] = true
			if _, err := os.Stat(filepath.Join(dir, "run", "instances", e.Instance)); err != nil && !os.IsNotExist(err) {
				t.Error(err)
			}
		}
	}
	for _, name := range []string{"once", "redeployed", "deleted", "busy"} {
		if !reaped[name] {
			t.Errorf("nothing tells that what was left of %s is ended", name)
		}
	}
	if lines := n.lines("redeployed", "later farewell"); len(lines) != 1 {
		t.Errorf("the last words of an instance that nobody wanted are %+v", lines)
	}
	for time.Now().Before(deadline) {
		entries, err := os.ReadDir(filepath.Join(dir, "run", "instances"))
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 3 { // of kept, redeployed and busy
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if !time.Now().Before(deadline) {
		t.Error("what is not wanted is still there")
	}
	p.stop(t)
	if left := remains(t, dir); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}
