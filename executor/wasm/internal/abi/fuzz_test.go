package abi

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"testing"
)

// FuzzHostFunctions calls the host's functions in a row with whatever arguments, on whatever memory. None may fail but by
// ending the call, take long, or answer what is no answer.
func FuzzHostFunctions(f *testing.F) {
	for _, name := range []string{"fd_write", "fd_read", "poll_oneoff", "environ_get", "random_get", "path_open", "request", "respond", "write", "env"} {
		f.Add([]byte(name), []byte("A\x00b\x00c\x00d\x00"), true)
	}
	f.Add(append([]byte{40, 1, 0, 0, 0, 0, 0, 0, 0, 64}, bytes.Repeat([]byte{7}, 60)...), bytes.Repeat([]byte{0, 0, 1, 0}, 64), false)
	m := memoryOf(f)
	all := append(wasi[:len(wasi):len(wasi)], reactor...)
	f.Fuzz(func(t *testing.T, program, memory []byte, command bool) {
		m.Write(0, make([]byte, pageSize))
		m.Write(0, memory[:min(len(memory), pageSize)])
		r := &result{}
		c := &Call{Kind: Reactor, Method: "GET", Target: "/a?b", Host: "h", Proto: "HTTP/1.1", Length: -1,
			Header: []Field{{Name: "X-Tag", Value: "v"}}, Env: []string{"A=b", "LONGER=value"}, Body: io.LimitReader(endless{}, 1<<20)}
		if command {
			c.Kind = Command
		}
		r.on(c)
		over, cancel := context.WithCancel(t.Context())
		cancel() // so that no sleep lasts
		With(over, c)
		var ended error
		for steps := 0; len(program) > 0 && ended == nil && steps < 64; steps++ {
			fn := all[int(program[0])%len(all)]
			program = program[1:]
			stack := make([]uint64, max(1, len(fn.params)))
			for i := range fn.params {
				var arg [4]byte
				program = program[copy(arg[:], program):]
				stack[i] = uint64(binary.LittleEndian.Uint32(arg[:]))
				if i > 0 && arg[3]&1 == 0 {
					stack[i] %= 2 * pageSize // near what is there, more often than not
				}
			}
			_, ended = invokeFunction(c, m, fn, stack...)
		}
		if ended != nil {
			ended = &ending{ended}
		}
		_ = c.Finish(ended)
		if r.status != 0 && (r.status < 200 || r.status > 599) {
			t.Errorf("status %d", r.status)
		}
		for _, field := range r.header {
			if err := field.Check(); err != nil {
				t.Error(err)
			}
		}
		if r.length >= 0 && int64(r.body.Len()) > r.length {
			t.Errorf("%d bytes of %d", r.body.Len(), r.length)
		}
		if m.Size() != pageSize {
			t.Error("the memory has grown")
		}
	})
}

// endless is a body of the letter e.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'e'
	}
	return len(p), nil
}
