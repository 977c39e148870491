package measure

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// MS is d in milliseconds.
func MS(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Median is the middle of v, 0 of none.
func Median(v []float64) float64 { return Quantile(v, 0.5) }

// Quantile is the value that the share q of v is below, 0 of none.
func Quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

// Figure writes v for a table.
func Figure(v float64) string { return fmt.Sprintf("%.1f", v) }

// Every calls f at each step until length is over, whatever f takes: f begins what it does and returns.
func Every(ctx context.Context, length, step time.Duration, f func()) {
	tick := time.NewTicker(step)
	defer tick.Stop()
	for range int(length / step) {
		f()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
