package wasm

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lambent"
	"lambent/executor"
	"lambent/executor/wasm/internal/artefact"
	"lambent/executor/wasm/internal/moduletest"
)

// TestRequestsEndAlone has requests fail in many ways: the instance serves the next, which sees nothing of them.
func TestRequestsEndAlone(t *testing.T) {
	b := newBed(t, built(t))
	settings := func(s *lambent.Settings) { s.Memory, s.MaxOutput = 48, 1000 }
	g := b.start(t, "default", settings)
	short := b.start(t, "default", func(s *lambent.Settings) {
		settings(s)
		s.Timeouts.CPU = lambent.Duration(100 * time.Millisecond)
	})
	for _, c := range []struct {
		name         string
		g            *subject
		target, body string
		total        time.Duration
		code         lambent.Code
		fault        lambent.Fault
	}{
		{"exits", g, "/exit?code=3", "", 0, lambent.CodeHandlerError, lambent.FaultFunction},
		{"exits in its answer", g, "/exit?code=3&begin=1", "", 0, lambent.CodeHandlerError, lambent.FaultFunction},
		{"takes too much memory", g, "/alloc?mb=100", "", 0, lambent.CodeMemoryExceeded, lambent.FaultLimit},
		{"takes too much processor time", short, "/burn?ms=600000", "", 0, lambent.CodeCpuExceeded, lambent.FaultLimit},
		{"answers too much", g, "/echo", strings.Repeat("x", 2000), 0, lambent.CodeOutputTooLarge, lambent.FaultLimit},
		{"sleeps too long", g, "/sleep?ms=600000", "", 300 * time.Millisecond, lambent.CodeTotalTimeout, lambent.FaultLimit},
	} {
		t.Run(c.name, func(t *testing.T) {
			inv := c.g.invocation("POST", c.target, c.body)
			total := c.total
			if total == 0 {
				total = 5 * time.Minute
			}
			resp, err := c.g.Handle(t.Context(), inv, time.Now().Add(total))
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				err = errors.Join(err, resp.Body.Close())
			}
			if e := lambent.ErrorOf(err); e == nil || e.Code != c.code || e.Fault != c.fault {
				t.Errorf("it failed with %v", err)
			}
			if text := c.g.get(t, "/count"); text != "1" {
				t.Errorf("the next request is number %s in its memory", text)
			}
		})
	}
	if !strings.Contains(g.said(), "stdout: last words\n") {
		t.Errorf("the log is %s", g.said())
	}
}

// TestOutcome is about what a request has used, which its record tells.
func TestOutcome(t *testing.T) {
	b := newBed(t, built(t))
	g := b.start(t, "default", nil)
	inv := g.invocation("POST", "/echo", "hello")
	if text, err := g.do(inv); text != "hello" || err != nil {
		t.Fatal(text, err)
	}
	if out := inv.Outcome; out.BytesIn != 5 || out.BytesOut != 5 || out.CPU <= 0 || out.Memory < 1<<16 {
		t.Errorf("%+v", out)
	}
	inv = g.invocation("GET", "/burn?ms=300", "")
	if _, err := g.do(inv); err != nil {
		t.Fatal(err)
	}
	if inv.Outcome.CPU <= 0 {
		t.Error("300 ms of work took no time")
	}
	if u, err := g.Usage(); err != nil || u.CPU < inv.Outcome.CPU || u.MemoryPeak < inv.Outcome.Memory {
		t.Errorf("the usage is %+v, %v", u, err)
	}
}

// TestStop has a request that ends in the grace, and one that does not.
func TestStop(t *testing.T) {
	b := newBed(t, built(t))
	for _, c := range []struct {
		target string
		grace  time.Duration
		code   lambent.Code
	}{{"/sleep?ms=300", time.Minute, ""}, {"/sleep?ms=600000", 100 * time.Millisecond, lambent.CodeInstanceStopped}} {
		g := b.start(t, "default", nil)
		failed := make(chan error, 1)
		go func() { _, err := g.do(g.invocation("GET", c.target, "")); failed <- err }()
		for g.Instance.(*instance).underWay() == 0 && len(failed) == 0 {
			time.Sleep(time.Millisecond)
		}
		g.Stop(c.grace)
		if err := <-failed; c.code == "" && err != nil || c.code != "" && !lambent.HasCode(err, c.code) {
			t.Errorf("the request failed with %v", err)
		}
		if exit := g.Exit(); exit != (lambent.Exit{}) {
			t.Errorf("its exit is %+v", exit)
		}
		if _, err := g.do(g.invocation("GET", "/sleep", "")); !errors.Is(err, executor.ErrNotSent) || !lambent.HasCode(err, lambent.CodeInstanceStopped) {
			t.Errorf("a request after the end: %v", err)
		}
	}
}

