package abi

import (
	"crypto/rand"
	"strings"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"

	"lambent"
	"lambent/internal/cgi"
)

// errno is an error number of WASI preview 1.
type errno uint32

const (
	success    errno = 0
	badf       errno = 8
	fault      errno = 21
	inval      errno = 28
	nosys      errno = 52
	notdir     errno = 54
	notsock    errno = 57
	notsup     errno = 58
	spipe      errno = 70
	notcapable errno = 76
)

// wasi is WASI preview 1, the whole of it by name, so that what a program imports and never calls is no reason to refuse
// it. There are the three standard streams and no other descriptor.
//
// Source: WASI preview 1, https://github.com/WebAssembly/WASI, legacy/preview1/docs.md.
var wasi = []function{
	errnoOf("args_get", "ii", argsGet),
	errnoOf("args_sizes_get", "ii", argsSizesGet),
	errnoOf("environ_get", "ii", environGet),
	errnoOf("environ_sizes_get", "ii", environSizesGet),
	errnoOf("clock_res_get", "ii", clockResGet),
	errnoOf("clock_time_get", "iIi", clockTimeGet),
	errnoOf("random_get", "ii", randomGet),
	errnoOf("poll_oneoff", "iiii", pollOneoff),
	errnoOf("sched_yield", "", schedYield),
	{name: "proc_exit", params: "i", call: procExit},
	always("proc_raise", "i", nosys),

	errnoOf("fd_read", "iiii", fdRead),
	errnoOf("fd_write", "iiii", fdWrite),
	errnoOf("fd_close", "i", fdClose),
	errnoOf("fd_fdstat_get", "ii", fdFdstatGet),
	errnoOf("fd_fdstat_set_flags", "ii", fdFdstatSetFlags),
	errnoOf("fd_filestat_get", "ii", fdFilestatGet),
	always("fd_prestat_get", "ii", badf), // it is what ends a program's search for folders
	always("fd_prestat_dir_name", "iii", badf),
	onStream("fd_fdstat_set_rights", "iII", notsup),
	onStream("fd_filestat_set_size", "iI", inval),
	onStream("fd_filestat_set_times", "iIIi", notsup),
	onStream("fd_advise", "iIIi", spipe),
	onStream("fd_allocate", "iII", spipe),
	onStream("fd_datasync", "i", success), // what was written goes on by itself
	onStream("fd_sync", "i", success),
	onStream("fd_pread", "iiiIi", spipe),
	onStream("fd_pwrite", "iiiIi", spipe),
	onStream("fd_seek", "iIii", spipe),
	onStream("fd_tell", "ii", spipe),
	onStream("fd_readdir", "iiiIi", notdir),
	onStream("fd_renumber", "ii", notsup),

	always("path_create_directory", "iii", notcapable),
	always("path_filestat_get", "iiiii", notcapable),
	always("path_filestat_set_times", "iiiiIIi", notcapable),
	always("path_link", "iiiiiii", notcapable),
	always("path_open", "iiiiiIIii", notcapable),
	always("path_readlink", "iiiiii", notcapable),
	always("path_remove_directory", "iii", notcapable),
	always("path_rename", "iiiiii", notcapable),
	always("path_symlink", "iiiii", notcapable),
	always("path_unlink_file", "iii", notcapable),

	onStream("sock_accept", "iii", notsock),
	onStream("sock_recv", "iiiiii", notsock),
	onStream("sock_send", "iiiii", notsock),
	onStream("sock_shutdown", "ii", notsock),
}

// errnoOf is a function of WASI, which gives an errno.
func errnoOf(name, params string, call func(c *Call, m api.Memory, p []uint64) errno) function {
	return function{name, params, "i", func(c *Call, m api.Memory, stack []uint64) { stack[0] = uint64(call(c, m, stack)) }}
}

func always(name, params string, e errno) function {
	return errnoOf(name, params, func(*Call, api.Memory, []uint64) errno { return e })
}

// onStream is a function on a descriptor, its first parameter, that does nothing to an open stream.
func onStream(name, params string, e errno) function {
	return errnoOf(name, params, func(c *Call, _ api.Memory, p []uint64) errno {
		if !c.open(p[0]) {
			return badf
		}
		return e
	})
}

// arguments are the same for all: what a program does by its name is no business of a request.
const arguments = "main.wasm\x00"

func argsGet(_ *Call, m api.Memory, p []uint64) errno {
	return putStrings(m, uint32(p[0]), uint32(p[1]), arguments, 1)
}

func argsSizesGet(_ *Call, m api.Memory, p []uint64) errno {
	return putTwo(m, uint32(p[0]), 1, uint32(p[1]), uint32(len(arguments)))
}

// environ is the environment, made when the guest asks for it: each variable ends in a NUL byte.
type environ struct {
	block string
	count uint32
	made  bool
}

func (c *Call) variables() *environ {
	e := &c.environ
	if e.made || c.initialising() {
		return e
	}
	if e.made = true; c.Kind == Reactor {
		if e.count = uint32(len(c.Env)); e.count > 0 {
			e.block = strings.Join(c.Env, "\x00") + "\x00"
		}
		return e
	}
	r := cgi.Request{Method: c.Method, Target: c.Target, Host: c.Host, Proto: c.Proto, Header: c.Header, Length: c.Length}
	block, count, err := r.Environment(c.Env)
	if err != nil {
		c.end(lambent.Errorf(lambent.CodeInvalidRequest, "the function cannot get this request: %w", err))
	}
	e.block, e.count = string(block), uint32(count)
	return e
}

func environGet(c *Call, m api.Memory, p []uint64) errno {
	e := c.variables()
	return putStrings(m, uint32(p[0]), uint32(p[1]), e.block, e.count)
}

func environSizesGet(c *Call, m api.Memory, p []uint64) errno {
	e := c.variables()
	return putTwo(m, uint32(p[0]), e.count, uint32(p[1]), uint32(len(e.block)))
}

// putStrings writes strings that each end in a NUL byte, and where each begins.
func putStrings(m api.Memory, pointers, at uint32, block string, count uint32) errno {
	starts, ok := m.Read(pointers, 4*count)
	if !ok || !m.WriteString(at, block) {
		return fault
	}
	for i := 0; len(starts) > 0; starts = starts[4:] {
		le.PutUint32(starts, at+uint32(i))
		i += strings.IndexByte(block[i:], 0) + 1
	}
	return success
}

func putTwo(m api.Memory, at, value, at2, value2 uint32) errno {
	if !m.WriteUint32Le(at, value) || !m.WriteUint32Le(at2, value2) {
		return fault
	}
	return success
}

func randomGet(c *Call, m api.Memory, p []uint64) errno {
	b, ok := m.Read(uint32(p[0]), uint32(p[1]))
	if !ok {
		return fault
	}
	c.random(b)
	return success
}

func (c *Call) random(b []byte) {
	for len(b) > piece {
		_, _ = rand.Read(b[:piece]) // never fails
		b = b[piece:]
		c.yield()
	}
	_, _ = rand.Read(b)
}

func schedYield(c *Call, _ api.Memory, _ []uint64) errno {
	c.block(func() {})
	return success
}

// procExit ends the guest and leaves its module open, unlike wazero's own, so that it can be reset.
func procExit(_ *Call, _ api.Memory, p []uint64) { panic(sys.NewExitError(uint32(p[0]))) }
