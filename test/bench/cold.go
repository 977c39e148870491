package main

import (
	"context"
	"fmt"
	"os"
	"time"

	words "lambent"
)

// cold measures cold starts: every call finds no instance, because idle ones end after a millisecond. Each
// is paired with a bare fork, exec and first answer of the same program, so that the difference is what
// the platform costs.
func cold(ctx context.Context, l *lambent, dir string, short bool) error {
	n := 100
	if short {
		n = 20
	}
	bin, err := buildEcho(ctx, dir)
	if err != nil {
		return err
	}
	for name, folder := range map[string]string{"echo": "test/bench/echo", "hello": "examples/hello"} {
		if err := l.deploy(ctx, folder, "--name", name, "--set", "keep_alive=1ms"); err != nil {
			return err
		}
	}
	rep := newReport("cold")
	rep.row("function", "part", "p50 ms", "p90 ms", "p99 ms")
	lost := 0
	for _, name := range []string{"echo", "hello"} {
		var total, own, alone []float64
		phases := make([][]float64, len(words.Phases{}))
		body := []byte(`{"name":"Ada"}`)
		for calls := 0; len(total) < n && calls < 3*n; calls++ {
			var baseline time.Duration
			if name == "echo" {
				if baseline, err = timeBare(ctx, dir, body, nil, bin); err != nil {
					return err
				}
			}
			began := time.Now()
			if err := once(ctx, l.function(name, body)); err != nil {
				fmt.Fprintln(os.Stderr, "bench:", err)
				lost++
				continue
			}
			took := time.Since(began)
			time.Sleep(10 * time.Millisecond) // for the record to be written and the instance to end
			records, err := l.client.Invocations(ctx, "default", name, 1)
			if err != nil {
				return err
			}
			if len(records) == 0 || !records[0].Cold {
				continue // its instance had not ended yet
			}
			total, own, alone = append(total, ms(took)), append(own, ms(took-baseline)), append(alone, ms(baseline))
			for i, d := range records[0].Phases {
				phases[i] = append(phases[i], ms(d))
			}
		}
		if len(total) < n {
			return fmt.Errorf("%s: only %d of %d calls were cold", name, len(total), n)
		}
		row := func(part string, v []float64) {
			rep.row(name, part, fmt.Sprintf("%.2f", median(v)), fmt.Sprintf("%.2f", quantile(v, 0.9)), fmt.Sprintf("%.2f", quantile(v, 0.99)))
		}
		for i := range phases {
			row(words.Phase(i).String(), phases[i])
		}
		row("total at the client", total)
		if name == "echo" {
			row("bare fork, exec, answer", alone)
			row("the platform's own share", own)
			rep.atMost("cold_own_share_p50", median(own), "ms", 15)
		}
	}
	rep.none("cold_lost", lost)
	return rep.finish()
}
