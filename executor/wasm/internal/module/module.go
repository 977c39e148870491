// Package module reads and rewrites WebAssembly modules: binary in, binary out, no engine. Its input is hostile: Parse
// bounds every count by the bytes that are there before anything is made of it, and what it has accepted is safe to
// hand to the engine's own decoder, which is not so careful.
//
// The life of a module here is Parse, a look at its Facts, Instrument, a run of the result elsewhere, and Bake.
//
// Source: WebAssembly Core Specification 2.0, with the proposals tail-call and extended-const.
package module

import "fmt"

// Limits of a module: they bound what reading, compiling and running it can cost. Compilers stay far below most of them.
const (
	PageSize     = 65536     // bytes of a page of linear memory
	MaxSize      = 64 << 20  // bytes of a module
	MaxTypes     = 16384     // function types
	MaxImports   = 1024      // imported functions
	MaxFunctions = 100_000   // functions of the module's own
	MaxTables    = 64        // tables
	MaxElements  = 1 << 17   // elements of all tables together, also after table.grow
	MaxGlobals   = 16384     // globals
	MaxExports   = 16384     // exports
	MaxSegments  = 100_000   // data segments, and as many element segments
	MaxParams    = 1000      // parameters of a function, and as many results
	MaxLocals    = 50_000    // variables of a function, parameters aside
	MaxBody      = 7_654_321 // bytes of a function
	MaxDepth     = 50_000    // of nested blocks
	MaxRefs      = 1 << 16   // references to functions that an instance may make while it runs, and in a function's code
	MaxBranches  = 65520     // targets of one br_table
	MaxName      = 4096      // bytes of the name of an import or export
	maxPages     = 65536     // of a memory
	maxNames     = 1 << 20   // bytes of the name section that is kept
	maxFunction  = 512       // bytes of one name in it
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
	// dropped segments, globals that hold references or vectors, of which it names one. Empty: memory and Exposed globals
	// are all its state.
	Stateful []string
	Overhead int64 // bytes on the heap of the engine's process that an instance takes at most, besides its memory
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
	Name string // of the export
	Type ValueType
}
