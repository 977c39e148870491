package durability

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lambent"
	"lambent/client"
	"lambent/test/fault"
)

const hello = `
def handler(event, context):
    print("x" * 1000)
    return {"statusCode": 200, "body": "hello"}
`

// Somebody else fills the disk to the last byte. Who wants to change something is told, functions go on, also those that
// have to be started, and all works again when there is room, in the same process.
func TestFullDisk(t *testing.T) {
	if !fault.Namespace(t) {
		return
	}
	disk, err := fault.MountDisk(t.TempDir(), 400<<20)
	check(t, err)
	testFullDisk(t, disk)
}

func testFullDisk(t *testing.T, disk *fault.Disk) {
	t.Cleanup(func() { check(t, disk.Close()) })
	n, err := start(t, filepath.Join(disk.Dir, "data"), nil)
	check(t, err)
	ctx := t.Context()
	check(t, n.python(ctx, "warm", hello, nil))
	check(t, n.python(ctx, "cold", hello, func(s *lambent.Settings) { s.Reuse = lambent.ReuseNever })) // a start for each request
	code, err := n.upload(ctx, "main.py", strings.Replace(hello, "hello", "not yet", 1))
	check(t, err)

	check(t, disk.Fill(0))
	var calls atomic.Int64
	var running sync.WaitGroup
	calling, stop := context.WithCancel(ctx)
	for _, name := range []string{"warm", "cold"} {
		running.Go(func() {
			for calling.Err() == nil {
				status, body, err := n.call(ctx, "/fn/"+name)
				if err != nil || status != 200 || body != "hello" {
					t.Errorf("%s on a full disk: %d %s, %v", name, status, body, err)
					return
				}
				calls.Add(1)
			}
		})
	}
	await(t, "event of the full disk", func() bool { return n.has(lambent.EventStorageFull) })
	for what, write := range map[string]func() error{
		"upload": func() error { _, err := n.upload(ctx, "main.py", "pass"); return err },
		"deploy": func() error {
			_, err := n.client.Deploy(ctx, client.Deploy{Namespace: "default", Name: "f", Settings: lambent.Settings{Runtime: "python"}, Code: code})
			return err
		},
		"publish": func() error { _, err := n.client.Publish(ctx, "default", "warm", ""); return err },
		"secret":  func() error { _, err := n.client.SetSecret(ctx, "default", "s", strings.NewReader("v")); return err },
		"rotate":  func() error { _, err := n.client.RotateSecrets(ctx); return err },
		"key":     func() error { _, err := n.client.CreateKey(ctx, "default", "k", lambent.RoleInvoke); return err },
		"route": func() error {
			_, err := n.client.SetRoute(ctx, client.SetRoute{Namespace: "default", Name: "r", Spec: lambent.RouteSpec{Path: "/r", Function: "warm"}})
			return err
		},
		"rm function": func() error { return n.client.Delete(ctx, "default", "warm", 0) },
	} {
		begin := time.Now()
		e := lambent.ErrorOf(write())
		if e == nil || e.Code != lambent.CodeStorageFull || e.Status() != 507 || e.Hint == "" || time.Since(begin) > 2*time.Second {
			t.Errorf("%s on a full disk: %+v after %s", what, e, time.Since(begin))
		}
	}
	before := calls.Load()
	await(t, "calls on a full disk", func() bool { return calls.Load() > before+50 })

	check(t, disk.Free())
	freed := time.Now()
	await(t, "deploy after the disk was full", func() bool { return n.python(ctx, "late", hello, nil) == nil })
	took := time.Since(freed)
	await(t, "event of the free disk", func() bool { return n.has(lambent.EventStorageFree) })
	stop()
	running.Wait()
	for _, name := range []string{"late", "cold"} {
		answer, err := n.client.Invoke(ctx, "default", name, "application/json", strings.NewReader("{}"))
		check(t, err)
		check(t, answer.Body.Close())
		await(t, "record of a call after the disk was full", func() bool { _, err := n.client.Invocation(ctx, answer.Invocation); return err == nil })
		await(t, "line of a log after the disk was full", func() bool {
			for line, err := range n.client.Logs(ctx, "default", name, client.LogQuery{Tail: 10}) {
				if err == nil && line.Invocation == answer.Invocation {
					return true
				}
			}
			return false
		})
	}
	t.Logf("%d calls, a deploy succeeded %s after there was room", calls.Load(), took)
	n.kill()
	n, err = start(t, n.dir, nil)
	check(t, err)
	for _, name := range []string{"warm", "cold", "late"} {
		if status, body, err := n.call(ctx, "/fn/"+name); err != nil || status != 200 {
			t.Errorf("%s after a restart: %d %s, %v", name, status, body, err)
		}
	}
	check(t, n.stop())
}

