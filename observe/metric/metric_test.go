package metric

import (
	"fmt"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lambent"
)

func record(function string, failure *lambent.Error) *lambent.Record {
	r := &lambent.Record{Namespace: "ns", Function: function, Error: failure}
	r.Phases[lambent.PhaseHandler] = 2 * time.Millisecond
	r.Phases[lambent.PhaseRespond] = time.Millisecond
	return r
}

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func wants(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}
	if t.Failed() {
		for l := range strings.Lines(text) {
			if strings.HasPrefix(l, "faas_") {
				t.Log(l)
			}
		}
	}
}

func TestAdd(t *testing.T) {
	m := New(Options{})
	cold := record("a", nil)
	cold.Cold = true
	cold.Phases[lambent.PhaseQueue] = time.Hour // not a part of the start
	cold.Phases[lambent.PhaseSandbox] = 6 * time.Millisecond
	cold.Phases[lambent.PhaseLoad] = 14 * time.Millisecond
	m.Add(cold)
	m.Add(record("a", nil))
	m.Add(record("a", lambent.Errorf(lambent.CodeHandlerError, "x")))
	m.Add(record("a", lambent.Errorf(lambent.CodeTotalTimeout, "x")))
	full := record("b", lambent.Errorf(lambent.CodeQueueFull, "x"))
	full.Phases = lambent.Phases{}
	m.Add(full)
	wants(t, scrape(t, m),
		`faas_invocations_total{function="a",namespace="ns"} 4`,
		`faas_invocations_total{function="b",namespace="ns"} 1`,
		`faas_errors_total{code="handler_error",fault="function",function="a",namespace="ns"} 1`,
		`faas_errors_total{code="total_timeout",fault="limit",function="a",namespace="ns"} 1`,
		`faas_errors_total{code="queue_full",fault="limit",function="b",namespace="ns"} 1`,
		`faas_timeouts_total{function="a",namespace="ns"} 1`,
		`faas_timeouts_total{function="b",namespace="ns"} 0`,
		`faas_coldstarts_total{function="a",namespace="ns"} 1`,
		`faas_init_duration_seconds_count{function="a",namespace="ns"} 1`,
		`faas_init_duration_seconds_sum{function="a",namespace="ns"} 0.02`,
		`faas_invoke_duration_seconds_count{function="a",namespace="ns"} 4`,
		`faas_invoke_duration_seconds_sum{function="a",namespace="ns"} 0.012`,
		`faas_invoke_duration_seconds_bucket{function="a",namespace="ns",le="0.005"} 4`,
		`faas_invoke_duration_seconds_count{function="b",namespace="ns"} 0`,
		`faas_phase_duration_seconds_count{phase="handler"} 4`,
		`faas_phase_duration_seconds_count{phase="sandbox"} 1`,
		`faas_phase_duration_seconds_count{phase="fetch"} 0`,
	)
	for _, name := range []string{"process_resident_memory_bytes", "go_goroutines"} {
		if !strings.Contains(scrape(t, m), "\n"+name+" ") {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestLost(t *testing.T) {
	m := New(Options{Lost: map[string]func() uint64{
		"records":   func() uint64 { return 0 },
		"log_lines": func() uint64 { return 7 },
	}})
	wants(t, scrape(t, m), `lambent_lost_total{kind="records"} 0`, `lambent_lost_total{kind="log_lines"} 7`)
}

func TestEvents(t *testing.T) {
	m := New(Options{})
	wants(t, scrape(t, m), `lambent_instance_exits_total{reason="oom"} 0`, `lambent_node_starts_total{after="crash"} 0`)
	stopped := lambent.SystemEvent{Kind: lambent.EventInstanceStopped, Reason: lambent.ReasonIdle, Namespace: "ns", Function: "f"}
	exited := func(e *lambent.Exit) lambent.SystemEvent {
		return lambent.SystemEvent{Kind: lambent.EventInstanceExited, Exit: e}
	}
	for _, e := range []lambent.SystemEvent{
		{Kind: lambent.EventInstanceStarted}, {Kind: lambent.EventInstanceStarted}, {Kind: lambent.EventInstanceAdopted},
		stopped, exited(&lambent.Exit{OOM: true, Signal: "SIGKILL"}), exited(&lambent.Exit{Signal: "SIGSEGV"}),
		exited(&lambent.Exit{}), exited(&lambent.Exit{Code: 3}), exited(&lambent.Exit{Err: "mount"}), exited(nil),
		{Kind: lambent.EventStartFailed, Reason: lambent.Reason(lambent.CodeStartTimeout)},
		{Kind: lambent.EventNodeStarted, Reason: lambent.ReasonCrash}, {Kind: lambent.EventNodeStopping},
		{Kind: lambent.EventUpgradeBegun}, {Kind: lambent.EventUpgradeFailed}, {Kind: lambent.EventUpgradeDone},
	} {
		m.Event(e)
	}
	wants(t, scrape(t, m),
		`lambent_instance_starts_total 2`, `lambent_instance_adoptions_total 1`,
		`lambent_instance_stops_total{reason="idle"} 1`, `lambent_instance_stops_total{reason="retired"} 0`,
		`lambent_instance_exits_total{reason="oom"} 1`, `lambent_instance_exits_total{reason="signal"} 1`,
		`lambent_instance_exits_total{reason="code"} 2`, `lambent_instance_exits_total{reason="sandbox"} 2`,
		`lambent_start_failures_total{code="start_timeout"} 1`, `lambent_node_starts_total{after="crash"} 1`,
		`lambent_upgrades_total{outcome="done"} 1`, `lambent_upgrades_total{outcome="failed"} 1`,
	)
}

func TestPools(t *testing.T) {
	m := New(Options{Pools: slices.Values([]Pool{
		{"ns", "a", 2, 1, 3, 4, 1},
		{"ns", "a", 1, 0, 1, 0, 1}, // the revision before, which drains
		{"ns", "b", 0, 1, 0, 1, 0},
	})})
	wants(t, scrape(t, m),
		`faas_instances{function="a",namespace="ns"} 3`,
		`faas_instances_starting{function="a",namespace="ns"} 1`,
		`faas_in_flight{function="a",namespace="ns"} 4`,
		`faas_queue_length{function="a",namespace="ns"} 4`,
		`faas_queue_length{function="b",namespace="ns"} 1`,
		`lambent_circuits_open{function="a",namespace="ns"} 2`,
		`lambent_circuits_open{function="b",namespace="ns"} 0`,
	)
}

func TestForget(t *testing.T) {
	m := New(Options{})
	for _, f := range []string{"a", "b"} {
		m.Add(record(f, lambent.Errorf(lambent.CodeHandlerError, "x")))
	}
	m.Forget("ns", "a")
	m.Forget("ns", "never-was")
	text := scrape(t, m)
	if strings.Contains(text, `function="a"`) {
		t.Error("series of a deleted function are left")
	}
	wants(t, text, `faas_invocations_total{function="b",namespace="ns"} 1`)
	m.Add(record("a", nil))
	wants(t, scrape(t, m), `faas_invocations_total{function="a",namespace="ns"} 1`)
}

func TestConcurrent(t *testing.T) {
	const callers, calls = 8, 1000
	m := New(Options{})
	var wait sync.WaitGroup
	for range callers {
		wait.Go(func() {
			for i := range calls {
				m.Add(record(fmt.Sprint("f", i%10), nil))
			}
		})
	}
	wait.Go(func() {
		for range 10 {
			scrape(t, m)
			m.Forget("ns", "other")
		}
	})
	wait.Wait()
	wants(t, scrape(t, m), `faas_invocations_total{function="f3",namespace="ns"} 800`)
}

func BenchmarkAdd(b *testing.B) {
	m := New(Options{})
	r := record("f", nil)
	b.ReportAllocs()
	for b.Loop() {
		m.Add(r)
	}
}

// BenchmarkFunction reports the memory of a function that was called once.
func BenchmarkFunction(b *testing.B) {
	m := New(Options{})
	heap := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before, n := heap(), 0
	for b.Loop() {
		n++
		m.Add(record(fmt.Sprint("f", n), nil))
	}
	b.ReportMetric(float64(heap()-before)/float64(n), "B/function")
	runtime.KeepAlive(m)
}
