// Package moduletest writes WebAssembly modules by hand, for tests.
package moduletest

import "slices"

// U32 is n in LEB128.
func U32(n int) (b []byte) {
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

// Name is a string with its length.
func Name(s string) []byte { return append(U32(len(s)), s...) }

// Vec is a vector of encoded entries.
func Vec(entries ...[]byte) []byte { return append(U32(len(entries)), slices.Concat(entries...)...) }

// Section is a section with its content.
func Section(id byte, content []byte) []byte {
	return slices.Concat([]byte{id}, U32(len(content)), content)
}

// Module is a module of sections.
func Module(sections ...[]byte) []byte {
	return append([]byte("\x00asm\x01\x00\x00\x00"), slices.Concat(sections...)...)
}

// Func is a function type; each byte is a value type.
func Func(params, results string) []byte {
	return slices.Concat([]byte{0x60}, Name(params), Name(results))
}

// Import imports a function of a type.
func Import(module, name string, typ int) []byte {
	return slices.Concat(Name(module), Name(name), []byte{0}, U32(typ))
}

// Export exports what is kind (0 function, 1 table, 2 memory, 3 global) and has the index.
func Export(name string, kind byte, index int) []byte {
	return slices.Concat(Name(name), []byte{kind}, U32(index))
}

// Body is the code of a function without local variables; its end is added.
func Body(code ...byte) []byte {
	b := slices.Concat([]byte{0}, code, []byte{0x0b})
	return append(U32(len(b)), b...)
}

// Command is a module of one page of memory whose _start is function 0 of bodies, all of type [] -> []. Of the sections
// in more each is put where it belongs; one with the number of a section that a command has takes its place.
func Command(bodies [][]byte, more ...[]byte) []byte {
	types := make([][]byte, len(bodies))
	for i := range types {
		types[i] = []byte{0}
	}
	all := append([][]byte{
		Section(1, Vec(Func("", ""))),
		Section(3, Vec(types...)),
		Section(5, []byte{1, 0, 1}),
		Section(7, Vec(Export("_start", 0, 0), Export("memory", 2, 0))),
		Section(10, Vec(bodies...)),
	}, more...)
	slices.SortStableFunc(all, func(a, b []byte) int { return place(a[0]) - place(b[0]) })
	var sections [][]byte
	for i, s := range all {
		if i+1 == len(all) || all[i+1][0] != s[0] {
			sections = append(sections, s)
		}
	}
	return Module(sections...)
}

// place of a section: that of the data count is before the code.
func place(id byte) int {
	if id == 12 {
		return 19
	}
	return 2 * int(id)
}
