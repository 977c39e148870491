package module

import (
	"bytes"
	"fmt"
	"slices"
	"unicode/utf8"
)

// Section numbers of the binary format.
const (
	secCustom = iota
	secType
	secImport
	secFunction
	secTable
	secMemory
	secGlobal
	secExport
	secStart
	secElement
	secCode
	secData
	secDataCount
	secTag
	sections = secDataCount + 1
)

// order in which the sections must come; custom ones may be anywhere.
var order = [...]byte{secType: 1, secImport: 2, secFunction: 3, secTable: 4, secMemory: 5, secGlobal: 7, secExport: 8,
	secStart: 9, secElement: 10, secDataCount: 11, secCode: 12, secData: 13, secTag: 6}

// Module is a module that Parse has accepted. What is not decoded here is still in its sections, which all lie in src.
type Module struct {
	src      []byte
	sections [sections]*reader // nil where the module has none

	types      []FuncType
	imports    []Import
	importType []uint32 // of each import, its index in types
	declared   []uint32 // functions of the module's own: index in types
	tables     []table
	tableCount uint32
	memory     *Memory
	globals    []global
	exports    []export
	start      *uint32
	elements   uint32 // of all segments
	segments   uint32 // of elements
	bodies     uint32
	data       []segment
	usesData   bool // some instruction names a data segment
	makesRefs  bool // some instruction makes a reference to a function
	names      []functionName

	stateful map[string]uint32 // what can change besides memory and numbers: instruction and first function
}

type table struct {
	typ      ValueType
	min, max uint32
}

type global struct {
	typ     ValueType
	mutable bool
	init    *reader
}

type export struct {
	name  string
	kind  Kind
	index uint32
}

// segment of data: bytes of src; passive ones wait for a memory.init.
type segment struct {
	passive  bool
	from, to int
}

type functionName struct {
	index uint32
	name  string
}

// Parse reads a module and checks all that the rest of this package relies on; that its code is well typed is left to
// the engine, which checks it again in what Instrument makes. Its error is an *Error. The result refers to wasm.
func Parse(wasm []byte) (m *Module, err error) {
	defer catch(&err)
	if len(wasm) > MaxSize {
		fail(0, "the module has %d bytes, more than %d", len(wasm), MaxSize)
	}
	header(wasm)
	m = &Module{src: wasm, stateful: map[string]uint32{}}
	r := &reader{src: wasm, at: 8, end: len(wasm)}
	for last := byte(0); r.left() > 0; {
		from := r.at
		id := r.byte("a section")
		s := r.part(r.u32("the size of a section"), fmt.Sprintf("section %d", id))
		if id == secCustom {
			m.custom(s)
			continue
		}
		if int(id) >= len(order) {
			fail(from, "there is no section %d", id)
		}
		if order[id] <= last {
			fail(from, "section %d is in the wrong place", id)
		}
		if last = order[id]; id == secTag {
			unsupported(from, "exception handling", hintExceptions)
		}
		whole := *s
		m.sections[id] = &whole
		m.section(id, s)
		s.done(fmt.Sprintf("section %d", id))
	}
	if len(m.declared) != int(m.bodies) {
		fail(len(wasm), "%d functions are declared and %d have code", len(m.declared), m.bodies)
	}
	return m, nil
}

func header(wasm []byte) {
	switch {
	case !bytes.HasPrefix(wasm, []byte("\x00asm")):
		fail(0, "the file is no WebAssembly module: it does not begin with \\0asm")
	case len(wasm) < 8:
		fail(4, "the module is cut off in its header")
	case wasm[6] == 1 && wasm[7] == 0:
		panic(&Error{Offset: 4, What: "the file is a WebAssembly component, and this tier runs core modules",
			Hint: "build for the target wasm32-wasip1, which gives a core module, instead of wasm32-wasip2 or wasi:http"})
	case !bytes.Equal(wasm[4:8], []byte{1, 0, 0, 0}):
		fail(4, "the module is of version %d, and only version 1 is known", wasm[4])
	}
}

func (m *Module) functions() uint32 { return uint32(len(m.imports) + len(m.declared)) }

// changes notes that function f has an instruction that changes what cannot be put back.
func (m *Module) changes(what string, f uint32) {
	if _, ok := m.stateful[what]; !ok {
		m.stateful[what] = f
	}
}

func (m *Module) section(id byte, s *reader) {
	switch id {
	case secType:
		for range s.count(MaxTypes, "types") {
			m.types = append(m.types, functionType(s))
		}
	case secImport:
		for range s.count(MaxImports, "imports") {
			m.imported(s)
		}
	case secFunction:
		for range s.count(MaxFunctions, "functions") {
			m.declared = append(m.declared, s.index(uint32(len(m.types)), "type"))
		}
	case secTable:
		m.readTables(s)
	case secMemory:
		m.readMemory(s)
	case secGlobal:
		for range s.count(MaxGlobals, "globals") {
			m.readGlobal(s)
		}
	case secExport:
		m.readExports(s)
	case secStart:
		from := s.at
		f := s.index(m.functions(), "function")
		if t := m.types[m.typeOf(f)]; len(t.Params)+len(t.Results) > 0 {
			fail(from, "the start function takes or returns values")
		}
		m.start = &f
	case secElement:
		m.readElements(s, nil)
	case secDataCount:
		s.u32("the number of data segments")
	case secCode:
		m.bodies = s.count(uint32(len(m.declared)), "function bodies")
		for i := range m.bodies {
			m.body(s.part(bodySize(s), "the body of a function"), nil, uint32(len(m.imports))+i)
		}
	case secData:
		for range s.count(MaxSegments, "data segments") {
			m.readSegment(s)
		}
	}
}

