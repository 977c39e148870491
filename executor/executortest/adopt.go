package executortest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lambent"
	"lambent/executor"
)

// heir is an executor on the folder of another, which may be dead.
type heir struct {
	kit
	executor.Adopter
}

func (k *kit) inherit(t testing.TB, dir string) *heir {
	t.Helper()
	h := &heir{kit: *k}
	h.exec, h.dir = k.open(t, dir), dir
	var ok bool
	if h.Adopter, ok = h.exec.(executor.Adopter); !ok {
		t.Fatal("the executor is no executor.Adopter")
	}
	return h
}

// adopt adopts an instance that was started with secretsOf its revision.
func (h *heir) adopt(t testing.TB, id string, rev *lambent.Revision, inFlight ...string) (*running, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r := &running{revision: rev, logs: newLogs()}
	in, err := h.Adopt(ctx, executor.Spec{ID: id, Revision: rev, Secrets: secretsOf(rev), Log: r.logs.add}, inFlight)
	if err == nil {
		r.Instance = in
		t.Cleanup(func() { in.Stop(0) })
	}
	return r, err
}

func (h *heir) must(t testing.TB, id string, rev *lambent.Revision, inFlight ...string) *running {
	t.Helper()
	r, err := h.adopt(t, id, rev, inFlight...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// leaves lists the ids of what is left.
func (h *heir) leaves(t testing.TB) []string {
	t.Helper()
	left, err := h.Left()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, l := range left {
		ids = append(ids, l.ID)
	}
	return ids
}

// end sweeps and closes, and checks that nothing is left.
func (h *heir) end(t testing.TB) {
	t.Helper()
	if err := errors.Join(h.Sweep(), h.exec.Close()); err != nil {
		t.Error(err)
	}
	h.clean(t, h.dir)
}

// testAdopt kills a host, adopts what it left, and asks of that what is asked of any instance.
func testAdopt(t *testing.T, k *kit) {
	dir := t.TempDir()
	rev := k.revision(t, func(s *lambent.Settings) { s.Secrets = map[string]string{"TOKEN": "token"} })
	dead := startHost(t, dir)
	var ids []string
	for range 4 {
		ids = append(ids, dead.start(t, k.code, rev))
	}
	before := dead.get(t, ids[0], "/count")
	dead.get(t, ids[0], "/later?ms=300&tag=alone&secret=TOKEN")
	dead.kill()
	h := k.inherit(t, dir)
	if left := h.leaves(t); !slices.Equal(slices.Sorted(slices.Values(left)), slices.Sorted(slices.Values(ids))) {
		t.Fatalf("%v are left, want %v", left, ids)
	}
	left, err := h.Left()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range left {
		if l.Revision.Key() != rev.Key() || !l.Same(secretsOf(rev)) || l.Same(nil) || l.Same(map[string]string{"TOKEN": "other"}) {
			t.Errorf("%s is of %s and tells secrets wrongly", l.ID, l.Revision.Key())
		}
	}
	if _, err := h.Adopt(t.Context(), executor.Spec{ID: ids[0], Revision: rev, Log: newLogs().add}, nil); err == nil {
		t.Error("it was adopted with other secrets")
	}
	r := h.must(t, ids[0], rev)
	if _, err := h.adopt(t, ids[0], rev); !lambent.HasCode(err, lambent.CodeConflict) {
		t.Errorf("adopted once more: %v", err)
	}
	if r.ID() != ids[0] || r.StartPhases().Total() <= 0 {
		t.Errorf("it is %s, and its start took %v", r.ID(), r.StartPhases())
	}
	pid, _, _ := strings.Cut(before, " ")
	if after := r.must(t, "/count"); before != pid+" 1" || after != pid+" 2" {
		t.Errorf("it counted %q before and %q after", before, after)
	}
	if line := r.logs.await(t, "later alone"); strings.Contains(line.Text, secretsOf(rev)["TOKEN"][:8]) || line.Instance != ids[0] || line.Invocation != "" {
		t.Errorf("what was written while nobody was there is %+v", line)
	}
	r.must(t, "/burn?ms=50")
	if u, err := r.Usage(); err != nil || u.CPU <= 0 || u.MemoryPeak <= 0 {
		t.Errorf("its usage is %+v, %v", u, err)
	}
	req := request(t, "GET", "/log?n=2&tag=x", "")
	req.Header.Set("Id", "id-of-the-request")
	if _, _, err := r.do(req); err != nil {
		t.Fatal(err)
	}
	if line := r.logs.await(t, "out x 1"); line.Invocation != "id-of-the-request" {
		t.Errorf("the line is %+v", line)
	}

	exits := h.must(t, ids[1], rev)
	_, _, err = exits.get(t, "/exit?code=3")
	want(t, err, lambent.CodeInstanceExited, "exited with code 3")
	exits.logs.await(t, "exited: exited with code 3")
	if exit := exits.Exit(); exit != (lambent.Exit{Code: 3}) {
		t.Errorf("the exit is %+v", exit)
	}
	full := h.must(t, ids[2], rev)
	if _, late := k.Lacks[MemoryLimit]; late { // it may get more before that is seen
		full.Stop(0)
	} else {
		_, _, err = full.get(t, "/alloc?mb=500")
		want(t, err, lambent.CodeMemoryExceeded, "128 MiB")
		if exit := full.Exit(); !exit.OOM {
			t.Errorf("the exit is %+v", exit)
		}
	}

	if left := h.leaves(t); !slices.Equal(left, ids[3:]) {
		t.Errorf("%v are left, want %v", left, ids[3:])
	}
	fresh := h.start(t, nil) // a user of its own, shims of its own
	if err := h.Sweep(); err != nil {
		t.Fatal(err)
	}
	if left := h.leaves(t); len(left) > 0 {
		t.Errorf("%v are left after the sweep", left)
	}
	if r.must(t, "/count") != pid+" 3" || fresh.must(t, "/sleep") != "slept" {
		t.Error("the sweep took what is in use")
	}
	stopped := time.Now()
	r.Stop(20 * time.Second)
	if exit := r.Exit(); exit != (lambent.Exit{}) || time.Since(stopped) > 10*time.Second {
		t.Errorf("after %v the exit is %+v", time.Since(stopped), exit)
	}
	r.logs.await(t, "goodbye")
	fresh.Stop(0)
	h.end(t)
}

// testAdoptServer adopts servers that are reached in each way.
func testAdoptServer(t *testing.T, k *kit) {
	for _, s := range servings {
		t.Run(s.name, func(t *testing.T) {
			dir := t.TempDir()
			rev := k.served(s.protocol, s.env).revision(t, nil)
			dead := startHost(t, dir)
			id := dead.start(t, k.code, rev)
			before := dead.get(t, id, "/count")
			dead.kill()
			h := k.inherit(t, dir)
			r := h.must(t, id, rev)
			if after := r.must(t, "/count"); after != strings.TrimSuffix(before, "1")+"2" {
				t.Errorf("it counted %q before and %q after", before, after)
			}
			r.Stop(0)
			h.end(t)
		})
	}
}

// testAdoptBusy has instances that serve one request at a time and were doing so when their host died.
func testAdoptBusy(t *testing.T, k *kit) {
	runtimes := slices.DeleteFunc(k.exec.Runtimes(), func(name string) bool { return !strings.HasPrefix(name, "python3.") })
	if len(runtimes) == 0 {
		t.Fatal("there is no Python")
	}
	dir := t.TempDir()
	code := scripts(t, "python")
	rev := k.revision(t, func(s *lambent.Settings) { s.Runtime, s.Handler = runtimes[len(runtimes)-1], "main.handler" })
	once := k.revision(t, func(s *lambent.Settings) { s.Reuse = lambent.ReuseNever })
	dead := startHost(t, dir)
	soon, long, used := dead.start(t, code, rev), dead.start(t, code, rev), dead.start(t, k.code, once)
	for id, target := range map[string]string{soon: "/sleep?1", long: "/sleep?600"} {
		dead.ask(t, order{Do: "fire", ID: id, Target: target, Request: lambent.NewID()})
		eventually(t, patience, func() string {
			if len(dead.ask(t, order{Do: "logs", ID: id}).Lines) == 0 {
				return "the handler has not begun"
			}
			return ""
		})
	}
	dead.kill()
	h := k.inherit(t, dir)
	r := h.must(t, soon, rev)
	if status, body, err := r.do(request(t, "POST", "/echo", "hello")); status != 202 || body != "hello" || err != nil {
		t.Errorf("echo: %d %q, %v", status, body, err)
	}
	for id, rev := range map[string]*lambent.Revision{long: rev, used: once} {
		if _, err := h.adopt(t, id, rev); !lambent.HasCode(err, lambent.CodeConflict) {
			t.Errorf("an instance that may still be working was adopted: %v", err)
		}
		if !slices.Contains(h.leaves(t), id) {
			t.Error("a failed adoption has ended an instance")
		}
	}
	r.Stop(0)
	h.end(t)
}

// testAdoptLastWords has a program that ends while no host is there.
func testAdoptLastWords(t *testing.T, k *kit) {
	dir := t.TempDir()
	rev := k.revision(t, nil)
	dead := startHost(t, dir)
	id := dead.start(t, k.code, rev)
	dead.get(t, id, "/fork?n=1&keep=1")
	dead.get(t, id, "/later?ms=1000&tag=farewell&code=5")
	before := k.left(t, dir)
	dead.kill()
	eventually(t, patience, func() string {
		if left := k.left(t, dir); len(left) > len(before)-2 {
			return fmt.Sprintf("nothing of %v has ended: %v", before, left)
		}
		return ""
	})
	h := k.inherit(t, dir)
	r, err := h.adopt(t, id, rev)
	want(t, err, lambent.CodeInstanceExited, "exited with code 5")
	r.logs.await(t, "later farewell")
	r.logs.await(t, "exited: exited with code 5")
	k.clean(t, dir)
	h.end(t)
}

// many is how many instances testAdoptMany makes: a variable of the environment has another number.
func many(t testing.TB) int {
	if text := os.Getenv("LAMBENT_TEST_ADOPT"); text != "" {
		var n int
		if _, err := fmt.Sscan(text, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	return max(20, 40/slower)
}

// testAdoptMany adopts many at once, stops them, and counts what that took and what is left.
func testAdoptMany(t *testing.T, k *kit) {
	dir := t.TempDir()
	rev := k.revision(t, func(s *lambent.Settings) { s.Memory = 64 })
	dead := startHost(t, dir)
	n := many(t)
	ids := make([]string, n)
	for i := range ids {
		ids[i] = dead.start(t, k.code, rev)
	}
	dead.kill()
	h := k.inherit(t, dir)
	before := holdings(t)
	began := time.Now()
	instances := make([]*running, n)
	var all sync.WaitGroup
	for i, id := range ids[:n-n/4] {
		all.Go(func() {
			r, err := h.adopt(t, id, rev)
			if err != nil {
				t.Error(err)
			}
			instances[i] = r
		})
	}
	all.Wait()
	t.Logf("%d were adopted in %v", n-n/4, time.Since(began).Round(time.Millisecond))
	began = time.Now()
	if err := h.Sweep(); err != nil {
		t.Error(err)
	}
	t.Logf("%d were swept in %v", n/4, time.Since(began).Round(time.Millisecond))
	if t.Failed() {
		return
	}
	for _, r := range instances[:n-n/4] {
		if !strings.HasSuffix(r.must(t, "/count"), " 1") {
			t.Error("an adopted instance does not answer")
		}
		r.Stop(0)
	}
	defer h.end(t)
	eventually(t, patience, func() string {
		var lost []string
		for what, n := range holdings(t) {
			if n > before[what] {
				lost = append(lost, fmt.Sprintf("%d %s before, %d after", before[what], what, n))
			}
		}
		return strings.Join(lost, "; ")
	})
}

// testHandover gives an instance that serves a request from a living host to another.
func testHandover(t *testing.T, k *kit) {
	for _, concurrency := range []int{1, 10} {
		t.Run(fmt.Sprintf("concurrency %d", concurrency), func(t *testing.T) {
			dir := t.TempDir()
			rev := k.revision(t, func(s *lambent.Settings) { s.Concurrency = concurrency })
			old := startHost(t, dir)
			id, idle, dies := old.start(t, k.code, rev), old.start(t, k.code, rev), old.start(t, k.code, rev)
			h := k.inherit(t, dir) // both are there
			old.get(t, id, "/count")
			old.ask(t, order{Do: "begin", ID: id, Target: "/drip?n=20&ms=50&tag=drip", Request: "one"})
			old.ask(t, order{Do: "begin", ID: dies, Target: "/drip?n=1000&ms=100", Request: "two"})
			for _, id := range []string{id, idle, dies} {
				old.ask(t, order{Do: "leave", ID: id})
			}
			r, other := h.must(t, id, rev, "one"), h.must(t, idle, rev)
			if !strings.HasSuffix(other.must(t, "/count"), " 1") {
				t.Error("the idle instance does not answer")
			}
			if concurrency > 1 && !strings.HasSuffix(r.must(t, "/count"), " 2") {
				t.Error("the busy instance does not answer")
			}
			if body := old.ask(t, order{Do: "finish", Request: "one"}).Body; body != strings.Repeat(".", 20) {
				t.Errorf("the request under way got %q", body)
			}
			r.logs.await(t, "drip 19")
			r.Instance.(executor.Adopted).Ended("one")
			r.must(t, "/later?tag=after")
			r.logs.await(t, "later after")
			lines := old.ask(t, order{Do: "logs", ID: id}).Lines
			here := len(lines)
			lines = append(lines, r.logs.all()...)
			drips := 0
			for _, line := range lines {
				if line.Text == fmt.Sprintf("drip %d", drips) {
					drips++
					if line.Invocation != "one" && !slices.Contains(line.InFlight, "one") {
						t.Errorf("the line is %+v", line)
					}
				}
			}
			if drips != 20 || here == 0 || here >= 21 {
				t.Errorf("%d lines of 20 are there in their order, %d of them before: %+v", drips, here, lines)
			}
			gone := h.must(t, dies, rev, "two")
			gone.Stop(0)
			if err := old.try(t, order{Do: "finish", Request: "two"}); !strings.Contains(err, "was ended while it served") {
				t.Errorf("the request of an instance that was stopped by its new host gives %q", err)
			}
			old.ask(t, order{Do: "close"})
			if !strings.HasSuffix(other.must(t, "/count"), " 2") {
				t.Error("the old host's end has ended an instance that it had left")
			}
			r.Stop(0)
			other.Stop(0)
			old.kill()
			h.end(t)
		})
	}
}
