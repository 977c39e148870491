package compile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/executor/wasm/internal/artefact"
	"lambent/executor/wasm/internal/module"
)

// Limits of a compiler process.
type Limits struct {
	Time   time.Duration // of processors, so that a busy machine is not the module's fault; 0: two minutes
	Memory int64         // bytes that the process may have of the system, the module's own memory aside; 0: 2 GiB
}

const (
	defaultTime = 2 * time.Minute
	defaultHeap = 2 << 30
	look        = 20 * time.Millisecond // between two looks at what is taken
)

// Main is a compiler process: it reads the module from the file at path and writes to w what artefact.Receive reads. It
// gives the exit status of the process, and ends the process itself when a limit is met.
func Main(path string, o Options, l Limits, w io.Writer) int {
	if l.Time == 0 {
		l.Time = defaultTime
	}
	if l.Memory == 0 {
		l.Memory = defaultHeap
	}
	// While the guest has one processor, somebody has to look at what is taken.
	runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0)))
	debug.SetMemoryLimit(l.Memory * 3 / 4)
	var once sync.Once
	answer := func(send func(io.Writer) error) (code int) {
		once.Do(func() {
			if err := send(w); err != nil {
				fmt.Fprintln(os.Stderr, "the artefact cannot be handed over:", err)
				code = 1
			}
		})
		return code
	}
	// Another machine, or another day, may take less: the module is not refused for good.
	stop := func(code lambent.Code, format string, args ...any) {
		os.Exit(answer(func(w io.Writer) error {
			return artefact.SendError(w, lambent.Errorf(code, format, args...).
				WithHint("make the module smaller, or its largest functions: tables and generated code are better kept as data"))
		}))
	}
	go func() {
		for range time.Tick(look) {
			if used() > l.Time {
				stop(lambent.CodeStartTimeout, "the module takes more than %v of processor time to compile", l.Time)
			}
			if taken() > l.Memory {
				stop(lambent.CodeStartFailed, "the module takes more than %d MiB of memory to compile", l.Memory>>20)
			}
		}
	}()
	a, err := compileFile(path, o)
	return answer(func(w io.Writer) error {
		if err != nil {
			return artefact.SendError(w, lambent.ErrorOf(err))
		}
		return a.Send(w)
	})
}

func compileFile(path string, o Options) (*artefact.Artefact, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, internal(err)
	}
	wasm, err := io.ReadAll(io.LimitReader(f, module.MaxSize+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, internal(err)
	}
	return Compile(context.Background(), wasm, o)
}

// used gives the processor time of the process.
func used() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err) // there is no other reason than a wrong argument
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// taken gives the bytes that the process has of the system and has not given back.
func taken() int64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64() - samples[1].Value.Uint64())
}
