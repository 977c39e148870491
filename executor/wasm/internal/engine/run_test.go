package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"lambent/executor/wasm/internal/abi"
)

func to(target string, body ...string) *abi.Call {
	c := &abi.Call{Method: "POST", Target: target, Host: "test", Proto: "HTTP/1.1", Length: -1}
	if body != nil {
		c.Body = strings.NewReader(body[0])
	}
	return c
}

// TestPristine: no call sees what another left.
func TestPristine(t *testing.T) {
	e := open(t, Options{})
	p := load(t, e, cGuest(t), 16<<20)
	for i := range 300 {
		for _, want := range []struct{ target, body, answer string }{
			{"/count", "", "42"}, {"/echo", "hello", "hello"}, {"/hide", fmt.Sprintf("a secret %d!", i), "*"},
			{"/find", fmt.Sprintf("a secret %d!", i), "0"},
		} {
			got, usage, err := call(t, p, to(want.target, want.body), Limits{})
			if err != nil || got != want.answer && want.answer != "*" {
				t.Fatalf("%s: %q, %v; want %q", want.target, got, err, want.answer)
			}
			if usage.Memory < int64(p.meta.Pages)*wasmPage || usage.CPU <= 0 {
				t.Fatalf("usage %+v", usage)
			}
		}
	}
}

// TestEnds: what ends a guest, and that the next call is none the wiser.
func TestEnds(t *testing.T) {
	e := open(t, Options{})
	p := load(t, e, cGuest(t), 16<<20)
	for _, test := range []struct {
		target string
		limits Limits
		want   string
	}{
		{"/trap", Limits{}, "unreachable"},
		{"/outside", Limits{}, "out of bounds memory access"},
		{"/deep", Limits{}, "stack overflow"},
		{"/bomb", Limits{}, "memory: the guest failed (unreachable) after it had asked for more memory than it may have"},
		{"/loop", Limits{Deadline: time.Now().Add(20 * time.Millisecond)}, "deadline: the deadline has passed"},
		{"/loop", Limits{CPU: 20 * time.Millisecond}, "cpu: its processor time of 20ms is used up"},
		{"/fill", Limits{CPU: 20 * time.Millisecond}, "cpu: its processor time of 20ms is used up"},
	} {
		got, usage, err := call(t, p, to(test.target), test.limits)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %q, %v; want %q", test.target, got, err, test.want)
		}
		t.Logf("%s: %v, %v", test.target, err, usage)
		if got, _, err := call(t, p, to("/count"), Limits{}); got != "42" {
			t.Errorf("after %s: %q, %v", test.target, got, err)
		}
	}
}

// TestDrip: what a guest has said goes out while it computes.
func TestDrip(t *testing.T) {
	p := load(t, open(t, Options{}), cGuest(t), 16<<20)
	ctx, leave := context.WithCancel(t.Context())
	c, got := to("/drip", "early"), ""
	c.Kind, c.Respond = p.kind, func(int, []abi.Field, int64) error { return nil }
	c.Write = func(b []byte) (int, error) { got += string(b); leave(); return len(b), nil }
	p.Run(ctx, c, Limits{}, func(_ Usage, err error) {
		if got != "early" || reason(err) != Cancelled {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// TestCancel: guests in loops end soon after their context does, whether they run or wait for their turn.
func TestCancel(t *testing.T) {
	e := open(t, Options{Tokens: 1})
	p := load(t, e, cGuest(t), 16<<20)
	for range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		for range 3 {
			go func() {
				_, _, err := callWith(ctx, p, to("/loop"), Limits{Deadline: time.Now().Add(time.Hour)})
				ended <- err
			}()
		}
		time.AfterFunc(10*time.Millisecond, cancel)
		for range 3 {
			if err := <-ended; reason(err) != Cancelled {
				t.Fatal(err)
			}
		}
	}
}