func bodySize(s *reader) uint32 {
	from := s.at
	n := s.u32("the size of a function")
	if n > MaxBody {
		fail(from, "a function of %d bytes is larger than %d", n, MaxBody)
	}
	return n
}

func functionType(s *reader) (t FuncType) {
	from := s.at
	switch form := s.byte("a type"); form {
	case 0x60:
	case 0x4e, 0x4f, 0x50, 0x5e, 0x5f:
		unsupported(from, "garbage collected types", hintGC)
	default:
		fail(from, "a type of the form %#x is no function type", form)
	}
	for _, list := range []*[]ValueType{&t.Params, &t.Results} {
		for range s.count(MaxParams, "parameters or results") {
			*list = append(*list, s.valueType("a parameter or result"))
		}
	}
	return t
}

func (m *Module) imported(s *reader) {
	from := s.at
	imp := Import{Module: s.name("an import's module"), Name: s.name("an import's name")}
	what := fmt.Sprintf("%q of %q", imp.Name, imp.Module)
	switch kind := s.byte("an import"); kind {
	case 0:
		t := s.index(uint32(len(m.types)), "type")
		imp.Type = m.types[t]
		m.imports, m.importType = append(m.imports, imp), append(m.importType, t)
	case 1, 2, 3:
		panic(&Error{Offset: from, What: "the module imports the " + [...]string{1: "table", 2: "memory", 3: "global"}[kind] + " " + what +
			", and only functions can be imported", Hint: "link it as a program of its own, not as a side module, and without --import-memory or --import-table"})
	case 4:
		unsupported(from, "exception handling", hintExceptions)
	default:
		fail(from, "the import %s is of an unknown kind %d", what, kind)
	}
}

func (m *Module) readTables(s *reader) {
	total := uint64(0)
	for range s.count(MaxTables, "tables") {
		from := s.at
		if s.left() > 0 && s.src[from] == 0x40 {
			unsupported(from, "typed function references", hintTarget)
		}
		t := table{typ: s.refType("a table")}
		flags := s.byte("the limits of a table")
		if flags > 1 {
			unsupported(from, "shared or 64-bit tables", hintTarget)
		}
		t.min, t.max = s.u32("the size of a table"), MaxElements
		if flags == 1 {
			most := s.u32("the largest size of a table")
			if most < t.min {
				fail(from, "a table of %d elements may have at most %d", t.min, most)
			}
			t.max = min(most, MaxElements)
		}
		if total += uint64(t.min); total > MaxElements {
			fail(from, "the tables have more than %d elements together", MaxElements)
		}
		m.tables = append(m.tables, t)
	}
	m.tableCount = uint32(len(m.tables))
	// A table that can grow takes its share of what all may have: they are not counted as memory.
	for i := range m.tables {
		m.tables[i].max = min(m.tables[i].max, max(m.tables[i].min, MaxElements/m.tableCount))
	}
}

func (m *Module) readMemory(s *reader) {
	from := s.at
	switch s.u32("the number of memories") {
	case 0:
		return
	case 1:
	default:
		unsupported(from, "several memories", hintMemories)
	}
	flags := s.byte("the limits of a memory")
	switch {
	case flags > 3:
		unsupported(from, "64-bit memories or pages of another size", hintMemories)
	case flags > 1:
		unsupported(from, "threads", hintThreads)
	}
	m.memory = &Memory{Min: s.u32("the size of the memory"), Max: maxPages}
	if flags == 1 {
		m.memory.Max = s.u32("the largest size of the memory")
	}
	if m.memory.Max > maxPages || m.memory.Min > m.memory.Max {
		fail(from, "a memory of %d pages and at most %d is impossible", m.memory.Min, m.memory.Max)
	}
}

func (m *Module) readGlobal(s *reader) {
	from := s.at
	g := global{typ: s.valueType("a global")}
	mutable := s.byte("a global")
	if mutable > 1 {
		fail(from, "a global is neither constant nor variable")
	}
	g.mutable = mutable == 1
	g.init = &reader{src: s.src, at: s.at}
	m.constant(s, nil, "the value of a global")
	g.init.end = s.at
	m.globals = append(m.globals, g)
}

