package metric

import (
	"github.com/prometheus/client_golang/prometheus"

	"lambent"
)

// events count what happened to the node and its instances, of all functions together: an instance often ends
// after its function was deleted, and would bring a series of it back for good.
type events struct {
	starts, adoptions                               prometheus.Counter
	stops, exits, failures, nodeStarts, upgradeEnds *prometheus.CounterVec
}

func newEvents(registry *prometheus.Registry) *events {
	counter := func(name, help string) prometheus.CounterOpts { return prometheus.CounterOpts{Name: name, Help: help} }
	vec := func(name, help, label string, known ...lambent.Reason) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(counter(name, help), []string{label})
		for _, value := range known {
			v.WithLabelValues(string(value)) // it is there, at 0, before the first
		}
		registry.MustRegister(v)
		return v
	}
	e := &events{
		starts:    prometheus.NewCounter(counter("lambent_instance_starts_total", "Instances that were started.")),
		adoptions: prometheus.NewCounter(counter("lambent_instance_adoptions_total", "Instances that were taken over from the process before.")),
		stops: vec("lambent_instance_stops_total", "Instances that the platform ended.", "reason",
			lambent.ReasonIdle, lambent.ReasonRetired, lambent.ReasonStale, lambent.ReasonEvicted, lambent.ReasonCut, lambent.ReasonUsed, lambent.ReasonUnwanted),
		exits: vec("lambent_instance_exits_total", "Instances that ended by themselves.", "reason",
			exitOOM, exitSignal, exitCode, exitSandbox),
		failures: vec("lambent_start_failures_total", "Starts of instances that failed.", "code"),
		nodeStarts: vec("lambent_node_starts_total", "Starts of the node, by what they came after, as far as its events reach back.", "after",
			lambent.ReasonFirst, lambent.ReasonClean, lambent.ReasonCrash, lambent.ReasonUpgrade),
		upgradeEnds: vec("lambent_upgrades_total", "Upgrades of the node, as far as its events reach back.", "outcome", upgradeDone, upgradeFailed),
	}
	registry.MustRegister(e.starts, e.adoptions)
	return e
}

const (
	exitOOM     = "oom" // over the memory limit
	exitSignal  = "signal"
	exitCode    = "code"
	exitSandbox = "sandbox" // before the function's process began

	upgradeDone   = "done"
	upgradeFailed = "failed"
)

// Event counts e.
func (m *Metrics) Event(e lambent.SystemEvent) {
	switch e.Kind {
	case lambent.EventInstanceStarted:
		m.events.starts.Inc()
	case lambent.EventInstanceAdopted:
		m.events.adoptions.Inc()
	case lambent.EventInstanceStopped:
		m.events.stops.WithLabelValues(string(e.Reason)).Inc()
	case lambent.EventInstanceExited:
		m.events.exits.WithLabelValues(exitReason(e.Exit)).Inc()
	case lambent.EventStartFailed:
		m.events.failures.WithLabelValues(string(e.Reason)).Inc()
	case lambent.EventNodeStarted:
		m.events.nodeStarts.WithLabelValues(string(e.Reason)).Inc()
	case lambent.EventUpgradeDone:
		m.events.upgradeEnds.WithLabelValues(upgradeDone).Inc()
	case lambent.EventUpgradeFailed:
		m.events.upgradeEnds.WithLabelValues(upgradeFailed).Inc()
	}
}

func exitReason(e *lambent.Exit) string {
	switch {
	case e == nil || e.Err != "":
		return exitSandbox
	case e.OOM:
		return exitOOM
	case e.Signal != "":
		return exitSignal
	}
	return exitCode
}
