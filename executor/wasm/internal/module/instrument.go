package module

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strconv"
)

// Names of the exports that Instrument adds; where the module has one of the name, ours gets a prime.
const (
	epochName  = "lambent:epoch"
	startName  = "lambent:start"
	globalName = "lambent:global:"
)

// hollowName is the custom section that says what a hollow module was made of.
const hollowName = "lambent:hollow"

// Instrumented is a module that can be interrupted and whose state can be read and set. It runs none of its code when
// it is instantiated: a start function is an export here.
type Instrumented struct {
	Wasm    []byte
	Epoch   string   // name of the exported mutable i32 global: not zero asks for a call of yield
	Start   string   // name of the exported start function, to be called before all others; "" without one
	Globals []Global // every mutable global of a numeric type, the epoch aside

	m        *Module
	sections [sections][]byte // content by section number, nil where there is none
	custom   [][]byte         // content of the custom sections
}

// Instrument makes the module interruptible. At each function's entry and each loop's head stands
//
//	global.get $epoch  if  call $yield  end
//
// so that no code runs for long without looking at the epoch; the call is one to the host, which does what is to be
// done. All functions move up by one index, as yield is the last import. Custom sections are left out, but for the
// names of functions.
func (m *Module) Instrument() *Instrumented {
	in := &Instrumented{m: m}
	yieldType := slices.IndexFunc(m.types, func(t FuncType) bool { return len(t.Params)+len(t.Results) == 0 })
	if yieldType < 0 {
		yieldType = len(m.types)
		in.sections[secType] = m.longer(secType, []byte{0x60, 0, 0})
	} else {
		in.sections[secType] = m.longer(secType, nil)
	}
	yield := appendName(appendName(nil, YieldModule), YieldName)
	in.sections[secImport] = m.longer(secImport, appendU32(append(yield, 0), uint32(yieldType)))
	for _, id := range []int{secFunction, secMemory, secDataCount, secData} {
		if s := m.sections[id]; s != nil {
			in.sections[id] = s.src[s.at:s.end]
		}
	}
	in.sections[secTable] = m.encodeTables()
	in.sections[secGlobal] = m.encodeGlobals(nil)
	in.sections[secExport] = in.encodeExports()
	if s := m.sections[secElement]; s != nil {
		r, w := m.rewrite(s)
		m.readElements(r, w)
		w.copyTo(r, r.at)
		in.sections[secElement] = w.out
	}
	in.sections[secCode] = m.encodeCode()
	if len(m.names) > 0 {
		in.custom = [][]byte{m.encodeNames()}
	}
	in.Wasm = assemble(in.sections, in.custom)
	return in
}

// longer gives a section that is a vector with more, one encoded entry, at its end; nil adds none.
func (m *Module) longer(id int, more []byte) []byte {
	n, entries := uint32(0), []byte(nil)
	if s := m.sections[id]; s != nil {
		r := *s
		n = r.u32("")
		entries = r.src[r.at:r.end]
	}
	if more != nil {
		n++
	}
	return slices.Concat(appendU32(nil, n), entries, more)
}

func (m *Module) rewrite(s *reader) (*reader, *rewriter) {
	r := *s
	return &r, &rewriter{from: r.at, imported: uint32(len(m.imports))}
}

func (m *Module) encodeTables() []byte {
	if len(m.tables) == 0 {
		return nil
	}
	out := appendU32(nil, m.tableCount)
	for _, t := range m.tables {
		out = appendU32(appendU32(append(out, byte(t.typ), 1), t.min), t.max)
	}
	return out
}

// encodeGlobals writes the globals with the values for the exposed ones, or without values as they were, and the epoch.
func (m *Module) encodeGlobals(values []uint64) []byte {
	out := appendU32(nil, uint32(len(m.globals)+1))
	for _, g := range m.globals {
		out = append(out, byte(g.typ), 0)
		if g.mutable {
			out[len(out)-1] = 1
		}
		if values != nil && g.exposed() {
			out = append(appendValue(out, g.typ, values[0]), 0x0b)
			values = values[1:]
			continue
		}
		r, w := m.rewrite(g.init)
		m.constant(r, w, "")
		w.copyTo(r, r.at)
		out = append(out, w.out...)
	}
	return append(out, byte(I32), 1, 0x41, 0, 0x0b)
}

func (g global) exposed() bool { return g.mutable && g.typ.Number() }

func appendValue(out []byte, t ValueType, bits uint64) []byte {
	switch t {
	case I32:
		return appendSigned(append(out, 0x41), int64(int32(bits)))
	case I64:
		return appendSigned(append(out, 0x42), int64(bits))
	case F32:
		return binary.LittleEndian.AppendUint32(append(out, 0x43), uint32(bits))
	default:
		return binary.LittleEndian.AppendUint64(append(out, 0x44), bits)
	}
}