func (m *Module) readExports(s *reader) {
	seen := map[string]bool{}
	for range s.count(MaxExports, "exports") {
		from := s.at
		e := export{name: s.name("the name of an export"), kind: Kind(s.byte("an export"))}
		if seen[e.name] {
			fail(from, "two exports have the name %q", e.name)
		}
		seen[e.name] = true
		switch e.kind {
		case KindFunc:
			e.index = s.index(m.functions(), "function")
		case KindTable:
			e.index = s.index(m.tableCount, "table")
		case KindMemory:
			memories := uint32(0)
			if m.memory != nil {
				memories = 1
			}
			e.index = s.index(memories, "memory")
		case KindGlobal:
			e.index = s.index(uint32(len(m.globals)), "global")
		default:
			fail(from, "the export %q is of an unknown kind %d", e.name, e.kind)
		}
		m.exports = append(m.exports, e)
	}
}

// readElements reads all element segments. Their eight forms are one: bit 0 says not active, bit 1 that a table or type is
// written, bit 2 that expressions stand in the place of function indices.
func (m *Module) readElements(s *reader, w *rewriter) {
	m.segments, m.elements = s.count(MaxSegments, "element segments"), 0
	for range m.segments {
		from := s.at
		flags := s.u32("an element segment")
		if flags > 7 {
			fail(from, "an element segment is of an unknown form %d", flags)
		}
		if flags&1 == 0 {
			if flags&2 != 0 {
				s.index(m.tableCount, "table")
			}
			m.constant(s, w, "the offset of an element segment")
		}
		if flags&3 != 0 {
			if flags&4 != 0 {
				s.refType("an element segment")
			} else if s.byte("an element segment") != 0 {
				fail(from, "an element segment holds something else than functions")
			}
		}
		count := s.count(MaxElements, "elements")
		if m.elements += count; m.elements > MaxElements {
			fail(from, "the element segments hold more than %d elements", MaxElements)
		}
		for range count {
			if flags&4 != 0 {
				m.constant(s, w, "an element")
			} else {
				m.functionIndex(s, w)
			}
		}
	}
}

func (m *Module) readSegment(s *reader) {
	from := s.at
	var d segment
	switch form := s.u32("a data segment"); form {
	case 1:
		d.passive = true
	case 2:
		if at := s.at; s.u32("the index of a memory") != 0 {
			unsupported(at, "several memories", hintMemories)
		}
		fallthrough
	case 0:
		m.constant(s, nil, "the offset of a data segment")
	default:
		fail(from, "a data segment is of an unknown form %d", form)
	}
	content := s.part(s.u32("the size of a data segment"), "a data segment")
	d.from, d.to = content.at, content.end
	m.data = append(m.data, d)
}

// custom keeps the names of functions, for stack traces. Names that make no sense are no reason to refuse a module.
func (m *Module) custom(s *reader) {
	if s.name("the name of a custom section") != "name" || s.left() > maxNames {
		return
	}
	m.names = nil
	var ignored error
	defer catch(&ignored)
	for s.left() > 0 {
		id := s.byte("a part of the names")
		part := s.part(s.u32("a part of the names"), "a part of the names")
		if id != 1 {
			continue
		}
		next := uint32(0)
		for range part.count(MaxFunctions, "names") {
			index := part.u32("a named function")
			text := part.part(part.u32("a name"), "a name")
			name := text.src[text.at:text.end]
			if index < next || index >= MaxFunctions {
				return
			}
			if next = index + 1; len(name) <= maxFunction && utf8.Valid(name) {
				m.names = append(m.names, functionName{index, string(name)})
			}
		}
	}
}

// Facts tells about the module.
func (m *Module) Facts() Facts {
	f := Facts{Imports: m.imports, Memory: m.memory, Start: m.start != nil, Overhead: m.overhead()}
	for _, e := range m.exports {
		out := Export{Name: e.name, Kind: e.kind}
		if e.kind == KindFunc {
			out.Type = m.types[m.typeOf(e.index)]
		}
		f.Exports = append(f.Exports, out)
	}
	for what, function := range m.stateful {
		f.Stateful = append(f.Stateful, fmt.Sprintf("%s in function %d", what, function))
	}
	slices.Sort(f.Stateful)
	for i, g := range m.globals {
		if g.mutable && !g.typ.Number() {
			f.Stateful = append(f.Stateful, fmt.Sprintf("global %d is a variable of type %s", i, g.typ))
			break // there may be thousands
		}
	}
	return f
}

// overhead adds up, in bytes, what the engine keeps of each thing for every instance: see wazero's GlobalInstance,
// TableInstance and functionInstance, the last of which there is one of for every reference to a function.
func (m *Module) overhead() int64 {
	const typ, imported, global, table, element, segment, reference, made = 4, 64, 144, 256, 8, 24, 8, 48
	sum := typ*len(m.types) + imported*len(m.imports) + global*len(m.globals) + segment*(int(m.segments)+len(m.data)) +
		(made+element)*int(m.elements)
	_, grow := m.stateful["table.grow"]
	for _, t := range m.tables {
		size := t.min
		if grow {
			size = t.max
		}
		sum += table + reference*int(size)
	}
	if m.makesRefs {
		sum += made * MaxRefs
	}
	return int64(sum)
}

func (m *Module) typeOf(f uint32) uint32 {
	if f < uint32(len(m.imports)) {
		return m.importType[f]
	}
	return m.declared[f-uint32(len(m.imports))]
}
