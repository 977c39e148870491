// Package metric counts and times invocations for Prometheus, under the names of the OpenTelemetry semantic
// conventions for FaaS metrics (in development there; the names here are those of 2026-11).
//
// Series are per namespace and function, and of a function that was called only. Phases are summed over all
// functions: with eight more histograms each, a hundred thousand functions would fill the memory.
package metric

import (
	"iter"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"lambent"
)

// Pool is the state of one revision's instances; those of one function's revisions are added up.
type Pool struct {
	Namespace, Function string
	Instances           int // ready ones
	Starting            int
	InFlight            int // requests being served
	Waiting             int // requests in the queue
	CircuitsOpen        int // 1 when starts failed again and again
}

// Options configures Metrics.
type Options struct {
	// Pools gives the pools there are; it is called at every scrape. Nil means none.
	Pools iter.Seq[Pool]
	// Lost gives how many of a kind ("records", "log_lines", "system_events") could not be kept.
	Lost map[string]func() uint64
}

// Metrics is a registry of its own with the platform's metrics.
type Metrics struct {
	registry  *prometheus.Registry
	functions sync.Map   // function -> *series
	mu        sync.Mutex // held while series of a function are made or removed

	invocations, errors, timeouts, coldstarts *prometheus.CounterVec
	duration, start                           *prometheus.HistogramVec
	phases                                    [lambent.PhaseRespond + 1]prometheus.Observer

	events *events
}

type function struct{ namespace, name string }

// series is what an invocation of one function changes, found with one look-up.
type series struct {
	invocations, timeouts, coldstarts prometheus.Counter
	errors                            *prometheus.CounterVec
	duration, start                   prometheus.Observer
}

// buckets are in seconds: from a warm call of a fast function to the usual timeout.
var buckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// New makes the metrics.
func New(opt Options) *Metrics {
	labels := []string{"namespace", "function"}
	counter := func(name, help string, more ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append(labels, more...))
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	phases := histogram("faas_phase_duration_seconds", "Time of invocations by phase, of all functions.", "phase")
	m := &Metrics{
		registry:    prometheus.NewRegistry(),
		invocations: counter("faas_invocations_total", "Invocations that came to an end."),
		errors:      counter("faas_errors_total", "Invocations that failed.", "fault", "code"),
		timeouts:    counter("faas_timeouts_total", "Invocations that met one of their time limits."),
		coldstarts:  counter("faas_coldstarts_total", "Invocations that waited for an instance to start."),
		duration:    histogram("faas_invoke_duration_seconds", "Time from hand-over to the last byte of the answer.", labels...),
		start:       histogram("faas_init_duration_seconds", "Time that cold invocations' instances took to start.", labels...),
	}
	m.events = newEvents(m.registry)
	for p := range m.phases {
		m.phases[p] = phases.WithLabelValues(lambent.Phase(p).String())
	}
	m.registry.MustRegister(m.invocations, m.errors, m.timeouts, m.coldstarts, m.duration, m.start, phases,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if opt.Pools != nil {
		m.registry.MustRegister(pools(opt.Pools))
	}
	for kind, count := range opt.Lost {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "lambent_lost_total", Help: "Records, log lines and system events that could not be kept.",
			ConstLabels: prometheus.Labels{"kind": kind},
		}, func() float64 { return float64(count()) }))
	}
	return m
}

// Handler serves the metrics in the formats of Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// Add counts one invocation.
func (m *Metrics) Add(r *lambent.Record) {
	s := m.series(function{r.Namespace, r.Function})
	s.invocations.Inc()
	if r.Error != nil {
		s.errors.WithLabelValues(string(r.Error.Fault), string(r.Error.Code)).Inc()
		if isTimeout(r.Error.Code) {
			s.timeouts.Inc()
		}
	}
	if r.Cold {
		s.coldstarts.Inc()
		var start lambent.Phases
		copy(start[lambent.PhasePlace:], r.Phases[lambent.PhasePlace:lambent.PhaseHandler])
		s.start.Observe(start.Total().Seconds())
	}
	if handled := r.Phases[lambent.PhaseHandler] + r.Phases[lambent.PhaseRespond]; handled > 0 {
		s.duration.Observe(handled.Seconds())
	}
	for p, d := range r.Phases {
		if d > 0 {
			m.phases[p].Observe(d.Seconds())
		}
	}
}

func isTimeout(code lambent.Code) bool {
	switch code {
	case lambent.CodeQueueTimeout, lambent.CodeStartTimeout, lambent.CodeFirstByteTimeout,
		lambent.CodeIdleTimeout, lambent.CodeTotalTimeout:
		return true
	}
	return false
}

func (m *Metrics) series(f function) *series {
	if s, ok := m.functions.Load(f); ok {
		return s.(*series)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s, _ := m.functions.LoadOrStore(f, &series{
		invocations: m.invocations.WithLabelValues(f.namespace, f.name),
		timeouts:    m.timeouts.WithLabelValues(f.namespace, f.name),
		coldstarts:  m.coldstarts.WithLabelValues(f.namespace, f.name),
		errors:      m.errors.MustCurryWith(f.labels()),
		duration:    m.duration.WithLabelValues(f.namespace, f.name),
		start:       m.start.WithLabelValues(f.namespace, f.name),
	})
	return s.(*series)
}

func (f function) labels() prometheus.Labels {
	return prometheus.Labels{"namespace": f.namespace, "function": f.name}
}

// Forget removes a function's series, those of its pools excepted, which end with them. An invocation that
// ends later begins them anew.
func (m *Metrics) Forget(namespace, name string) {
	f := function{namespace, name}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.functions.Delete(f)
	for _, vec := range []interface{ DeletePartialMatch(prometheus.Labels) int }{
		m.invocations, m.errors, m.timeouts, m.coldstarts, m.duration, m.start,
	} {
		vec.DeletePartialMatch(f.labels())
	}
}

// pools gives the gauges of the instances at every scrape.
type pools iter.Seq[Pool]

func gauge(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, []string{"namespace", "function"}, nil)
}

var (
	instances = gauge("faas_instances", "Instances that are ready.")
	starting  = gauge("faas_instances_starting", "Instances that are being started.")
	inFlight  = gauge("faas_in_flight", "Requests that instances are serving.")
	waiting   = gauge("faas_queue_length", "Requests that wait for an instance.")
	circuits  = gauge("lambent_circuits_open", "Revisions whose starts failed again and again: requests that find no instance are refused.")
)

// Describe implements [prometheus.Collector].
func (p pools) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{instances, starting, inFlight, waiting, circuits} {
		out <- desc
	}
}

// Collect implements [prometheus.Collector].
func (p pools) Collect(out chan<- prometheus.Metric) {
	sums := map[function]Pool{}
	for pool := range p {
		f := function{pool.Namespace, pool.Function}
		sum := sums[f]
		sum.Instances += pool.Instances
		sum.Starting += pool.Starting
		sum.InFlight += pool.InFlight
		sum.Waiting += pool.Waiting
		sum.CircuitsOpen += pool.CircuitsOpen
		sums[f] = sum
	}
	for f, sum := range sums {
		give := func(desc *prometheus.Desc, v int) {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(v), f.namespace, f.name)
		}
		give(instances, sum.Instances)
		give(starting, sum.Starting)
		give(inFlight, sum.InFlight)
		give(waiting, sum.Waiting)
		give(circuits, sum.CircuitsOpen)
	}
}
