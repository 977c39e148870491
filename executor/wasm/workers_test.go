package wasm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lambent"
	"lambent/executor"
	"lambent/internal/sandbox"
)

// bed is an executor and the fixture.
type bed struct {
	node
	code string
}

// newBed makes one of a bundle with fixture.wasm.
func newBed(t testing.TB, code string) *bed {
	t.Helper()
	b := &bed{code: code}
	var err error
	if b.node, err = open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// built is the folder of the built fixture.
func built(t testing.TB) string {
	dir := t.TempDir()
	buildFixture(t, dir)
	return dir
}

func revision(t testing.TB, namespace string, change func(*lambent.Settings)) *lambent.Revision {
	t.Helper()
	s := lambent.Settings{Runtime: "wasm", Handler: "fixture.wasm"}
	if change != nil {
		change(&s)
	}
	s, err := s.Complete()
	if err != nil {
		t.Fatal(err)
	}
	return lambent.NewRevision(namespace, "fixture", s, "sha256:"+strings.Repeat("0", 64), "root", time.Now())
}

// subject is an instance with what its log holds.
type subject struct {
	executor.Instance
	revision *lambent.Revision
	mu       sync.Mutex
	lines    []lambent.LogLine
}

func (b *bed) try(t testing.TB, code string, rev *lambent.Revision) (*subject, error) {
	t.Helper()
	g := &subject{revision: rev}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var err error
	g.Instance, err = b.Start(ctx, executor.Spec{ID: lambent.NewID(), Revision: rev, CodeDir: code, Log: func(l lambent.LogLine) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.lines = append(g.lines, l)
	}})
	return g, err
}

func (b *bed) start(t testing.TB, namespace string, change func(*lambent.Settings)) *subject {
	t.Helper()
	g, err := b.try(t, b.code, revision(t, namespace, change))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Stop(0) })
	return g
}

func (g *subject) invocation(method, target, body string) *lambent.Invocation {
	inv := &lambent.Invocation{ID: lambent.NewID(), Revision: g.revision, Trigger: lambent.TriggerHTTP, Accepted: time.Now(),
		Method: method, Target: target, Host: "fixture.test", Header: http.Header{}}
	if body != "" {
		inv.Body, inv.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
	return inv
}

// do gives the body of the answer.
func (g *subject) do(inv *lambent.Invocation) (string, error) {
	resp, err := g.Handle(context.Background(), inv, time.Now().Add(5*time.Minute))
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(resp.Body)
	return string(text), errors.Join(err, resp.Body.Close())
}

func (g *subject) get(t testing.TB, target string) string {
	t.Helper()
	text, err := g.do(g.invocation("GET", target, ""))
	if err != nil {
		t.Fatalf("GET %s: %v", target, err)
	}
	return text
}

func (g *subject) said() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all strings.Builder
	for _, l := range g.lines {
		fmt.Fprintf(&all, "%s: %s\n", l.Stream, l.Text)
	}
	return all.String()
}

// workers gives the pids of the workers below this process.
func workers(t testing.TB) map[int]bool {
	t.Helper()
	found := map[int]bool{}
	for _, pid := range sandbox.Below(os.Getpid()) {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.HasPrefix(string(raw), workerName+"\x00") {
			found[pid] = true
		}
	}
	return found
}

// await waits for n workers.
func await(t testing.TB, n int) map[int]bool {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(2 * time.Millisecond) {
		found := workers(t)
		if len(found) == n {
			return found
		}
		if time.Now().After(deadline) {
			t.Fatalf("there are the workers %v, want %d", found, n)
		}
	}
}

// serve starts the first instance of a bed, and gives the pid of its worker: the older one, as the spare was started for
// the one that has become the worker.
func (b *bed) serve(t *testing.T, namespace string) (*subject, int) {
	t.Helper()
	g := b.start(t, namespace, nil)
	two := slices.Collect(maps.Keys(await(t, 2)))
	return g, slices.MinFunc(two, func(a, b int) int { return cmp.Compare(begun(t, a), begun(t, b)) })
}

// begun is when a process was started, in ticks.
func begun(t testing.TB, pid int) (ticks int64) {
	t.Helper()
	stat, err := sandbox.Stat(pid)
	if err != nil {
		t.Fatal(err)
	}
	if ticks, err = strconv.ParseInt(stat[19], 10, 64); err != nil {
		t.Fatal(err)
	}
	return ticks
}

