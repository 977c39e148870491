// Package hostile throws modules that nobody would write at the compiler and at a worker.
package hostile

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"lambent"
	"lambent/executor/wasm/internal/artefact"
	"lambent/executor/wasm/internal/compile"
	. "lambent/executor/wasm/internal/moduletest"
	"lambent/executor/wasm/internal/wire"
	"lambent/executor/wasm/internal/worker"
)

var (
	count = flag.Int("modules", 300, "how many modules TestModules makes")
	first = flag.Int("first", 0, "number of the first")
)

// The processes that the tests are besides.
const (
	compilerName = "hostile-compiler"
	workerName   = "hostile-worker"
)

func TestMain(m *testing.M) {
	switch os.Args[0] {
	case compilerName:
		exit(compileAll(os.Args[1], os.Stdin))
	case workerName:
		f := os.NewFile(3, "socket")
		conn, err := net.FileConn(f)
		f.Close()
		if err == nil {
			err = worker.Run(conn.(*net.UnixConn), os.NewFile(4, "page"), worker.Options{Dir: os.Args[1], Memory: 1 << 30})
		}
		exit(err)
	}
	flag.Parse()
	goleak.VerifyTestMain(m)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// compileAll makes the artefact of each module whose number it reads, in a folder of that name, and says what came of it.
func compileAll(dir string, numbers io.Reader) error {
	modules, err := corpus()
	if err != nil {
		return err
	}
	for lines := bufio.NewScanner(numbers); lines.Scan(); {
		i, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		wasm := healthy
		if i >= 0 {
			wasm = generate(modules, i)
		}
		a, err := compile.Compile(context.Background(), wasm, compile.Options{Start: time.Second, Dir: dir})
		if err != nil {
			fmt.Println(lambent.ErrorOf(err).Code)
			continue
		}
		r, w := io.Pipe()
		go func() { w.CloseWithError(a.Send(w)) }()
		to := filepath.Join(dir, lines.Text())
		if err := errors.Join(os.Mkdir(to, 0o700), artefact.Receive(r, to, nil)); err != nil {
			return err
		}
		fmt.Println("ok")
	}
	return nil
}

// healthy is module -1: a command that answers ok.
var healthy = func() []byte {
	const answer = "Content-Type: text/plain\n\nok"
	return Command([][]byte{Body(0x41, 1, 0x41, 0x10, 0x41, 1, 0x41, 8, 0x10, 0, 0x1a)},
		Section(1, Vec(Func("", ""), Func("\x7f\x7f\x7f\x7f", "\x7f"))),
		Section(2, Vec(Import("wasi_snapshot_preview1", "fd_write", 1))),
		Section(7, Vec(Export("_start", 0, 1), Export("memory", 2, 0))),
		Section(11, Vec([]byte("\x00\x41\x10\x0b\x08\x20\x00\x00\x00"+string(rune(len(answer)))+"\x00\x00\x00"),
			append([]byte("\x00\x41\x20\x0b"), Name(answer)...))),
	)
}()

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// compiler is a process that makes artefacts.
type compiler struct {
	dir string
	mu  sync.Mutex
	in  io.Writer
	out *bufio.Scanner
}

func startCompiler(t *testing.T) *compiler {
	c := &compiler{dir: t.TempDir()}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{compilerName, c.dir}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	c.in, c.out = in, bufio.NewScanner(out)
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the compiler died: %v", err)
		}
	})
	return c
}

// compile makes the artefact of a module, or tells why there is none.
func (c *compiler) compile(i int) (dir, refusal string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintln(c.in, i)
	if !c.out.Scan() {
		return "", "", fmt.Errorf("the compiler died of module %d", i)
	}
	if said := c.out.Text(); said != "ok" {
		return "", said, nil
	}
	return filepath.Join(c.dir, strconv.Itoa(i)), "", nil
}

func startWorker(t *testing.T) *wire.Conn {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	check(t, err)
	page, shared, err := wire.NewPage()
	check(t, err)
	defer shared.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{workerName, t.TempDir()}
	cmd.ExtraFiles, cmd.Stderr = []*os.File{theirs, shared}, os.Stderr
	check(t, cmd.Start())
	c, err := wire.New(conn.(*net.UnixConn), page)
	check(t, err)
	t.Cleanup(func() {
		c.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the worker died: %v", err)
		}
	})
	hello, err := c.Hello(t.Context())
	check(t, err)
	if hello.Slow != "" {
		t.Logf("guests are not reset: %s", hello.Slow)
	}
	return c
}

