// Package abi is what a guest can see and do: the functions that Lambent gives to WebAssembly modules, and how the
// answer to a request comes of them. There are two kinds of modules.
//
// A command is a program for WASI preview 1 that runs once for each request, by CGI/1.1 (RFC 3875): the request is in
// its environment and on its stdin, what it writes to stdout is the answer, what it writes to stderr is the log. It is
// as the runtime exec does it, and shares its code.
//
// A reactor exports handle, which is called once for each request, and imports the functions of the module [Module];
// docs/wasm-abi.md has them. It may use WASI as well, where its stdout is a log, too.
//
// A guest's code is hostile. It gets no descriptor but these three, no file, no socket, no name of another. All that it can
// change outside of its own memory is in its [Call], which no other request ever sees.
package abi

import (
	"context"
	"io"

	"lambent/internal/cgi"
)

// Module is the name that reactors import their functions from. A change that could break a module takes a new name.
const Module = "lambent_v1"

const wasiModule = "wasi_snapshot_preview1"

// Kind says how a module takes requests.
type Kind string

// The kinds of modules.
const (
	Command Kind = "command"
	Reactor Kind = "reactor"
)

// Initialize is the export that, where there is one, is called before the first call of a reactor's entry.
const Initialize = "_initialize"

// Entry is the exported function that is called for a request.
func (k Kind) Entry() string {
	if k == Command {
		return "_start"
	}
	return "handle"
}

// Field is one line of a header.
type Field = cgi.Field

// Call is one run of a guest: for a request or, without a Method, for a module's initialisation, which has nothing to
// read and cannot answer. It serves one run and is used by the one goroutine that runs the guest.
type Call struct {
	Kind Kind // of the module

	Method, Target, Host, Proto string
	// Header is without Content-Length and what is of the connection. The host adds what it adds for every tier:
	// Lambent-Invocation, Lambent-Trigger, Lambent-Deadline and so on, see executor/internal/guest.
	Header []Field
	Length int64 // of the body in bytes, -1 when unknown
	// Body is read by the guest as it comes; nil when there is none. An error other than io.EOF ends the call. What its
	// method Buffered() int says, if it has that, can be read without a wait.
	Body io.Reader

	Env []string // as name=value; what the function's settings say, and LAMBENT_FUNCTION and the like

	// Respond gives the head of the answer, once, and before Write. The length is that of the body in bytes, -1 when
	// unknown. Write gives a part of the body. Both may wait, copy what they get, and end the call with an error.
	Respond func(status int, header []Field, length int64) error
	Write   func(p []byte) (int, error)
	// Log gets whole lines of the stream "stdout" or "stderr", and copies them.
	Log func(stream string, p []byte)

	// Block runs wait, which may take its time: others may use the processor meanwhile. Yield is called now and then in
	// work that takes long. Both may end the call by a panic. Either may be nil.
	Block func(wait func())
	Yield func()

	context callContext
	calls   int     // of host functions
	closed  [3]bool // by descriptor, as the next one
	logs    [3]lines
	tail    []byte // the end of stderr
	ended   bool   // the body is
	taken   int64  // of the body
	answer  answer
	environ environ
}

// callContext carries a Call without a value of its own to be made for it.
type callContext struct {
	context.Context
	call *Call
}

type callKey struct{}

// Value implements context.Context.
func (c *callContext) Value(key any) any {
	if key == (callKey{}) {
		return c.call
	}
	return c.Context.Value(key)
}

// With gives the context that the guest must be called with for its host functions to find c. When ctx ends, a sleep of
// the guest does.
func With(ctx context.Context, c *Call) context.Context {
	c.context = callContext{ctx, c}
	return &c.context
}

// from finds the call of a host function. It panics where there is none, which is a mistake of ours.
func from(ctx context.Context) *Call {
	if c, ok := ctx.(*callContext); ok {
		return c.call
	}
	return ctx.Value(callKey{}).(*Call)
}

func (c *Call) block(wait func()) {
	if c.Block == nil {
		wait()
		return
	}
	c.Block(wait)
}

func (c *Call) yield() {
	if c.Yield != nil {
		c.Yield()
	}
}

// initialising tells that there is no request.
func (c *Call) initialising() bool { return c.Method == "" }
