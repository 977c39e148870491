package wire

import (
	"time"

	"golang.org/x/sys/unix"
)

// The monotonic clock is one for all processes of a machine. Go does not show its reading of it, so that one moment is
// read both ways, and times are told as their distance from it.
var clockTime, clockReading = func() (time.Time, int64) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // every Linux has it
	}
	return time.Now(), ts.Nano()
}()

func toClock(t time.Time) int64   { return clockReading + int64(t.Sub(clockTime)) }
func fromClock(n int64) time.Time { return clockTime.Add(time.Duration(n - clockReading)) }
