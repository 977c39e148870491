package engine

import (
	"fmt"
	"reflect"
	"unsafe"

	"github.com/tetratelabs/wazero/api"
)

// layout says where wazero keeps what its API does not let us set, found once by the names of the fields. It is true for
// the version that go.mod pins; findLayout refuses any other shape, and the self-test proves what is done with it.
type layout struct {
	memory, engine, globals uintptr // of wasm.ModuleInstance
	buffer, capacity        uintptr // of wasm.MemoryInstance
	opaque, compiled, refs  uintptr // of wazevo.moduleEngine
	localMemory, globalsAt  uintptr // of wazevo.compiledModule, its offsets into opaque
	stack, stackTop, bottom uintptr // of wazevo.callEngine
}

// findLayout takes the layout from an instance with a memory, and a function of it.
func findLayout(module api.Module, function api.Function) (l layout, err error) {
	find := func(to *uintptr, t reflect.Type, kind reflect.Kind, path ...string) (found reflect.Type) {
		var offset uintptr
		for _, name := range path {
			if err != nil {
				return nil
			}
			if t.Kind() != reflect.Struct {
				err = fmt.Errorf("wazero's %s is no struct", t)
				return nil
			}
			field, ok := t.FieldByName(name)
			if !ok {
				err = fmt.Errorf("wazero's %s has no field %s", t, name)
				return nil
			}
			offset, t = offset+field.Offset, field.Type
		}
		if t.Kind() != kind {
			err = fmt.Errorf("wazero's field %s is a %s, not a %s", path, t.Kind(), kind)
			return nil
		}
		*to = offset
		return t
	}
	instance := reflect.TypeOf(module).Elem()
	if memory := find(&l.memory, instance, reflect.Pointer, "MemoryInstance"); memory != nil {
		find(&l.buffer, memory.Elem(), reflect.Slice, "Buffer")
		find(&l.capacity, memory.Elem(), reflect.Uint32, "Cap")
	}
	find(&l.globals, instance, reflect.Slice, "Globals")
	find(&l.engine, instance, reflect.Interface, "Engine")
	if err != nil {
		return l, err
	}
	engine := reflect.ValueOf(module).Elem().FieldByName("Engine").Elem().Type().Elem()
	find(&l.opaque, engine, reflect.Slice, "opaque")
	find(&l.refs, engine, reflect.Slice, "localFunctionInstances")
	if compiled := find(&l.compiled, engine, reflect.Pointer, "parent"); compiled != nil {
		find(&l.localMemory, compiled.Elem(), reflect.Int32, "offsets", "LocalMemoryBegin")
		find(&l.globalsAt, compiled.Elem(), reflect.Int32, "offsets", "GlobalsBegin")
	}
	call := reflect.TypeOf(function).Elem()
	find(&l.stack, call, reflect.Slice, "stack")
	find(&l.stackTop, call, reflect.Uintptr, "stackTop")
	find(&l.bottom, call, reflect.Pointer, "execCtx", "stackBottomPtr")
	return l, err
}

func field[T any](base unsafe.Pointer, offset uintptr) *T { return (*T)(unsafe.Add(base, offset)) }

// internals are the parts of an instance that a reset sets, and what grows with each ref.func that its guest executes.
type internals struct {
	buffer   *[]byte           // memory as host functions see it; nil without a memory
	capacity *uint32           // in pages
	local    *[2]uint64        // memory as native code sees it: address and length
	globals  []byte            // 16 bytes each
	refs     *[]unsafe.Pointer // each an object on Go's heap
}

func (l *layout) internals(module api.Module) (in internals) {
	instance := reflect.ValueOf(module).UnsafePointer()
	engine := (*field[[2]unsafe.Pointer](instance, l.engine))[1]
	opaque := *field[[]byte](engine, l.opaque)
	compiled := *field[unsafe.Pointer](engine, l.compiled)
	in.refs = field[[]unsafe.Pointer](engine, l.refs)
	if memory := *field[unsafe.Pointer](instance, l.memory); memory != nil {
		in.buffer = field[[]byte](memory, l.buffer)
		in.capacity = field[uint32](memory, l.capacity)
		at := *field[int32](compiled, l.localMemory)
		in.local = field[[2]uint64](unsafe.Pointer(unsafe.SliceData(opaque)), uintptr(at))
	}
	if n := len(*field[[]unsafe.Pointer](instance, l.globals)); n > 0 {
		at := int(*field[int32](compiled, l.globalsAt))
		in.globals = opaque[at : at+16*n]
	}
	return in
}

// setSize makes the memory size bytes long. It must have been at least as long.
func (in *internals) setSize(size int) {
	whole := *in.buffer
	*in.buffer = whole[:size:size]
	*in.capacity = uint32(size / wasmPage)
	in.local[1] = uint64(size)
	if size == 0 {
		in.local[0] = 0
	}
}

// globalIndex finds the place of an exported global among internals.globals.
func globalIndex(module api.Module, name string) (index int, err error) {
	global := module.ExportedGlobal(name)
	if global == nil {
		return 0, fmt.Errorf("the module has no exported global %q", name)
	}
	if _, mutable := global.(api.MutableGlobal); !mutable || global.Type() != api.ValueTypeI32 {
		return 0, fmt.Errorf("the exported global %q is no mutable i32", name)
	}
	instance := reflect.ValueOf(global).FieldByName("g")
	if !instance.IsValid() || instance.Kind() != reflect.Pointer {
		return 0, fmt.Errorf("wazero's %T has no field g", global)
	}
	field := instance.Elem().FieldByName("Index")
	if !field.IsValid() || field.Kind() != reflect.Uint32 {
		return 0, fmt.Errorf("wazero's %s has no field Index", instance.Type())
	}
	return int(field.Uint()), nil
}

// setStack makes function run on stack. wazero would make it a longer one when it has no room between limit and the
// top, but for one that is longer than callStackCeiling in internal/engine/wazevo, as stackReserve is; then it
// fails with a stack overflow.
func (l *layout) setStack(function unsafe.Pointer, stack []byte, limit int) {
	if stack == nil {
		*field[[]byte](function, l.stack) = nil
		*field[uintptr](function, l.stackTop) = 0
		*field[*byte](function, l.bottom) = nil
		return
	}
	top := uintptr(unsafe.Pointer(&stack[len(stack)-1]))
	*field[[]byte](function, l.stack) = stack
	*field[uintptr](function, l.stackTop) = top &^ 15
	*field[*byte](function, l.bottom) = &stack[len(stack)-limit]
}
