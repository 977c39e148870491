package module

import "fmt"

// What to do about a feature that is not supported.
const (
	hintTarget     = "compile for the target wasm32-wasip1 without experimental features"
	hintThreads    = "compile without threads: -pthread, the target feature atomics and shared memories are not supported"
	hintExceptions = "compile without WebAssembly exceptions (for C++: -fno-exceptions; for Rust: panic=abort)"
	hintGC         = "languages that need WebAssembly GC do not run here; use a runtime that brings its own collector"
	hintRelaxed    = "compile without relaxed SIMD (-mno-relaxed-simd); the SIMD of WebAssembly 2.0 is supported"
	hintMemories   = "compile for one 32-bit linear memory of the module's own: wasm32-wasip1"
)

// rewriter copies what is read and puts other bytes in some places. A nil one only reads.
type rewriter struct {
	out      []byte
	from     int    // what lies before it in the source has been copied
	imported uint32 // functions that were imported before ours: the indices from here on move up by one
	check    []byte // what to insert at function entries and loop headers, and before what takes long
}

func (w *rewriter) copyTo(r *reader, to int) {
	w.out = append(w.out, r.src[w.from:to]...)
	w.from = to
}

func (w *rewriter) shift(f uint32) uint32 {
	if f >= w.imported {
		f++
	}
	return f
}

// function replaces the index that was just read, which began at from.
func (w *rewriter) function(r *reader, from int, f uint32) {
	if w == nil {
		return
	}
	w.copyTo(r, from)
	w.out, w.from = appendU32(w.out, w.shift(f)), r.at
}

// insertCheck puts a check at an offset of the source.
func (w *rewriter) insertCheck(r *reader, at int) {
	if w == nil {
		return
	}
	w.copyTo(r, at)
	w.out = append(w.out, w.check...)
}

func (m *Module) functionIndex(r *reader, w *rewriter) {
	from := r.at
	w.function(r, from, r.index(m.functions(), "function"))
}

// body reads a function's locals and instructions. Only encodings that leave no choice are let through: if the engine
// took a byte for another instruction than this walk does, a loop could hide from its check.
func (m *Module) body(r *reader, w *rewriter, f uint32) {
	locals, refs := uint64(0), 0
	for range r.count(MaxLocals, "groups of locals") {
		from := r.at
		if locals += uint64(r.u32("the number of locals")); locals > MaxLocals {
			fail(from, "function %d has more than %d local variables", f, MaxLocals)
		}
		r.valueType("a local variable")
	}
	w.insertCheck(r, r.at)
	for depth := 1; depth > 0; {
		from := r.at
		switch op := r.byte("the body of a function"); op {
		case 0x02, 0x03, 0x04: // block, loop, if
			if depth++; depth > MaxDepth {
				fail(from, "function %d nests blocks deeper than %d", f, MaxDepth)
			}
			m.blockType(r)
			if op == 0x03 {
				w.insertCheck(r, r.at)
			}
		case 0x0b: // end
			depth--
		case 0x0c, 0x0d: // br, br_if
			r.index(uint32(depth), "block label")
		case 0x0e: // br_table
			for range r.count(MaxBranches, "targets of a br_table") + 1 {
				r.index(uint32(depth), "block label")
			}
		case 0x10, 0x12: // call, return_call
			m.functionIndex(r, w)
		case 0x11, 0x13: // call_indirect, return_call_indirect
			r.index(uint32(len(m.types)), "type")
			r.index(m.tableCount, "table")
		case 0x1c: // select with a type
			if r.byte("a select") != 1 {
				fail(from, "a select must have one type")
			}
			r.valueType("a select")
		case 0x20, 0x21, 0x22: // local.get, local.set, local.tee
			r.u32("the index of a local variable")
		case 0x23, 0x24: // global.get, global.set
			r.index(uint32(len(m.globals)), "global")
		case 0x25, 0x26: // table.get, table.set
			r.index(m.tableCount, "table")
			if op == 0x26 {
				m.changes("table.set", f)
			}
		case 0x3f, 0x40: // memory.size, memory.grow
			r.memory()
		case 0x41:
			r.signed(32, "an i32.const")
		case 0x42:
			r.signed(64, "an i64.const")
		case 0x43:
			r.skip(4, "an f32.const")
		case 0x44:
			r.skip(8, "an f64.const")
		case 0xd0: // ref.null
			r.refType("a null reference")
		case 0xd2: // ref.func: the engine keeps what it makes, and asks for no check in between
			m.makesRefs = true
			if refs++; refs > MaxRefs {
				fail(from, "function %d has more than %d references to functions", f, MaxRefs)
			}
			m.functionIndex(r, w)
		case 0xfc:
			if r.at < len(r.src) && r.src[r.at] >= 8 { // it takes as long as the memory or table is large
				w.insertCheck(r, from)
			}
			m.misc(r, f)
		case 0xfd:
			r.vector()
		default:
			switch {
			case op >= 0x28 && op <= 0x3e:
				r.address()
			case op <= 0x01 || op == 0x05 || op == 0x0f || op == 0x1a || op == 0x1b || op >= 0x45 && op <= 0xc4 || op == 0xd1:
			default:
				unknownInstruction(from, op)
			}
		}
	}
	r.done(fmt.Sprintf("function %d", f))
}

