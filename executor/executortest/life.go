package executortest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lambent"
	"lambent/executor"
)

func testExit(t *testing.T, k *kit) {
	for _, c := range []struct{ name, target string }{
		{"before the head", "/exit?code=3"},
		{"in the body", "/exit?code=3&begin=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := k.start(t, nil)
			_, _, err := r.get(t, c.target)
			e := want(t, err, lambent.CodeInstanceExited, "exited with code 3")
			if e.Fault != lambent.FaultFunction {
				t.Errorf("the fault is %s", e.Fault)
			}
			<-r.Done()
			if exit := r.Exit(); exit != (lambent.Exit{Code: 3}) {
				t.Errorf("the exit is %+v", exit)
			}
			if line := r.logs.await(t, "exited"); line.Stream != "lambent" || line.Text != "exited: exited with code 3" {
				t.Errorf("the platform's line is %+v", line)
			}
			r.logs.await(t, "last words")
			_, _, err = r.get(t, "/echo")
			want(t, err, lambent.CodeInstanceExited)
		})
	}
}

func testExitBySignal(t *testing.T, k *kit) {
	r := k.start(t, nil)
	_, _, err := r.get(t, "/exit?signal=9")
	want(t, err, lambent.CodeInstanceExited, "SIGKILL")
	<-r.Done()
	if exit := r.Exit(); exit != (lambent.Exit{Signal: "SIGKILL"}) {
		t.Errorf("the exit is %+v", exit)
	}
}

func testStopWithGrace(t *testing.T, k *kit) {
	r := k.start(t, nil)
	resp, err := r.RoundTrip(request(t, "GET", "/drip?n=5&ms=50", ""))
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.Stop(20 * time.Second)
	}()
	r.logs.await(t, "goodbye")
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "....." {
		t.Errorf("the request in flight got %q, %v", body, err)
	}
	resp.Body.Close()
	<-stopped
	if exit := r.Exit(); exit != (lambent.Exit{}) {
		t.Errorf("the exit is %+v", exit)
	}

	// A request that does not end in time does not hold the stop up.
	r = k.start(t, nil)
	if resp, err = r.RoundTrip(request(t, "GET", "/drip?n=1&stall=1", "")); err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	start := time.Now()
	r.Stop(200 * time.Millisecond)
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("a stop with 200 ms of grace took %v", took)
	}
	if exit := r.Exit(); exit.Signal != "SIGKILL" {
		t.Errorf("the exit is %+v", exit)
	}
}

func testStartFailures(t *testing.T, k *kit) {
	mode := func(m string) func(*lambent.Settings) {
		return func(s *lambent.Settings) { s.Env = map[string]string{"MODE": m} }
	}
	handler := func(h string) func(*lambent.Settings) { return func(s *lambent.Settings) { s.Handler = h } }
	code := t.TempDir()
	for name, m := range map[string]os.FileMode{"text": 0o755, "locked": 0o644} {
		if err := os.WriteFile(filepath.Join(code, name), []byte("hello\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(code, name), m); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(code, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, code string
		change     func(*lambent.Settings)
		want       lambent.Code
		texts      []string
	}{
		{"exits", k.code, mode("exit"), lambent.CodeStartFailed, []string{"exited with code 7", "about to give up", "boom"}},
		{"missing", code, handler("nothing"), lambent.CodeStartFailed, []string{`"nothing"`}},
		{"not executable", code, handler("locked"), lambent.CodeStartFailed, []string{`"locked"`, "not executable"}},
		{"no program", code, handler("text"), lambent.CodeStartFailed, []string{`"text"`, "exec format error"}},
		{"no bundle", code + "/gone", nil, lambent.CodeCodeUnavailable, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := k.tryStart(t, k.exec, c.code, c.change)
			want(t, err, c.want, c.texts...)
		})
	}
	t.Run("never ready", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := k.exec.Start(ctx, executor.Spec{ID: lambent.NewID(), Revision: revision(t, mode("hang")), CodeDir: k.code, Log: newLogs().add})
		want(t, err, lambent.CodeStartTimeout, "never ready")
	})
	k.clean(t, k.dir)
}

