package abi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"lambent"
)

// function is a host function.
type function struct {
	name            string
	params, results string // i for an i32, I for an i64
	call            func(c *Call, m api.Memory, stack []uint64)
}

// modules are the host's, by the names that guests import them by.
var modules = map[string][]function{wasiModule: wasi, Module: reactor}

// Instantiate gives r the host's modules.
func Instantiate(ctx context.Context, r wazero.Runtime) error {
	for name, functions := range modules {
		b := r.NewHostModuleBuilder(name)
		for _, f := range functions {
			call := f.call
			b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, m api.Module, stack []uint64) {
				c := from(ctx)
				if c.calls++; c.calls%turn == 0 {
					c.yield()
				}
				call(c, m.Memory(), stack)
			}), valueTypes(f.params), valueTypes(f.results)).Export(f.name)
		}
		if _, err := b.Instantiate(ctx); err != nil {
			return fmt.Errorf("host module %s: %w", name, err)
		}
	}
	return nil
}

// turn is how many calls of host functions a guest may make in a row without a check: there is none in code without loops.
const turn = 16

func valueTypes(signature string) []api.ValueType {
	types := make([]api.ValueType, len(signature))
	for i, c := range signature {
		types[i] = api.ValueTypeI32
		if c == 'I' {
			types[i] = api.ValueTypeI64
		}
	}
	return types
}

// piece is how many bytes a host function handles at a time: what takes less than a tick.
const piece = 64 << 10

// ending is the panic by which a host function ends a call.
type ending struct{ err error }

// Error implements error.
func (e *ending) Error() string { return e.err.Error() }

// end ends the call; Finish gives err.
func (c *Call) end(err error) { panic(&ending{err}) }

// memory gives a part of the guest's memory. One that is not there ends the call.
func (c *Call) memory(m api.Memory, function string, at, size uint32) []byte {
	b, ok := m.Read(at, size)
	if !ok {
		c.end(lambent.Errorf(lambent.CodeHandlerError, "the module called %s.%s with %d bytes at %#x, beyond its memory of %d bytes", Module, function, size, at, m.Size()))
	}
	return b
}

var errNoProgress = errors.New("the request's body gives neither bytes nor an end")

// read reads the request's body as it comes; 0 is its end. A body that breaks off must not pass for the whole, so that
// ends the call.
func (c *Call) read(p []byte) int {
	if c.Body == nil || c.ended || len(p) == 0 {
		return 0
	}
	var n int
	var err error
	read := func() {
		for range 100 {
			if n, err = c.Body.Read(p); n > 0 || err != nil {
				return
			}
		}
		err = errNoProgress
	}
	if b, ok := c.Body.(interface{ Buffered() int }); ok && b.Buffered() > 0 {
		read()
	} else {
		c.flush() // who sends the body may wait for what has been said
		c.block(read)
	}
	if err != nil && err != io.EOF {
		c.end(err)
	}
	c.taken += int64(n)
	c.ended = err != nil || c.taken == c.Length
	return n
}

var le = binary.LittleEndian
