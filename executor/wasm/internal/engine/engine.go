package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"golang.org/x/sys/unix"

	"lambent/executor/wasm/internal/abi"
	"lambent/executor/wasm/internal/artefact"
	"lambent/executor/wasm/internal/module"
)

// Options say how an engine is to be.
type Options struct {
	Dir    string // for the cache of native code: the engine's own, on a disk in memory
	Memory int64  // bytes that the memories of all guests may have written together
	Tokens int    // guests that run at a time; 0: as many as there are cores
}

// Engine runs guests.
type Engine struct {
	dir     string
	runtime wazero.Runtime
	cache   wazero.CompilationCache
	layout  layout
	pages   *pages
	reset   Reset
	why     string
	images  *store
	stacks  stacks
	tokens  *tokens
	ticker  *ticker
	memory  budget
	maps    budget
	begun   time.Time
	loading sync.Mutex // one at a time, as a link in dir is made for it

	mu       sync.Mutex // taken last
	programs map[*Program]bool
	warm     map[*Program]bool // those with something to tidy
	retired  []retired
	closing  chan struct{}
	tidied   chan struct{}
}

// retired is the memory that the ticker may still store to until its next round is over.
type retired struct {
	globals []byte
	round   uint32
}

var errNoMaps = errors.New("the process has as many mappings as the kernel allows (vm.max_map_count)")

// New makes an engine: it changes what the package's documentation says for the whole process. On an engine whose way to
// reset instances is [ResetNever] calls are slower; Reset says why.
func New(ctx context.Context, o Options) (e *Engine, err error) {
	if o.Tokens == 0 {
		o.Tokens = min(runtime.NumCPU(), maxTokens)
	}
	if o.Tokens < 1 || o.Tokens > maxTokens {
		return nil, fmt.Errorf("engine: %d guests at a time, and it is 1 to %d", o.Tokens, maxTokens)
	}
	e = &Engine{
		dir: o.Dir, tokens: newTokens(o.Tokens), begun: time.Now(),
		programs: map[*Program]bool{}, warm: map[*Program]bool{},
		closing: make(chan struct{}), tidied: make(chan struct{}),
	}
	if size := os.Getpagesize(); size != hostPage {
		return nil, fmt.Errorf("engine: pages of memory have %d bytes here, and it knows only those of %d", size, hostPage)
	}
	e.memory.limit = o.Memory
	e.stacks.maps = &e.maps
	if e.maps.limit, err = mapLimit(); err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	// A huge page would make a guest that writes a byte have written 2 MB.
	if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("engine: prctl: %w", err)
	}
	if e.images, err = newStore(&e.maps); err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	if e.cache, err = wazero.NewCompilationCacheWithDir(o.Dir); err != nil {
		return nil, errors.Join(fmt.Errorf("engine: %w", err), e.images.file.Close())
	}
	// While guests have all their cores, somebody has to bring the news.
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), o.Tokens+2))
	e.runtime = wazero.NewRuntimeWithConfig(ctx, artefact.Config(e.cache))
	e.ticker = startTicker()
	go e.tidyAlways()
	if err := errors.Join(e.host(ctx), abi.Instantiate(ctx, e.runtime)); err != nil {
		return nil, errors.Join(fmt.Errorf("engine: %w", err), e.Close())
	}
	if err := e.choose(ctx, ResetScan, ResetPagemap, ResetDrop); err != nil {
		return nil, errors.Join(fmt.Errorf("engine: self-test: %w", err), e.Close())
	}
	return e, nil
}

// host makes the module that instrumented code calls.
func (e *Engine) host(ctx context.Context) error {
	yield := api.GoFunc(func(ctx context.Context, _ []uint64) { ctx.Value(runKey{}).(*run).interrupt() })
	_, err := e.runtime.NewHostModuleBuilder(module.YieldModule).
		NewFunctionBuilder().WithGoFunction(yield, nil, nil).Export(module.YieldName).Instantiate(ctx)
	return err
}

// Reset tells how instances are put back, and why not in a better way.
func (e *Engine) Reset() (way Reset, why string) { return e.reset, e.why }

// Close ends the engine. No call may be running.
func (e *Engine) Close() error {
	close(e.closing)
	<-e.tidied
	e.ticker.close()
	ctx := context.Background()
	var failed error
	e.mu.Lock()
	programs := e.programs
	e.programs = map[*Program]bool{}
	e.mu.Unlock()
	for p := range programs {
		failed = errors.Join(failed, p.Close())
	}
	e.stacks.tidy(0)
	failed = errors.Join(failed, e.runtime.Close(ctx), e.cache.Close(ctx), e.images.file.Close())
	if e.pages != nil {
		failed = errors.Join(failed, e.pages.close())
	}
	return failed
}

func (e *Engine) now() time.Duration { return time.Since(e.begun) }