// clean fails when something of the instances of dir is left.
func (k *kit) clean(t testing.TB, dir string) {
	t.Helper()
	if left := k.left(t, dir); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func (k *kit) left(t testing.TB, dir string) []string {
	t.Helper()
	left, err := k.Leftovers(dir)
	if err != nil {
		t.Fatal(err)
	}
	return left
}

func testCloseStopsAll(t *testing.T, k *kit) {
	dir := t.TempDir()
	e, err := k.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	var instances []*running
	for range 3 {
		r, err := k.tryStart(t, e, k.code, nil)
		if err != nil {
			t.Fatal(err)
		}
		instances = append(instances, r)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	for _, r := range instances {
		<-r.Done()
		r.Stop(0)
	}
	if err := e.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
	_, err = k.tryStart(t, e, k.code, nil)
	want(t, err, lambent.CodeShuttingDown)
	k.clean(t, dir)
}

// BuildFixture builds the fixture function into dir, with the handler name "fixture".
func BuildFixture(t testing.TB, dir string) { buildFixture(t, dir) }

func testSweepAfterCrash(t *testing.T, k *kit) {
	bystander := k.start(t, nil) // of another executor
	dir := t.TempDir()
	KillOne(t, dir, k.code)
	if left := k.left(t, dir); len(left) == 0 {
		t.Fatal("the instances did not survive the crash")
	}
	again := *k
	again.exec = k.open(t, dir)
	if a, ok := again.exec.(executor.Adopter); ok {
		if len(k.left(t, dir)) == 0 {
			t.Error("the next executor did not wait whether an instance is to be adopted")
		}
		if err := a.Sweep(); err != nil {
			t.Fatal(err)
		}
	}
	again.clean(t, dir)
	if again.start(t, nil).must(t, "/sleep") != "slept" || bystander.must(t, "/sleep") != "slept" {
		t.Error("an instance does not answer")
	}
}

// testThousandStarts counts what this process and its tier hold before and after.
func testThousandStarts(t *testing.T, k *kit) {
	const parallel = 4
	dir := t.TempDir()
	e := k.open(t, dir)
	start := func(n int) {
		var workers sync.WaitGroup
		for range parallel {
			workers.Go(func() {
				for range n / parallel {
					r, err := k.tryStart(t, e, k.code, func(s *lambent.Settings) { s.Memory = 64 })
					if err != nil {
						t.Errorf("Start: %v", err)
						return
					}
					if status, _, err := r.get(t, "/sleep"); status != 200 || err != nil {
						t.Errorf("GET /sleep: %d, %v", status, err)
					}
					r.Stop(0)
				}
			})
		}
		workers.Wait()
	}
	start(2 * parallel) // what is made once, is made now
	before := settled(t)
	began := time.Now()
	start(starts())
	t.Logf("%d starts, %d at a time, took %v", starts(), parallel, time.Since(began).Round(time.Millisecond))
	eventually(t, 10*time.Second, func() string {
		var lost []string
		after := holdings(t)
		for what, n := range before {
			if after[what] > n {
				lost = append(lost, fmt.Sprintf("%d %s before, %d after", n, what, after[what]))
			}
		}
		return strings.Join(append(lost, k.left(t, dir)...), "; ")
	})
}

// settled gives the holdings once they stay as they are: a tier may make something for the next start, behind this one.
func settled(t testing.TB) map[string]int {
	t.Helper()
	last := holdings(t)
	eventually(t, patience, func() string {
		time.Sleep(300 * time.Millisecond)
		now := holdings(t)
		if maps.Equal(last, now) {
			return ""
		}
		last = now
		return fmt.Sprintf("the holdings are %v, and change", now)
	})
	return last
}

// holdings counts this process's descriptors, mounts and children.
func holdings(t testing.TB) map[string]int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	children := 0
	for _, p := range processes {
		if status, err := os.ReadFile(p); err == nil && strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", os.Getpid())) {
			children++
		}
	}
	return map[string]int{"descriptors": len(fds), "mounts": strings.Count(string(mounts), "\n"), "children": children}
}
