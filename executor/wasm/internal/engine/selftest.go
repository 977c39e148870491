package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"lambent/executor/wasm/internal/abi"
	"lambent/executor/wasm/internal/artefact"
)

// probe is the guest of the self-test. In the text format:
//
//	(module
//	  (import "lambent_engine" "yield" (func $yield))
//	  (memory 2 8)
//	  (global $number (export "number") (mut i64) (i64.const 42))
//	  (global $epoch (export "epoch") (mut i32) (i32.const 0))
//	  (func (export "handle")
//	    (drop (memory.grow (i32.const 2)))
//	    (memory.fill (i32.const 0) (i32.const 0xa5) (i32.shl (memory.size) (i32.const 16)))
//	    (global.set $number (i64.const 7))
//	    (call $yield)))
var probe = []byte("\x00asm\x01\x00\x00\x00" +
	"\x01\x04\x01\x60\x00\x00" +
	"\x02\x18\x01\x0elambent_engine\x05yield\x00\x00" +
	"\x03\x02\x01\x00" +
	"\x05\x04\x01\x01\x02\x08" +
	"\x06\x0b\x02\x7e\x01\x42\x2a\x0b\x7f\x01\x41\x00\x0b" +
	"\x07\x1b\x03\x06handle\x00\x01\x06number\x03\x00\x05epoch\x03\x01" +
	"\x0a\x1c\x01\x1a\x00\x41\x02\x40\x00\x1a\x41\x00\x41\xa5\x01\x3f\x00\x41\x10\x74\xfc\x0b\x00" +
	"\x42\x07\x24\x00\x10\x00\x0b")

const probePages = 2

// choose finds how wazero is laid out and, by a trial of each, the first way to reset that works here.
func (e *Engine) choose(ctx context.Context, ways ...Reset) error {
	image := make([]byte, probePages*wasmPage)
	for i := range 3 * hostPage { // in the middle, so that there are zeros on both sides
		image[5*hostPage+i] = byte(i%251 + 1)
	}
	p := &Program{engine: e, meta: artefact.Meta{
		Kind: string(abi.Reactor), Image: true, Pages: probePages, Max: 8, Epoch: "epoch",
	}}
	if !e.maps.take(programMaps) {
		return errNoMaps
	}
	defer func() { _ = p.Close() }() // Load of a real program tells the same
	err := e.compileWasm(ctx, p, probe)
	if _, failed := e.clear(); err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	module, err := e.runtime.InstantiateModule(ctx, p.compiled, config)
	if err != nil {
		return err
	}
	e.layout, err = findLayout(module, module.ExportedFunction("handle"))
	if err := errors.Join(err, module.Close(ctx)); err != nil {
		return err
	}
	if err := p.prepare(ctx, bytes.NewReader(image), 4*wasmPage); err != nil {
		return err
	}
	var failed error
	for _, e.reset = range ways {
		if e.pages, err = newPages(e.reset); err == nil {
			if err = e.try(ctx, p, image); err == nil {
				break
			}
			err = errors.Join(err, e.pages.close())
		}
		e.pages = nil
		failed = errors.Join(failed, fmt.Errorf("reset by %s: %w", e.reset, err))
	}
	if e.pages == nil {
		e.reset = ResetNever
	}
	if failed != nil {
		e.why = failed.Error()
	}
	return nil
}

// try has the probe write everything that it can, and looks for what is left of it after a reset.
func (e *Engine) try(ctx context.Context, p *Program, image []byte) error {
	for range 3 {
		in, err := p.take(ctx)
		if err != nil {
			return err
		}
		r := &run{Context: ctx, engine: e, call: new(abi.Call), in: in, token: -1}
		if end := r.acquire(); end != nil {
			return end
		}
		err = in.call(r, in.entry)
		r.release()
		written := *in.parts.buffer
		if err == nil && (len(written) != len(image)+2*wasmPage || bytes.Count(written, []byte{0xa5}) != len(written)) {
			err = errors.New("the guest did not write its memory")
		}
		if err == nil {
			err = in.check(image)
		}
		p.give(in, err == nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// check resets and compares with what there was in the beginning, and with zeros where memory had been grown.
func (in *instance) check(image []byte) error {
	if err := in.reset(); err != nil {
		return err
	}
	memory := in.module.Memory()
	switch {
	case !bytes.Equal(*in.parts.buffer, image):
		return errors.New("memory is not what it was")
	case memory.Size() != uint32(len(image)):
		return fmt.Errorf("memory has %d bytes and had %d", memory.Size(), len(image))
	case in.module.ExportedGlobal("number").Get() != 42:
		return errors.New("a global is not what it was")
	}
	if _, ok := memory.Grow(2); !ok {
		return errors.New("memory cannot be grown again")
	}
	grown := (*in.parts.buffer)[len(image):]
	if len(grown) != 2*wasmPage || bytes.Count(grown, []byte{0}) != len(grown) {
		return errors.New("grown memory has what an earlier call wrote")
	}
	return nil
}
