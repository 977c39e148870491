package engine

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"

	"lambent/executor/wasm/internal/abi"
	"lambent/executor/wasm/internal/artefact"
)

// Program is a loaded artefact with its parked instances. It may be used by many goroutines.
type Program struct {
	engine   *Engine
	meta     artefact.Meta
	kind     abi.Kind
	compiled wazero.CompiledModule
	image    *image
	reserve  int // bytes that a memory can grow to
	epoch    int // place of the epoch among the globals

	mu     sync.Mutex // taken before Engine.mu
	parked []*instance
	out    int // instances that are not parked
	warm   bool
	closed bool
}

// prepare makes the image and the first instance.
func (p *Program) prepare(ctx context.Context, content io.ReaderAt, limit int64) (err error) {
	p.kind = abi.Kind(p.meta.Kind)
	size := int(p.meta.Pages) * wasmPage
	p.reserve = max(size, int(min(limit/wasmPage, int64(p.meta.Max)))*wasmPage)
	if !p.meta.Image {
		p.image = &image{size: size}
	} else if p.image, err = p.engine.images.add(content, size); err != nil {
		return err
	}
	in, err := p.instantiate(ctx)
	if err != nil {
		return err
	}
	if p.epoch, err = globalIndex(in.module, p.meta.Epoch); err != nil {
		in.close()
		return errorf(Stale, "%w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.park(in)
	return nil
}

// resettable says that instances can be used again.
func (p *Program) resettable() bool {
	return p.engine.reset != ResetNever && len(p.meta.Fresh) == 0 && len(p.meta.Init) == 0 && p.meta.Image
}

// take gives a pristine instance that has the memory to run.
func (p *Program) take(ctx context.Context) (in *instance, err error) {
	p.mu.Lock()
	switch n := len(p.parked); {
	case p.closed:
		err = errorf(Internal, "the program has been closed")
	case n > 0:
		in = p.parked[n-1]
		p.parked[n-1] = nil
		p.parked = p.parked[:n-1]
	}
	if err == nil {
		p.out++
	}
	p.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if in == nil {
		in, err = p.instantiate(ctx)
	} else {
		err = in.charge()
	}
	if err != nil {
		p.put(in, false)
		return nil, err
	}
	return in, nil
}

// give takes back what take gave, and parks it if it can be used again.
func (p *Program) give(in *instance, again bool) { p.put(in, again && in.reset() == nil) }

// renew is give for an instance that nothing can reset: it parks another for the next call.
func (p *Program) renew(in *instance) {
	in.close()
	p.mu.Lock()
	enough := p.closed || len(p.parked) > 0
	p.mu.Unlock()
	in = nil
	if !enough {
		in, _ = p.instantiate(context.Background()) // the next call tries again, and says what is wrong
	}
	p.put(in, in != nil)
}

// put ends or parks an instance that was out. The last one of a program that is closed takes the program with it.
func (p *Program) put(in *instance, park bool) {
	p.mu.Lock()
	p.out--
	if park = park && !p.closed; park {
		p.park(in)
	}
	last := p.closed && p.out == 0
	p.mu.Unlock()
	if in != nil && !park {
		in.close()
	}
	if last {
		_ = p.release() // Close, which could have told, has returned
	}
}

// park puts a pristine instance where take finds it. p.mu must be held.
func (p *Program) park(in *instance) {
	in.since = p.engine.now()
	in.memory.settle()
	p.parked = append(p.parked, in)
	p.warmUp()
}

// warmUp has tidy look at p. p.mu must be held.
func (p *Program) warmUp() {
	if p.warm {
		return
	}
	p.warm = true
	p.engine.mu.Lock()
	defer p.engine.mu.Unlock()
	p.engine.warm[p] = true
}

// tidy cleans instances that have been parked for a while, and ends those that have been for long but one.
func (p *Program) tidy(now time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed { // its image may be gone
		return
	}
	for len(p.parked) > 1 && now-p.parked[0].since > idleGone {
		p.parked[0].close()
		p.parked = p.parked[1:]
	}
	hot := len(p.parked) > 1 || p.out > 0
	for _, in := range p.parked {
		if now-in.since > idleClean {
			in.memory.clean()
		} else {
			hot = true
		}
	}
	if hot {
		return
	}
	p.image.hide()
	p.warm = false
	p.engine.mu.Lock()
	defer p.engine.mu.Unlock()
	delete(p.engine.warm, p)
}

// Close ends the program. Calls that run end as they would; the last of them releases what the program holds.
func (p *Program) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	parked, last := p.parked, p.out == 0
	p.parked = nil
	p.mu.Unlock()
	for _, in := range parked {
		in.close()
	}
	if last {
		return p.release()
	}
	return nil
}

// release gives back what Load took. No instance is there.
func (p *Program) release() error {
	p.engine.mu.Lock()
	delete(p.engine.programs, p)
	delete(p.engine.warm, p)
	p.engine.mu.Unlock()
	var failed error
	if p.image != nil {
		failed = p.image.remove()
	}
	if p.compiled != nil {
		failed = errors.Join(failed, p.compiled.Close(context.Background()))
	}
	p.engine.maps.give(programMaps)
	return failed
}