// load loads the artefact in dir as a program.
func load(ctx context.Context, c *wire.Conn, program uint32, dir string, cpu time.Duration) error {
	files, err := artefact.Open(dir)
	if err != nil {
		return err
	}
	defer files.Close()
	spec := &wire.Spec{Function: dir, Meta: files.Meta, Memory: 64 << 20, MaxOutput: 1 << 20, CPU: cpu}
	return c.Load(ctx, program, spec, []*os.File{files.Module, files.Native, files.Image})
}

// ask gives the answer of a program, or the code of the error.
func ask(ctx context.Context, c *wire.Conn, program uint32, patience time.Duration) (string, error) {
	const body = "a=1&b=2"
	x, err := c.Do(ctx, program, &wire.Request{Method: "POST", Target: "/x?y=z", Host: "f.example", Proto: "HTTP/1.1", Invocation: "i",
		Body: io.NopCloser(strings.NewReader(body)), Length: int64(len(body)), Deadline: time.Now().Add(patience)})
	var answer []byte
	if err == nil {
		answer, err = io.ReadAll(x)
		err = errors.Join(err, x.Close())
	}
	var (
		own  *lambent.Error
		late *wire.TimeoutError
	)
	switch {
	case err == nil:
		return string(answer), nil
	case errors.As(err, &own) && own.Fault != lambent.FaultPlatform:
		return string(own.Code), nil
	case errors.As(err, &late):
		return "late", nil
	}
	return "", err
}

// TestModules: each of many random and mutated modules is refused with a reason, or runs and ends as a request does that
// is answered or has failed for a reason that is the function's. Compiler and worker live on, and a neighbour is served.
func TestModules(t *testing.T) {
	compiler, w := startCompiler(t), startWorker(t)
	dir, _, err := compiler.compile(-1)
	check(t, err)
	check(t, load(t.Context(), w, 0, dir, 0))
	var (
		mu       sync.Mutex
		outcomes = map[string]int{}
		ran      = map[string]int{}
		work     sync.WaitGroup
		next     = make(chan int)
	)
	note := func(m map[string]int, what string) {
		mu.Lock()
		defer mu.Unlock()
		m[what]++
	}
	try := func(i int) error {
		dir, refusal, err := compiler.compile(i)
		if err != nil || refusal != "" {
			note(outcomes, refusal)
			return err
		}
		defer os.RemoveAll(dir)
		program := uint32(i) + 1
		if err := load(t.Context(), w, program, dir, 50*time.Millisecond); err != nil {
			var refused *wire.LoadError
			if !errors.As(err, &refused) {
				return err
			}
			note(outcomes, "not loaded: "+err.Error())
			return nil
		}
		note(outcomes, "loaded")
		for range 2 { // the second one in an instance that was reset, if the first can be
			said, err := ask(t.Context(), w, program, 200*time.Millisecond)
			if err != nil {
				return err
			}
			if said == "" || len(said) > 30 || strings.ContainsAny(said, " \n") {
				said = "an answer"
			}
			note(ran, said)
		}
		w.Unload(program)
		if said, err := ask(t.Context(), w, 0, 5*time.Minute); err != nil || said != "ok" {
			return fmt.Errorf("the neighbour says %q: %w", said, err)
		}
		return nil
	}
	for range 4 {
		work.Go(func() {
			for i := range next {
				if err := try(i); err != nil {
					t.Errorf("module %d: %v", i, err)
				}
			}
		})
	}
	for i := *first; i < *first+*count && !t.Failed(); i++ {
		next <- i
	}
	close(next)
	work.Wait()
	for _, m := range []map[string]int{outcomes, ran} {
		for _, what := range slices.Sorted(maps.Keys(m)) {
			t.Logf("%6d %s", m[what], what)
		}
	}
	if outcomes["loaded"]*4 < *count {
		t.Errorf("only %d of %d modules ran", outcomes["loaded"], *count)
	}
}