func (n *node) has(kind lambent.EventKind) bool {
	for e, err := range n.client.SystemEvents(n.t.Context(), client.EventQuery{Kind: kind, Limit: 10}) {
		if err == nil && e.Kind == kind {
			return true
		}
	}
	return false
}

// A node that is killed while its disk is full starts on the full disk, and serves what it can.
func TestStartOnFullDisk(t *testing.T) {
	if !fault.Namespace(t) {
		return
	}
	disk, err := fault.MountDisk(t.TempDir(), 400<<20)
	check(t, err)
	t.Cleanup(func() { check(t, disk.Close()) })
	n, err := start(t, filepath.Join(disk.Dir, "data"), nil)
	check(t, err)
	ctx := t.Context()
	check(t, n.python(ctx, "f", hello, nil))
	check(t, disk.Fill(0))
	n.kill()
	host := func(url string) string { return strings.TrimPrefix(url, "http://") }
	n, err = start(t, n.dir, nil, "--listen", host(n.at.Functions), "--control", host(n.at.Control))
	check(t, err)
	if status, body, err := n.call(ctx, "/fn/f"); err != nil || status != 200 {
		t.Errorf("%d %s, %v", status, body, err)
	}
	check(t, disk.Free())
	await(t, "deploy after the disk was full", func() bool { return n.python(ctx, "late", hello, nil) == nil })
	check(t, n.stop())
}

// Every eleventh sync fails, and the disk loses what it should have written. Whoever changes something tries again until it
// is acknowledged; what is then is there after a kill.
func TestFailingDisk(t *testing.T) {
	ref := reference(t)
	dir := t.TempDir()
	var syncs atomic.Int64
	n, err := start(t, dir, func(*fault.Call) fault.Verdict { return fault.Verdict{} })
	check(t, err)
	n.faults.SetRule(func(c *fault.Call) fault.Verdict {
		if c.Name == "fsync" && syncs.Add(1)%11 == 0 {
			return fault.Verdict{Errno: syscall.EIO, Lose: true}
		}
		return fault.Verdict{}
	})
	failures := 0
	for _, s := range script {
		begin := failures
		await(t, s.name, func() bool {
			err := s.do(t.Context(), n)
			if err != nil {
				failures++
			}
			// An attempt that failed may have been done.
			return err == nil || failures > begin+1 && (lambent.HasCode(err, lambent.CodeConflict) || lambent.HasCode(err, lambent.CodeNotFound))
		})
	}
	if failures == 0 {
		t.Error("nothing failed")
	}
	n.kill()
	n, err = start(t, dir, nil)
	check(t, err)
	// What was tried again may have been done more than once.
	once := func(state string) string { return regexp.MustCompile(`version [0-9]+`).ReplaceAllString(state, "") }
	if got, want := once(observe(t, n)), once(ref.state[len(ref.state)-1]); got != want {
		t.Errorf("after a kill there is\n%s, want\n%s", got, want)
	}
	check(t, n.stop())
	n.wantNoLeftovers()
	t.Logf("%d syncs, %d requests failed", syncs.Load(), failures)
}

// On a slow disk changes take their time, and invocations do not wait for any of it.
func TestSlowDisk(t *testing.T) {
	const slow = 200 * time.Millisecond
	n, err := start(t, t.TempDir(), func(*fault.Call) fault.Verdict { return fault.Verdict{} })
	check(t, err)
	ctx := t.Context()
	check(t, n.python(ctx, "f", hello, nil))
	n.faults.SetRule(func(c *fault.Call) fault.Verdict {
		switch c.Name {
		case "fsync", "fdatasync", "syncfs":
			return fault.Verdict{Delay: slow}
		}
		return fault.Verdict{}
	})
	deployed := make(chan error, 1)
	go func() {
		var err error
		for i := range 3 {
			err = errors.Join(err, n.python(ctx, "g", strings.Replace(hello, "hello", fmt.Sprint(i), 1), nil))
		}
		deployed <- err
	}()
	var times []time.Duration
	begin := time.Now()
	for {
		select {
		case err := <-deployed:
			check(t, err)
			slices.Sort(times)
			p99 := times[len(times)*99/100]
			t.Logf("%d calls during three deploys in %s, p99 %s", len(times), time.Since(begin), p99)
			if p99 > slow {
				t.Errorf("invocations wait for the disk: p99 is %s", p99)
			}
			check(t, n.stop())
			return
		default:
		}
		at := time.Now()
		status, body, err := n.call(ctx, "/fn/f")
		if err != nil || status != 200 {
			t.Fatalf("%d %s, %v", status, body, err)
		}
		times = append(times, time.Since(at))
	}
}
