// Package module reads and rewrites WebAssembly modules: binary in, binary out, no engine. Its input is hostile: Parse
// bounds every count by the bytes that are there before anything is made of it, and what it has accepted is safe to
// hand to the engine's own decoder, which is not so careful.
//
// The life of a module here is Parse, a look at its Facts, Instrument, a run of the result elsewhere, and Bake.
//
// Source: WebAssembly Core Specification 2.0, with the proposals tail-call and extended-const.
package module

import "fmt"

// Limits of a module. Those that are not about memory are the ones that browsers agreed on in the WebAssembly
// JavaScript Interface 2.0, "Implementation-defined limits", some of them lower: they bound the compiler's work.
const (
	MaxSize       = 64 << 20 // bytes of a module
	MaxTypes      = 16384
	MaxFunctions  = 100_000 // declared and imported
	MaxGlobals    = 16384
	MaxExports    = 16384
	MaxImports    = 1024
	MaxSegments   = 100_000 // of data, and of elements
	MaxTables     = 64
	MaxTableSize  = 1 << 20 // elements of one table at the start
	MaxParams     = 128     // of a function, and its results
	MaxLocals     = 10_000  // of a function, parameters aside
	MaxBody       = 4 << 20 // bytes of a function
	MaxDepth      = 1024    // of nested blocks
	MaxBranches   = 16384   // of one br_table
	MaxName       = 4096    // bytes of the name of an import or export
	PageSize      = 65536   // bytes of a page of linear memory
	maxNames      = 1 << 20 // bytes of the name section that is kept
	maxNamesEntry = 512     // bytes of one name in it
)

// Error says why a module is refused.
type Error struct {
	Offset int    // in the module, bytes
	What   string // what is wrong, and where
	Hint   string // how to mend it; "" when the module is just broken
}

// Error gives the reason and the offset.
func (e *Error) Error() string { return fmt.Sprintf("%s (at byte %#x)", e.What, e.Offset) }

// ValueType is the type of a value, as the binary format writes it.
type ValueType byte

// The value types.
const (
	I32       ValueType = 0x7f
	I64       ValueType = 0x7e
	F32       ValueType = 0x7d
	F64       ValueType = 0x7c
	V128      ValueType = 0x7b
	FuncRef   ValueType = 0x70
	ExternRef ValueType = 0x6f
)

// Number says whether values of this type are integers or floats of at most 64 bits.
func (t ValueType) Number() bool { return t >= F64 && t <= I32 }

// String gives the name in the text format.
func (t ValueType) String() string {
	switch t {
	case I32:
		return "i32"
	case I64:
		return "i64"
	case F32:
		return "f32"
	case F64:
		return "f64"
	case V128:
		return "v128"
	case FuncRef:
		return "funcref"
	case ExternRef:
		return "externref"
	}
	return fmt.Sprintf("type %#x", byte(t))
}

// FuncType is the signature of a function.
type FuncType struct{ Params, Results []ValueType }

// Import is an imported function: nothing else can be imported here.
type Import struct {
	Module, Name string
	Type         FuncType
}

// Kind says what an export is, as the binary format writes it.
type Kind byte

// The kinds of exports.
const (
	KindFunc   Kind = 0
	KindTable  Kind = 1
	KindMemory Kind = 2
	KindGlobal Kind = 3
)

// Export is an exported thing.
type Export struct {
	Name string
	Kind Kind
	Type FuncType // of a function
}

// Memory is a module's own linear memory, sizes in pages.
type Memory struct {
	Min uint32
	Max uint32 // 65536 when it has none
}

// Facts are what the rest of the tier wants to know about a module.
type Facts struct {
	Imports []Import
	Exports []Export
	Memory  *Memory // nil: it has none
	Start   bool    // it has a start function
	// Stateful lists, in words for people, what the module can change and nobody can put back from outside: tables,
	// dropped segments, globals that hold references or vectors. Empty: memory and Exposed globals are all its state.
	Stateful []string
}

// Export finds an export by its name and kind.
func (f Facts) Export(name string, kind Kind) (Export, bool) {
	for _, e := range f.Exports {
		if e.Name == name && e.Kind == kind {
			return e, true
		}
	}
	return Export{}, false
}

// The function that an instrumented module imports, of type [] -> [], and calls when its epoch global is not zero.
const (
	YieldModule = "lambent_engine"
	YieldName   = "yield"
)

// Global is a mutable global that an instrumented module exports.
type Global struct {
	Name string    `json:"name"` // of the export
	Type ValueType `json:"type"`
}

// Instrumented is a module that can be interrupted and whose state can be read and set.
type Instrumented struct {
	Wasm    []byte
	Epoch   string   // name of the exported mutable i32 global: not zero asks for a call of yield
	Globals []Global // every mutable global of a numeric type, the epoch aside
}

// Snapshot is the state to bake into a module.
type Snapshot struct {
	Pages   uint32   // size of the memory
	Globals []uint64 // bits of the values of Instrumented.Globals, in their order
}
