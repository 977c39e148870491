package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"lambent"
	"lambent/executor"
	"lambent/executor/executortest"
)

// TestDial asks for connections that come about, that do not, and that a hostile function lets hang.
func TestDial(t *testing.T) {
	code := t.TempDir()
	executortest.BuildFixture(t, code)
	e, err := New(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	s, err := lambent.Settings{
		Runtime: "http", Command: []string{"./fixture"}, Env: map[string]string{"SERVE": "127.0.0.1", "DEAF": "127.0.0.1:9999"},
	}.Complete()
	if err != nil {
		t.Fatal(err)
	}
	started, err := e.Start(t.Context(), executor.Spec{
		ID: lambent.NewID(), Revision: lambent.NewRevision("default", "dial", s, "", "", time.Now()),
		CodeDir: code, Log: func(lambent.LogLine) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	in := started.(*instance)
	defer in.Stop(0)
	descriptors := func() int {
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", in.pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(open)
	}
	before := descriptors()

	conn, err := in.dialPort(t.Context(), 8080, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.RemoteAddr().String(); got != "127.0.0.1:8080" {
		t.Errorf("connected to %s", got)
	}
	conn.Close()
	for _, port := range []uint16{0, 1, 8081} {
		if _, err := in.dialPort(t.Context(), port, false); err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("port %d: %v", port, err)
		}
	}
	if _, err := in.dialPort(t.Context(), 8081, false); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a port on which nobody listens: %v", err)
	}

	// More than lambent-init serves at a time, for what never comes about: whoever leaves makes room at once.
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() {
			port, wait := uint16(8081), true // nobody listens
			if i%2 == 0 {
				port, wait = 9999, false // listens, with a full queue
			}
			for ctx.Err() == nil {
				if conn, err := in.dialPort(ctx, port, wait); err == nil {
					defer conn.Close() // in the queue, which holds few
				}
			}
		})
	}
	all.Wait()
	began := time.Now()
	if conn, err = in.dialPort(t.Context(), 8080, false); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("a good connection took %v behind those that were given up", took)
	}
	for deadline := time.Now().Add(10 * time.Second); descriptors() > before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("lambent-init has %d descriptors, before %d", descriptors(), before)
		}
	}
}
