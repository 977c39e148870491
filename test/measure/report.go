// Package measure is what the benchmarks and the endurance tests share: a daemon to measure, and the report of what
// was measured.
package measure

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
)

// bar is one figure that a benchmark promises.
type bar struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Target string  `json:"target"` // "<= 15", ">= 0.7", "== 0"
	Pass   bool    `json:"pass"`
	// Hard bars are about correctness: a miss fails the run. Times never do, machines are shared.
	Hard bool `json:"hard"`
}

// Report collects what a run prints and writes.
type Report struct {
	name  string
	Load  [2]string         `json:"load"` // of the machine, before and after
	Table [][]string        `json:"table"`
	Bars  []bar             `json:"bars"`
	Notes map[string]string `json:"notes,omitempty"`
}

// NewReport begins the report of that name.
func NewReport(name string) *Report {
	return &Report{name: name, Load: [2]string{loadavg(), ""}, Notes: map[string]string{}}
}

func loadavg() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(string(raw))[:3], " ")
}

// Row adds a row to the table.
func (r *Report) Row(cells ...string) { r.Table = append(r.Table, cells) }

// AtMost is a bar that value shall not exceed; a miss does not fail the run.
func (r *Report) AtMost(name string, value float64, unit string, limit float64) {
	r.Bars = append(r.Bars, bar{name, value, unit, fmt.Sprintf("<=%g", limit), value <= limit, false})
}

// AtLeast is a bar that value shall reach; a miss does not fail the run.
func (r *Report) AtLeast(name string, value float64, unit string, limit float64) {
	r.Bars = append(r.Bars, bar{name, value, unit, fmt.Sprintf(">=%g", limit), value >= limit, false})
}

// Bounded is a bar of correctness: value must not exceed limit.
func (r *Report) Bounded(name string, value float64, unit string, limit float64) {
	r.Bars = append(r.Bars, bar{name, value, unit, fmt.Sprintf("<=%g", limit), value <= limit, true})
}

// Reached is a bar of correctness: value must not be below limit.
func (r *Report) Reached(name string, value float64, unit string, limit float64) {
	r.Bars = append(r.Bars, bar{name, value, unit, fmt.Sprintf(">=%g", limit), value >= limit, true})
}

// None is a bar of correctness: value must be zero.
func (r *Report) None(name string, value int) {
	r.Bars = append(r.Bars, bar{name, float64(value), "count", "==0", value == 0, true})
}

// Finish prints the table and the bars, writes both to bench/out, and fails if a hard bar was missed.
func (r *Report) Finish() error {
	r.Load[1] = loadavg()
	tw := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range r.Table {
		fmt.Fprintln(tw, strings.Join(row, "\t")+"\t")
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for name, note := range r.Notes {
		fmt.Printf("%s: %s\n", name, note)
	}
	fmt.Printf("load of the machine: %s before, %s after\n", r.Load[0], r.Load[1])
	var missed []string
	for _, b := range r.Bars {
		verdict := "PASS"
		if !b.Pass {
			verdict = "MISS"
			if b.Hard {
				missed = append(missed, b.Name)
			}
		}
		fmt.Printf("BAR %s %.4g %s %s %s\n", b.Name, b.Value, b.Unit, b.Target, verdict)
	}
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll("bench/out", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join("bench/out", r.name+".json"), append(raw, '\n'), 0o644); err != nil {
		return err
	}
	if len(missed) > 0 {
		return fmt.Errorf("correctness: %s", strings.Join(missed, ", "))
	}
	return nil
}