// TestWorkerDies kills a worker with requests that its guests have begun, and then one with requests that it has not looked at.
func TestWorkerDies(t *testing.T) {
	b := newBed(t, built(t))
	g, pid := b.serve(t, "default")
	var all sync.WaitGroup
	failures := make(chan error, 16)
	for range cap(failures) {
		resp, err := g.Handle(t.Context(), g.invocation("GET", "/drip?n=1&stall=1", ""), time.Now().Add(5*time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			_, err := io.ReadAll(resp.Body)
			failures <- err
			if err := resp.Body.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	again := b.start(t, "default", nil)
	if text := again.get(t, "/sleep"); text != "slept" {
		t.Errorf("the next worker says %q", text)
	}
	t.Logf("the next worker answers after %v", time.Since(killed)) // make bench-wasm says how soon it must
	all.Wait()
	close(failures)
	for err := range failures {
		if e := lambent.ErrorOf(err); e == nil || e.Code != lambent.CodeInstanceExited || e.Fault != lambent.FaultFunction ||
			!strings.Contains(e.Message, "killed by SIGKILL") || errors.Is(err, executor.ErrNotSent) {
			t.Errorf("a request that was begun failed with %v", err)
		}
	}
	<-g.Done()
	if exit := g.Exit(); exit != (lambent.Exit{Signal: "SIGKILL"}) || !strings.Contains(g.said(), "lambent: exited: killed by SIGKILL\n") {
		t.Errorf("its instance: %+v, %s", exit, g.said())
	}
}

func TestUnstartedRequestsAreGivenBack(t *testing.T) {
	b := newBed(t, built(t))
	g, pid := b.serve(t, "default")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for stat := []string{""}; stat[0] != "T"; {
		var err error
		if stat, err = sandbox.Stat(pid); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			body := strings.Repeat("x", 1+i*1000)
			inv := g.invocation("POST", "/echo", body)
			_, err := g.do(inv)
			if !errors.Is(err, executor.ErrNotSent) || !lambent.HasCode(err, lambent.CodeInstanceExited) {
				t.Errorf("a request that nobody has seen failed with %v", err)
				return
			}
			if text, err := io.ReadAll(inv.Body); string(text) != body || err != nil {
				t.Errorf("its body is %d bytes of %d, %v", len(text), len(body), err)
			}
		})
	}
	for deadline := time.Now().Add(time.Minute); g.Instance.(*instance).underWay() < 8; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the requests are not under way")
		}
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	if _, err := g.do(g.invocation("GET", "/sleep", "")); !errors.Is(err, executor.ErrNotSent) || !lambent.HasCode(err, lambent.CodeInstanceExited) {
		t.Errorf("a request after the end: %v", err)
	}
}

func (in *instance) underWay() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.calls
}

// TestNamespacesShareNoWorker kills the worker of one.
func TestNamespacesShareNoWorker(t *testing.T) {
	b := newBed(t, built(t))
	one, pid := b.serve(t, "one")
	same, other := b.start(t, "one", nil), b.start(t, "other", nil)
	await(t, 3)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-one.Done()
	<-same.Done()
	if text := other.get(t, "/sleep"); text != "slept" {
		t.Errorf("the other namespace says %q", text)
	}
	await(t, 2)
}

// TestIdleWorkerLeaves ends the worker of a namespace without programs, and never gives it to another.
func TestIdleWorkerLeaves(t *testing.T) {
	b := newBed(t, built(t))
	b.idleTime = 50 * time.Millisecond
	g, pid := b.serve(t, "one")
	g.Stop(0)
	left := await(t, 1)
	if left[pid] {
		t.Error("the spare has left, and the one that is not needed is there")
	}
	if text := b.start(t, "one", nil).get(t, "/count"); text != "1" {
		t.Errorf("the next says %q", text)
	}
}

// TestWorkerIsConfined looks at a worker from outside.
func TestWorkerIsConfined(t *testing.T) {
	b := newBed(t, built(t))
	_, pid := b.serve(t, "default")
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	status := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(line, ":")
		status[key] = strings.Join(strings.Fields(value), " ")
	}
	for key, want := range map[string]string{"NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0000000000000000", "CapBnd": "0000000000000000"} {
		if status[key] != want {
			t.Errorf("%s is %s, want %s", key, status[key], want)
		}
	}
	if os.Geteuid() == 0 && (strings.HasPrefix(status["Uid"], "0 ") || status["Groups"] != "") {
		t.Errorf("it is user %s with the groups %q", status["Uid"], status["Groups"])
	}
	for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts"} {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		ours, oerr := os.Readlink("/proc/self/ns/" + ns)
		if err = errors.Join(err, oerr); err != nil || theirs == ours {
			t.Errorf("the namespace %s is ours: %v", ns, err)
		}
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		writable := fields[4] == "/tmp" || fields[4] == "/dev/shm"
		if !writable && !slices.Contains(strings.Split(fields[5], ","), "ro") {
			t.Errorf("it can write to %s", fields[4])
		}
	}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, b.dir) {
			t.Errorf("it holds %s open", target)
		}
	}
}

// TestMakeRoom has a worker with room for two programs.
func TestMakeRoom(t *testing.T) {
	b := newBed(t, built(t))
	first := b.start(t, "default", nil)
	size := first.Instance.(*instance).size
	b.mu.Lock()
	b.room = size * 5 / 2
	b.mu.Unlock()
	busy, err := first.Handle(t.Context(), first.invocation("GET", "/drip?n=1&stall=1", ""), time.Now().Add(5*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Body.Close()
	idle, next := b.start(t, "default", nil), b.start(t, "default", nil)
	<-idle.Done()
	if exit := idle.Exit(); !exit.Evicted || !strings.Contains(exit.Err, "unloaded") {
		t.Errorf("the exit of the idle one is %+v", exit)
	}
	for _, g := range []*subject{first, next} {
		if text := g.get(t, "/sleep"); text != "slept" {
			t.Errorf("one that was to stay says %q", text)
		}
	}
}