func (in *Instrumented) encodeExports() []byte {
	m, taken := in.m, map[string]bool{}
	w := &rewriter{imported: uint32(len(m.imports))}
	n, out := 0, []byte(nil)
	add := func(name string, kind Kind, index uint32) string {
		for taken[name] {
			name += "'"
		}
		taken[name] = true
		if kind == KindFunc {
			index = w.shift(index)
		}
		n, out = n+1, appendU32(append(appendName(out, name), byte(kind)), index)
		return name
	}
	for _, e := range m.exports {
		add(e.name, e.kind, e.index)
	}
	in.Epoch = add(epochName, KindGlobal, uint32(len(m.globals)))
	if m.start != nil {
		in.Start = add(startName, KindFunc, *m.start)
	}
	for i, g := range m.globals {
		if g.exposed() {
			name := add(globalName+strconv.Itoa(i), KindGlobal, uint32(i))
			in.Globals = append(in.Globals, Global{name, g.typ})
		}
	}
	return append(appendU32(nil, uint32(n)), out...)
}

func (m *Module) encodeCode() []byte {
	s := m.sections[secCode]
	if s == nil {
		return nil
	}
	check := appendU32([]byte{0x23}, uint32(len(m.globals)))
	check = append(check, 0x04, 0x40, 0x10)
	check = append(appendU32(check, uint32(len(m.imports))), 0x0b)
	r := *s
	out := appendU32(make([]byte, 0, r.left()+r.left()/4), r.u32(""))
	for i := range m.bodies {
		body, w := m.rewrite(r.part(r.u32(""), ""))
		w.check = check
		m.body(body, w, uint32(len(m.imports))+i)
		w.copyTo(body, body.end)
		out = append(appendU32(out, uint32(len(w.out))), w.out...)
	}
	return out
}

// Hollow gives the same module with functions that only trap, for an engine that finds their native code elsewhere: it
// need not read, check and keep what it does not compile. The engine knows modules by all their bytes, so a digest tells
// those apart that differ in their code alone: without it one would run with the other's.
func (in *Instrumented) Hollow() *Instrumented {
	hollow := *in
	if in.sections[secCode] != nil {
		trap := []byte{3, 0, 0x00, 0x0b} // size, no local variables, unreachable, end
		hollow.sections[secCode] = append(appendU32(nil, in.m.bodies), bytes.Repeat(trap, int(in.m.bodies))...)
	}
	digest := sha256.Sum256(in.Wasm)
	hollow.custom = append(slices.Clip(in.custom), append(appendName(nil, hollowName), digest[:]...))
	hollow.Wasm = assemble(hollow.sections, hollow.custom)
	return &hollow
}

func (m *Module) encodeNames() []byte {
	w := &rewriter{imported: uint32(len(m.imports))}
	list := appendU32(nil, uint32(len(m.names)))
	for _, n := range m.names {
		list = appendName(appendU32(list, w.shift(n.index)), n.name)
	}
	out := append(appendName(nil, "name"), 1)
	return append(appendU32(out, uint32(len(list))), list...)
}

func assemble(sections [sections][]byte, custom [][]byte) []byte {
	out := bytes.NewBufferString("\x00asm\x01\x00\x00\x00")
	put := func(id byte, content []byte) {
		if content != nil {
			out.WriteByte(id)
			out.Write(appendU32(nil, uint32(len(content))))
			out.Write(content)
		}
	}
	for _, id := range []byte{secType, secImport, secFunction, secTable, secMemory, secGlobal, secExport, secElement,
		secDataCount, secCode, secData} {
		put(id, sections[id])
	}
	for _, content := range custom {
		put(secCustom, content)
	}
	return out.Bytes()
}

// Snapshot is the state to bake into a module.
type Snapshot struct {
	Pages   uint32   // size of the memory
	Globals []uint64 // bits of the values of Instrumented.Globals, in their order
}

// Bake gives the module that is in the state s from its instantiation on, but for the memory's content: it has no
// data segments but passive ones that its code still wants, because what is in the image need not be copied again,
// and the engine pays for each segment. A module with something in Facts.Stateful must not be baked after any of its
// code has run.
func (in *Instrumented) Bake(s Snapshot) []byte {
	baked := in.sections
	if in.m.memory != nil {
		baked[secMemory] = appendU32(appendU32([]byte{1, 1}, s.Pages), in.m.memory.Max)
	}
	baked[secGlobal] = in.m.encodeGlobals(s.Globals)
	baked[secData], baked[secDataCount] = nil, nil
	if in.m.usesData {
		out := appendU32(nil, uint32(len(in.m.data)))
		for _, d := range in.m.data {
			if d.passive {
				out = append(appendU32(append(out, 1), uint32(d.to-d.from)), in.m.src[d.from:d.to]...)
			} else {
				out = append(out, 1, 0) // the start has dropped it
			}
		}
		baked[secData], baked[secDataCount] = out, in.sections[secDataCount]
	}
	return assemble(baked, in.custom)
}