func unknownInstruction(at int, op byte) {
	switch op {
	case 0x06, 0x07, 0x08, 0x09, 0x0a, 0x18, 0x19, 0x1f:
		unsupported(at, "exception handling", hintExceptions)
	case 0x14, 0x15, 0xd3, 0xd4, 0xd5, 0xd6:
		unsupported(at, "typed function references", hintTarget)
	case 0xfb:
		unsupported(at, "garbage collected types", hintGC)
	case 0xfe:
		unsupported(at, "threads", hintThreads)
	}
	fail(at, "there is no instruction %#x", op)
}

func (m *Module) blockType(r *reader) {
	from := r.at
	if b := r.byte("the type of a block"); b == 0x40 {
		return
	}
	r.at = from
	if r.src[from]&0xc0 == 0x40 { // one byte and negative: a value type
		r.valueType("a block")
		return
	}
	if t := r.signed(33, "the type of a block"); t < 0 || t >= int64(len(m.types)) {
		fail(from, "there is no type %d for a block", t)
	}
}

// memory reads the index of a memory, which is 0 in one byte while there is one memory.
func (r *reader) memory() {
	if from := r.at; r.byte("the index of a memory") != 0 {
		unsupported(from, "several memories", hintMemories)
	}
}

// address reads the immediates of a load or store. The engine checks the alignment.
func (r *reader) address() {
	from := r.at
	if align := r.u32("an alignment"); align&0x40 != 0 {
		unsupported(from, "several memories", hintMemories)
	} else if align >= 32 {
		fail(from, "an alignment of 2**%d bytes is too much", align)
	}
	r.u32("an offset")
}

func (m *Module) misc(r *reader, f uint32) {
	from := r.at
	switch op := r.byte("an instruction"); op {
	case 0, 1, 2, 3, 4, 5, 6, 7: // saturating truncations
	case 8: // memory.init
		m.usesData = true
		r.u32("the index of a data segment")
		r.memory()
	case 9:
		m.usesData = true
		r.u32("the index of a data segment")
		m.changes("data.drop", f)
	case 10: // memory.copy
		r.memory()
		r.memory()
	case 11: // memory.fill
		r.memory()
	case 12:
		r.u32("the index of an element segment")
		r.index(m.tableCount, "table")
		m.changes("table.init", f)
	case 13:
		r.u32("the index of an element segment")
		m.changes("elem.drop", f)
	case 14:
		r.index(m.tableCount, "table")
		r.index(m.tableCount, "table")
		m.changes("table.copy", f)
	case 15:
		r.index(m.tableCount, "table")
		m.changes("table.grow", f)
	case 16: // table.size
		r.index(m.tableCount, "table")
	case 17:
		r.index(m.tableCount, "table")
		m.changes("table.fill", f)
	default:
		fail(from, "there is no instruction 0xfc %#x, or it is not encoded in the shortest way", op)
	}
}

// vector reads a SIMD instruction after its prefix. The engine takes the second byte of those with two for a nop, so
// no other encoding of them may pass.
func (r *reader) vector() {
	from := r.at
	switch op := r.byte("a vector instruction"); {
	case op <= 11, op == 92, op == 93: // loads and stores
		r.address()
	case op == 12, op == 13: // v128.const, i8x16.shuffle
		r.skip(16, "a vector constant")
	case op >= 21 && op <= 34: // extract and replace a lane
		r.byte("the number of a lane")
	case op >= 84 && op <= 91: // load and store a lane
		r.address()
		r.byte("the number of a lane")
	case op >= 0x80:
		switch r.byte("a vector instruction") {
		case 1:
		case 2:
			unsupported(from, "relaxed SIMD", hintRelaxed)
		default:
			fail(from, "a vector instruction is not encoded in the shortest way")
		}
	}
}

// constant reads a constant expression.
func (m *Module) constant(r *reader, w *rewriter, what string) {
	for {
		from := r.at
		switch op := r.byte(what); op {
		case 0x0b:
			return
		case 0x23: // global.get: no global is imported, and the engine allows no other
			fail(from, "%s reads a global that is not imported", what)
		case 0x41:
			r.signed(32, what)
		case 0x42:
			r.signed(64, what)
		case 0x43:
			r.skip(4, what)
		case 0x44:
			r.skip(8, what)
		case 0x6a, 0x6b, 0x6c, 0x7c, 0x7d, 0x7e:
		case 0xd0:
			r.refType(what)
		case 0xd2:
			m.functionIndex(r, w)
		case 0xfd:
			if r.byte(what) != 12 {
				fail(from, "%s has a vector instruction other than v128.const", what)
			}
			r.skip(16, what)
		default:
			fail(from, "%s has the instruction %#x, which is not constant", what, op)
		}
	}
}
