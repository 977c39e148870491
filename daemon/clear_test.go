package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/dispatch"
	"lambent/executor"
	"lambent/gateway/route"
	"lambent/internal/handover"
	"lambent/observe/metric"
)

// estate is an executor that other processes have left instances: "dead" is one that has ended. Its Sweep goes on until
// the channel is closed.
type estate struct {
	executor.Runner
	sweeping chan struct{}
}

func (e *estate) Left() ([]executor.Left, error) { return nil, nil }
func (e *estate) Sweep() error                   { <-e.sweeping; return nil }
func (e *estate) Adopt(_ context.Context, spec executor.Spec, _ []string) (executor.Adopted, error) {
	time.Sleep(20 * time.Millisecond) // it takes its time, while the process before ends
	if spec.ID == "dead" {
		return nil, lambent.Errorf(lambent.CodeInstanceExited, "the function's process exited")
	}
	return &left{id: spec.ID, done: make(chan struct{})}, nil
}

type left struct {
	executor.Adopted
	id   string
	done chan struct{}
	end  sync.Once
}

func (l *left) ID() string                  { return l.id }
func (l *left) StartPhases() lambent.Phases { return lambent.Phases{} }
func (l *left) Done() <-chan struct{}       { return l.done }
func (l *left) Exit() lambent.Exit          { return lambent.Exit{} }
func (l *left) Ended(string)                { time.Sleep(20 * time.Millisecond) }
func (l *left) Stop(time.Duration)          { l.end.Do(func() { close(l.done) }) }

// testNode is as much of a node as deals with other processes.
func testNode(t *testing.T, e *estate) *node {
	n := &node{log: slog.New(slog.DiscardHandler), past: newPast(), table: route.New(), runner: e, cleared: make(chan struct{})}
	n.metrics = metric.New(metric.Options{})
	n.dispatch = dispatch.New(dispatch.Options{Event: n.event})
	t.Cleanup(func() { n.dispatch.Close(context.Background()) })
	n.stopping, n.stop = context.WithCancel(t.Context())
	t.Cleanup(n.stop)
	return n
}

// tell speaks to n as the process before it, whose place it has taken, and ends.
func (n *node) tell(t *testing.T, messages ...message) {
	t.Helper()
	theirs, ours, err := handover.Pair()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(ours.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("LAMBENT_HANDOVER", fmt.Sprint(fd))
	conn, err := handover.Inherited()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if err := json.NewEncoder(theirs).Encode(map[string]message{"message": m}); err != nil {
			t.Fatal(err)
		}
	}
	n.before = newPredecessor(conn)
	theirs.Close()
}

// While what processes before have left is adopted or swept no other process gets anything: the sweep would end it.
func TestUpgradeWaitsForTheSweep(t *testing.T) {
	for name, clear := range map[string]func(t *testing.T, n *node){
		"after a crash": func(t *testing.T, n *node) { t.Cleanup(n.adoptLeft(t.Context()).end) },
		"after an upgrade": func(t *testing.T, n *node) {
			n.tell(t)
			n.hearing.Go(n.hear)
			t.Cleanup(n.hearing.Wait)
			<-n.before.gone
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := &estate{sweeping: make(chan struct{})}
			n := testNode(t, e)
			clear(t, n)
			o := UpgradeOptions{Binary: "/nonexistent", Step: 10 * time.Millisecond}
			_, err := n.upgrade(t.Context(), o, func(string) {})
			if !lambent.HasCode(err, lambent.CodeConflict) || !strings.Contains(err.Error(), "still being adopted") {
				t.Errorf("during the sweep: %v", err)
			}
			close(e.sweeping)
			o.Step = time.Minute
			if _, err := n.upgrade(t.Context(), o, func(string) {}); !lambent.HasCode(err, lambent.CodeUpgradeFailed) {
				t.Errorf("after the sweep: %v", err)
			}
		})
	}
}

// What the process before said last counts, although it has ended since: the end of a request, of which the instance is
// ready for the next. Whoever it gave in vain is told of.
func TestHear(t *testing.T) {
	e := &estate{sweeping: make(chan struct{})}
	close(e.sweeping)
	n := testNode(t, e)
	rev := &lambent.Revision{ID: "r", Namespace: "default", Function: "f"}
	rev.Settings.Concurrency, rev.Settings.KeepAlive = 1, lambent.Duration(time.Hour)
	n.table.Set(&lambent.Function{Namespace: "default", Name: "f", Latest: rev})
	n.tell(t,
		message{Given: &given{"ready", rev, []string{"1"}}}, message{Given: &given{"dead", rev, nil}},
		message{Step: saysSettled}, message{Ended: &ended{"ready", "1", false}})
	n.hear()
	var events []string
	messages, _ := n.past.away.take()
	for _, m := range messages {
		events = append(events, fmt.Sprint(m.Event.Kind, " ", m.Event.Instance))
	}
	slices.Sort(events)
	if want := []string{"instance.adopted ready", "instance.exited dead"}; !slices.Equal(events, want) {
		t.Errorf("%q, not %q", events, want)
	}
}
