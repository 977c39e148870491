package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"lambent"
	"lambent/test/measure"
)

// cold measures cold starts: every call finds no instance, because idle ones end after a millisecond. Each
// is paired with a bare fork, exec and first answer of the same program, so that the difference is what
// the platform costs.
func cold(ctx context.Context, l *measure.Daemon, dir string, short bool) error {
	n := 100
	if short {
		n = 20
	}
	bin, err := buildEcho(ctx, dir)
	if err != nil {
		return err
	}
	for name, folder := range map[string]string{"echo": "test/bench/echo", "hello": "examples/hello"} {
		if err := l.Deploy(ctx, folder, "--name", name, "--set", "keep_alive=1ms"); err != nil {
			return err
		}
	}
	rep := measure.NewReport("cold")
	rep.Row("function", "part", "p50 ms", "p90 ms", "p99 ms")
	lost := 0
	for _, name := range []string{"echo", "hello"} {
		var total, own, alone []float64
		phases := make([][]float64, len(lambent.Phases{}))
		body := []byte(`{"name":"Ada"}`)
		for calls := 0; len(total) < n && calls < 3*n; calls++ {
			var baseline time.Duration
			if name == "echo" {
				if baseline, err = timeBare(ctx, dir, body, nil, bin); err != nil {
					return err
				}
			}
			began := time.Now()
			if err := once(ctx, function(l, name, body)); err != nil {
				fmt.Fprintln(os.Stderr, "bench:", err)
				lost++
				continue
			}
			took := time.Since(began)
			time.Sleep(10 * time.Millisecond) // for the record to be written and the instance to end
			records, err := l.Client.Invocations(ctx, "default", name, 1)
			if err != nil {
				return err
			}
			if len(records) == 0 || !records[0].Cold {
				continue // its instance had not ended yet
			}
			total, own, alone = append(total, measure.MS(took)), append(own, measure.MS(took-baseline)), append(alone, measure.MS(baseline))
			for i, d := range records[0].Phases {
				phases[i] = append(phases[i], measure.MS(d))
			}
		}
		if len(total) < n {
			return fmt.Errorf("%s: only %d of %d calls were cold", name, len(total), n)
		}
		row := func(part string, v []float64) {
			rep.Row(name, part, fmt.Sprintf("%.2f", measure.Median(v)), fmt.Sprintf("%.2f", measure.Quantile(v, 0.9)), fmt.Sprintf("%.2f", measure.Quantile(v, 0.99)))
		}
		for i := range phases {
			row(lambent.Phase(i).String(), phases[i])
		}
		row("total at the client", total)
		if name == "echo" {
			row("bare fork, exec, answer", alone)
			row("the platform's own share", own)
			rep.AtMost("cold_own_share_p50", measure.Median(own), "ms", 15)
		}
	}
	rep.None("cold_lost", lost)
	return rep.Finish()
}
