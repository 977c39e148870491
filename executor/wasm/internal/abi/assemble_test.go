package abi

import (
	"slices"

	"lambent/executor/wasm/internal/module"
)

// loops is how often a module of loop calls its function.
const loops = 1000

// loop is a module that imports one function of the host and calls it [loops] times, with arguments that are good for those
// that write: a text of ten bytes at 0 and an iovec of it at 64.
func loop(from, name string) []byte {
	i := slices.IndexFunc(modules[from], func(f function) bool { return f.name == name })
	f := modules[from][i]
	args := map[string][]byte{"fd_write": {1, 64, 1, 32}, "write": {0, 10}, "clock_time_get": {1, 0, 32}}[name]
	code := []byte{1, 1, byte(module.I32), 0x03, 0x40} // a local; loop
	for i, p := range f.params {
		code = append(code, map[rune]byte{'i': 0x41, 'I': 0x42}[p]) // const
		code = signed(code, int(args[i]))
	}
	code = append(code, 0x10, 0) // call
	for range f.results {
		code = append(code, 0x1a) // drop
	}
	code = append(code, 0x20, 0, 0x41, 1, 0x6a, 0x22, 0) // local + 1
	code = signed(append(code, 0x41), loops)
	code = append(code, 0x49, 0x0d, 0, 0x0b, 0x0b) // below it: again

	entry := Command.Entry()
	if from == Module {
		entry = Reactor.Entry()
	}
	out := []byte("\x00asm\x01\x00\x00\x00")
	out = section(out, 1, append(append(append([]byte{2, 0x60}, vector(f.params)...), vector(f.results)...), 0x60, 0, 0))
	out = section(out, 2, append(append(append([]byte{1}, text(from)...), text(name)...), 0, 0))
	out = section(out, 3, []byte{1, 1})
	out = section(out, 5, []byte{1, 0, 1})
	out = section(out, 7, append(append(append(append([]byte{2}, text(entry)...), 0, 1), text("memory")...), 2, 0))
	out = section(out, 10, append([]byte{1, byte(len(code))}, code...))
	return section(out, 11, []byte{1, 0, 0x41, 0xc0, 0, 0x0b, 8, 0, 0, 0, 0, 10, 0, 0, 0})
}

func section(out []byte, id byte, content []byte) []byte {
	return append(append(out, id, byte(len(content))), content...)
}

func text(s string) []byte { return append([]byte{byte(len(s))}, s...) }

func vector(signature string) []byte {
	out := []byte{byte(len(signature))}
	for _, t := range types(signature) {
		out = append(out, byte(t))
	}
	return out
}

// signed appends a number below 8192 as LEB128.
func signed(b []byte, n int) []byte {
	if n < 64 {
		return append(b, byte(n))
	}
	return append(b, byte(n)|0x80, byte(n>>7))
}
