package control

import (
	"context"
	"time"
)

// Collect is what Run does at each tick.
func (c *Collector) Collect(ctx context.Context, now time.Time) error { return c.collect(ctx, now) }
