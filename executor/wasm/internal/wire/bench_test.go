package wire

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// workerName is the argument that makes this test a worker.
const workerName = "wire-test-worker"

// runWorker is the main of a worker that answers by itself. Its descriptors are 3, the socket, and 4, the page.
func runWorker() {
	f := os.NewFile(3, "socket")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		panic(err)
	}
	page, err := OpenPage(os.NewFile(4, "page"))
	if err != nil {
		panic(err)
	}
	hello := []Field{{Name: "Content-Type", Value: "text/plain"}, {Name: "Cache-Control", Value: "no-store"}}
	serve := func(s *Incoming) {
		switch s.Target {
		case "/wait": // without having begun
			<-s.Done()
		case "/hang":
			s.Start()
			<-s.Done()
		case "/echo":
			echo(s)
		default:
			s.Start()
			if s.Respond(200, hello, 5) == nil {
				_, _ = s.Write([]byte("hello"))
			}
			s.End(Usage{CPU: time.Microsecond, Memory: 65536}, nil)
		}
	}
	if err := Serve(conn.(*net.UnixConn), page, handler{serve: serve}, Hello{}); err != io.EOF {
		panic(err)
	}
	os.Exit(0)
}

// process starts a worker and connects to it.
func process(t testing.TB) (*Conn, *exec.Cmd) {
	t.Helper()
	daemon, worker := socketpair(t)
	page, file, err := NewPage()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	socket, err := worker.File()
	worker.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args[0] = workerName
	cmd.ExtraFiles = []*os.File{socket, file}
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "GOMAXPROCS=4")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := New(daemon, page)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		_ = cmd.Wait() // it may have been killed
	})
	if _, err := c.Hello(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c, cmd
}

// used is the processor time of a process.
func used(t testing.TB, pid int) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil { // CPUCLOCK_SCHED of the process, see clock_getcpuclockid(3)
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// BenchmarkRoundTrip asks a worker in another process that answers five bytes.
func BenchmarkRoundTrip(b *testing.B) {
	for _, callers := range []int{1, 32} {
		b.Run(strconv.Itoa(callers), func(b *testing.B) {
			c, cmd := process(b)
			ask := func() error {
				x, err := c.Do(b.Context(), 1, get("/"))
				if err != nil {
					return err
				}
				if body, err := io.ReadAll(x); len(body) != 5 || err != nil {
					return fmt.Errorf("%q, %w", body, err)
				}
				return x.Close()
			}
			if err := ask(); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			daemon, worker := used(b, os.Getpid()), used(b, cmd.Process.Pid)
			b.ResetTimer()
			var callersDone sync.WaitGroup
			for i := range callers {
				callersDone.Go(func() {
					for range (b.N + callers - 1 - i) / callers {
						if err := ask(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			callersDone.Wait()
			b.StopTimer()
			us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(b.N) }
			b.ReportMetric(us(used(b, os.Getpid())-daemon), "daemon-us/op")
			b.ReportMetric(us(used(b, cmd.Process.Pid)-worker), "worker-us/op")
		})
	}
}