// TestStartIsGivenUp has a caller that leaves while the module is compiled.
func TestStartIsGivenUp(t *testing.T) {
	b := newBed(t, built(t))
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := b.Start(ctx, executor.Spec{ID: lambent.NewID(), Revision: revision(t, "default", nil), CodeDir: b.code, Log: func(lambent.LogLine) {}})
	if !lambent.HasCode(err, lambent.CodeStartTimeout) {
		t.Errorf("got %v", err)
	}
	if text := b.start(t, "default", nil).get(t, "/count"); text != "1" {
		t.Errorf("the next says %q", text)
	}
}

// TestFields has fields that are not the function's to see or to say.
func TestFields(t *testing.T) {
	b := newBed(t, built(t))
	g := b.start(t, "default", nil)
	inv := g.invocation("POST", "/echo?a=b", "x")
	inv.Header["Many"] = []string{"one", "two"}
	inv.Header["Connection"], inv.Header["Content-Length"] = []string{"close"}, []string{"1"}
	inv.Header["Lambent-Invocation"] = []string{"forged"}
	resp, err := g.Handle(t.Context(), inv, time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Status != 202 || !slices.Equal(resp.Header["Many"], []string{"one", "two"}) || resp.Header.Get("Target") != "/echo?a=b" || resp.Header["Connection"] != nil {
		t.Errorf("%d %v", resp.Status, resp.Header)
	}
}

// TestDamagedArtefact has a disk that gives back something else: it is made again.
func TestDamagedArtefact(t *testing.T) {
	b := newBed(t, hello(t))
	b.start(t, "default", nil)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	native, err := filepath.Glob(filepath.Join(b.dir, "wasm", "default", "*", artefact.NativeFile))
	if len(native) != 1 || err != nil {
		t.Fatal(native, err)
	}
	if err := errors.Join(os.Chmod(native[0], 0o644), os.WriteFile(native[0], []byte("damaged"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if b.node, err = open(b.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := b.try(t, b.code, revision(t, "default", nil)); !lambent.HasCode(err, lambent.CodeSandboxFailed) {
		t.Errorf("a damaged one: %v", err)
	}
	if text := b.start(t, "default", nil).get(t, "/"); text != "hello\n" {
		t.Errorf("the one made again says %q", text)
	}
}

// TestDiskIsSpared has artefacts that are too large: nothing of them is kept.
func TestDiskIsSpared(t *testing.T) {
	b := newBed(t, "")
	fill := moduletest.Command([][]byte{moduletest.Body(), moduletest.Body( // 512 MiB
		0x41, 0xff, 0x3f, 0x40, 0, 0x1a, 0x41, 0, 0x41, 1, 0x41, 0x80, 0x80, 0x80, 0x80, 2, 0xfc, 11, 0)},
		moduletest.Section(5, []byte{1, 0, 1}), moduletest.Section(8, []byte{1}))
	bomb := t.TempDir()
	if err := errors.Join(os.Chmod(bomb, 0o755), os.WriteFile(filepath.Join(bomb, "fixture.wasm"), fill, 0o644)); err != nil {
		t.Fatal(err)
	}
	full := lambent.Errorf(lambent.CodeStorageFull, "as a test")
	for _, c := range []struct {
		name   string
		code   string
		memory int
		space  error
		want   lambent.Code
	}{
		{"more than its memory", bomb, 128, nil, lambent.CodeStartFailed},
		{"a large image", bomb, 1024, nil, lambent.CodeStartFailed},
		{"a full disk", hello(t), 128, full, lambent.CodeStorageFull},
	} {
		b.space = func(int64) error { return c.space }
		_, err := b.try(t, c.code, revision(t, "default", func(s *lambent.Settings) { s.Memory = c.memory }))
		if !lambent.HasCode(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if left, err := os.ReadDir(filepath.Join(b.dir, "wasm", "default")); len(left) > 0 || err != nil {
			t.Errorf("%s leaves %v, %v", c.name, left, err)
		}
	}
}
