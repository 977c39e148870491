package worker

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// used is the processor time of a process.
func used(t testing.TB, pid int) time.Duration {
	var ts unix.Timespec
	check(t, unix.ClockGettime(int32(^pid<<3|2), &ts)) // CPUCLOCK_SCHED of the process, see clock_getcpuclockid(3)
	return time.Duration(ts.Nano())
}

// BenchmarkHello asks a guest in C for five bytes: the way from the daemon to a pristine instance and back.
func BenchmarkHello(b *testing.B) {
	for _, callers := range []int{1, 32} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			c, cmd := start(b)
			spec, files := reactor(b)
			check(b, c.Load(b.Context(), 1, spec, files))
			hello := func() error {
				_, body, err := ask(b.Context(), c, 1, request("GET", "/hello", ""))
				if err == nil && body != "hello" {
					err = fmt.Errorf("it said %q", body)
				}
				return err
			}
			check(b, hello())
			b.ReportAllocs()
			daemon, worker := used(b, os.Getpid()), used(b, cmd.Process.Pid)
			b.ResetTimer()
			var asking sync.WaitGroup
			for i := range callers {
				asking.Go(func() {
					for range (b.N + callers - 1 - i) / callers {
						if err := hello(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			asking.Wait()
			b.StopTimer()
			us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(b.N) }
			b.ReportMetric(us(used(b, os.Getpid())-daemon), "daemon-us/op")
			b.ReportMetric(us(used(b, cmd.Process.Pid)-worker), "worker-us/op")
		})
	}
}