// Load makes a program of an artefact whose guests may have memory bytes of linear memory each. The files can be closed
// afterwards. Errors are *[Error].
func (e *Engine) Load(ctx context.Context, files *artefact.Files, memory int64) (*Program, error) {
	meta := files.Meta
	if size := int64(meta.Pages) * wasmPage; size > memory {
		return nil, errorf(Memory, "its memory is %d bytes at the start, and it may have %d", size, memory)
	}
	if !e.maps.take(programMaps) {
		return nil, errorf(Capacity, "%w", errNoMaps)
	}
	p := &Program{engine: e, meta: meta}
	err := e.compile(ctx, p, files)
	if err == nil {
		err = p.prepare(ctx, files.Image, memory)
	}
	if err != nil {
		return nil, errors.Join(err, p.release())
	}
	e.mu.Lock()
	e.programs[p] = true
	e.mu.Unlock()
	return p, nil
}

// compile has wazero load the native code.
func (e *Engine) compile(ctx context.Context, p *Program, files *artefact.Files) (err error) {
	info, err := files.Module.Stat()
	if err != nil {
		return errorf(Internal, "%w", err)
	}
	if info.Size() > module.MaxSize {
		return errorf(Stale, "the module is %d bytes long", info.Size())
	}
	wasm := make([]byte, info.Size())
	if _, err := files.Module.ReadAt(wasm, 0); err != nil {
		return errorf(Stale, "the module cannot be read: %w", err)
	}
	if !filepath.IsLocal(p.meta.Native) {
		return errorf(Stale, "the native code's name is %q", p.meta.Native)
	}
	e.loading.Lock()
	defer e.loading.Unlock()
	link := filepath.Join(e.dir, p.meta.Native)
	if err := os.MkdirAll(filepath.Dir(link), 0o700); err != nil {
		return errorf(Internal, "%w", err)
	}
	if err := os.Symlink(fmt.Sprintf("/proc/self/fd/%d", files.Native.Fd()), link); err != nil {
		return errorf(Internal, "%w", err)
	}
	defer func() {
		written, failed := e.clear()
		switch {
		case err != nil:
		case failed != nil:
			err = errorf(Internal, "%w", failed)
		case written:
			err = errorf(Stale, "the native code is not for this processor or this version of the engine")
		}
	}()
	return e.compileWasm(ctx, p, wasm)
}

// clear empties the folder of native code, and says whether wazero has written there: then it has compiled a module for want
// of native code that fits.
func (e *Engine) clear() (written bool, err error) {
	err = filepath.WalkDir(e.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		written = written || entry.Type().IsRegular()
		return os.Remove(path)
	})
	return written, err
}

// compileWasm makes p's compiled module. wazero panics when it gets no memory for native code.
func (e *Engine) compileWasm(ctx context.Context, p *Program, wasm []byte) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errorf(Capacity, "no memory for native code: %v", r)
		}
	}()
	if p.compiled, err = e.runtime.CompileModule(ctx, wasm); err != nil {
		return errorf(Stale, "the engine refuses the module: %w", err)
	}
	return nil
}

// retire keeps the globals of an instance that is gone for as long as the ticker may store to them: it has read their address
// before its present round ended.
func (e *Engine) retire(globals []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.retired = append(e.retired, retired{globals, e.ticker.round.Load()})
}

// squeeze ends all parked instances: what they hold is needed more elsewhere.
func (e *Engine) squeeze() {
	e.mu.Lock()
	programs := slices.Collect(maps.Keys(e.programs))
	e.mu.Unlock()
	for _, p := range programs {
		p.mu.Lock()
		parked := p.parked
		p.parked = nil
		p.mu.Unlock()
		for _, in := range parked {
			in.close()
		}
	}
}

const (
	tidyEach  = time.Second
	idleClean = time.Second      // after which a parked instance gives its written pages back
	idleGone  = 10 * time.Second // after which it goes, unless it is its program's last
)

func (e *Engine) tidyAlways() {
	defer close(e.tidied)
	ticks := time.NewTicker(tidyEach)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
			e.tidy(e.now())
		case <-e.closing:
			return
		}
	}
}

// tidy gives back what nobody has needed for a while.
func (e *Engine) tidy(now time.Duration) {
	e.mu.Lock()
	round := e.ticker.round.Load()
	keep := e.retired[:0]
	for _, r := range e.retired {
		// A ticker that sleeps has no address; when it is about to, a second later it has not.
		if round-r.round < 2 && e.ticker.asleep.Load() == 0 {
			keep = append(keep, r)
		}
	}
	clear(e.retired[len(keep):])
	e.retired = keep
	programs := slices.Collect(maps.Keys(e.warm))
	e.mu.Unlock()
	for _, p := range programs {
		p.tidy(now)
	}
	e.stacks.tidy(maxTokens)
}
