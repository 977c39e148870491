package engine

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"time"
	"unsafe"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// instance is one guest. It is pristine whenever it is parked.
type instance struct {
	program  *Program
	module   api.Module
	entry    api.Function
	memory   *memory
	parts    internals
	pristine []byte        // parts.globals of the beginning
	refs     int           // parts.refs of the beginning
	since    time.Duration // that it is parked
	broken   bool          // its guest trapped or was ended
}

// config gives guests no name, so that there can be many, and runs nothing of them. The source of random bytes is one that
// nobody reads: without it wazero makes one of 5 KB for each instance.
var config = wazero.NewModuleConfig().WithName("").WithStartFunctions().WithRandSource(rand.Reader)

// instantiate makes an instance.
func (p *Program) instantiate(ctx context.Context) (*instance, error) {
	e := p.engine
	if !e.maps.take(instanceMaps) {
		return nil, errorf(Capacity, "%w", errNoMaps)
	}
	in := &instance{program: p}
	var err error
	if in.memory, err = newMemory(p.image, p.reserve, p.meta.Overhead, &e.memory); err != nil {
		e.maps.give(instanceMaps)
		return nil, errorf(Capacity, "%w", err)
	}
	if err := in.charge(); err != nil {
		in.close()
		return nil, err
	}
	if in.module, err = e.runtime.InstantiateModule(experimental.WithMemoryAllocator(ctx, in.memory), p.compiled, config); err != nil {
		in.close()
		return nil, errorf(Stale, "no instance can be made: %w", err)
	}
	if err := in.open(); err != nil {
		in.close()
		return nil, errorf(Stale, "an instance cannot be used: %w", err)
	}
	return in, nil
}

// charge takes from the worker's budget what the guest may write; parked instances give what they hold when there is need.
func (in *instance) charge() error {
	e := in.program.engine
	if in.memory.charge() {
		return nil
	}
	e.squeeze()
	if in.memory.charge() {
		return nil
	}
	return errorf(Capacity, "the worker has no memory to spare: its guests have %d of %d bytes",
		e.memory.used.Load(), e.memory.limit)
}

// open finds the parts of a new instance.
func (in *instance) open() error {
	p := in.program
	in.parts = p.engine.layout.internals(in.module)
	if in.parts.buffer != nil && len(*in.parts.buffer) != p.image.size {
		return fmt.Errorf("its memory has %d bytes, the artefact says %d", len(*in.parts.buffer), p.image.size)
	}
	in.pristine, in.refs = bytes.Clone(in.parts.globals), len(*in.parts.refs)
	var err error
	in.entry, err = in.function(p.kind.Entry())
	return err
}

// function gives an exported function without a stack.
func (in *instance) function(name string) (api.Function, error) {
	f := in.module.ExportedFunction(name)
	if f == nil {
		return nil, fmt.Errorf("it exports no function %q", name)
	}
	in.program.engine.layout.setStack(reflect.ValueOf(f).UnsafePointer(), nil, 0)
	return f, nil
}

// cell is the epoch that the ticker stores to.
func (in *instance) cell() *uint32 {
	return (*uint32)(unsafe.Pointer(&in.parts.globals[16*in.program.epoch]))
}

// call calls a function, which has no parameters, on a stack that is its own for so long.
func (in *instance) call(ctx context.Context, f api.Function) error {
	e := in.program.engine
	stack, err := e.stacks.get()
	if err != nil {
		return errorf(Capacity, "%w", err)
	}
	object := reflect.ValueOf(f).UnsafePointer()
	e.layout.setStack(object, stack, stackLimit)
	err = f.CallWithStack(ctx, nil)
	e.layout.setStack(object, nil, 0)
	e.stacks.put(stack)
	if err != nil {
		err, in.broken = failure(err, in.memory.starved)
	}
	return err
}

// made is how many references to functions the guest has made.
func (in *instance) made() int { return len(*in.parts.refs) - in.refs }

// reset makes the instance pristine.
func (in *instance) reset() error {
	p := in.program
	if in.made() > 0 {
		return errors.New("it has references that cannot be taken back")
	}
	if in.memory.size > p.image.size {
		in.parts.setSize(p.image.size)
	}
	if err := p.show(); err != nil {
		return err
	}
	copy(in.parts.globals, in.pristine)
	return in.memory.reset(p.engine.pages)
}

// show makes the view of the image that a reset copies from. It stays while instances are out.
func (p *Program) show() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.image.show()
}

// close ends the instance, once.
func (in *instance) close() {
	e := in.program.engine
	switch {
	case in.memory == nil:
		return
	case in.module == nil:
		in.memory.Free()
	default:
		_ = in.module.Close(context.Background()) // frees the memory; there is nothing else in it that could fail
		e.retire(in.parts.globals)
	}
	in.memory = nil
	e.maps.give(instanceMaps)
}
