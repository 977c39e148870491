package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"lambent"
	"lambent/executor/wasm/internal/abi"
	"lambent/executor/wasm/internal/engine"
	"lambent/executor/wasm/internal/wire"
)

// call is one request and the guest's call for it.
type call struct {
	abi      abi.Call
	in       *wire.Incoming
	program  *program
	finished bool  // the guest is no more
	output   int64 // bytes of the body that may still be written; -1 when there is no limit
	log      int   // bytes of the log that may still be passed on

	// The methods below as functions, made once.
	onBegin   func()
	onRespond func(int, []abi.Field, int64) error
	onWrite   func([]byte) (int, error)
	onLog     func(string, []byte)
	onAnswer  func(engine.Usage, error)
}

var calls = sync.Pool{New: func() any {
	c := new(call)
	c.onBegin, c.onRespond, c.onWrite, c.onLog, c.onAnswer = c.begin, c.respond, c.write, c.passOn, c.answer
	return c
}}

// Serve implements [wire.Handler].
func (w *worker) Serve(in *wire.Incoming) {
	p := w.program(in.Program)
	if p == nil {
		in.End(wire.Usage{}, lambent.Errorf(lambent.CodeInternal, "the worker has no program %d", in.Program))
		return
	}
	c := calls.Get().(*call)
	c.in, c.program, c.finished, c.output, c.log = in, p, false, p.spec.MaxOutput, wire.MaxLog
	c.abi = abi.Call{
		Kind: abi.Kind(p.spec.Meta.Kind), Method: in.Method, Target: in.Target, Host: in.Host, Proto: in.Proto,
		Header: in.Header, Length: in.Length, Env: p.env,
		Respond: c.onRespond, Write: c.onWrite, Log: c.onLog,
	}
	if in.Length != 0 {
		c.abi.Body = in
	}
	p.Run(in, &c.abi, engine.Limits{Deadline: in.Until, CPU: p.spec.CPU, Begin: c.onBegin}, c.onAnswer)
	c.abi, c.in, c.program = abi.Call{}, nil, nil
	calls.Put(c) // not after a panic: who knows who has it
}

func (c *call) begin() { c.in.Start() }

// respond gives the head of the answer. What a guest says before its end it wants to be heard.
func (c *call) respond(status int, header []abi.Field, length int64) error {
	if c.output >= 0 && length > c.output {
		return c.tooLarge()
	}
	err := c.in.Respond(status, header, length)
	var head *wire.HeadError
	if errors.As(err, &head) {
		return lambent.Errorf(lambent.CodeBadResponse, "the function gave a bad answer: %w", err)
	}
	if err == nil && !c.finished {
		c.in.Flush()
	}
	return err
}

func (c *call) write(p []byte) (int, error) {
	if c.output >= 0 {
		if int64(len(p)) > c.output {
			return 0, c.tooLarge()
		}
		c.output -= int64(len(p))
	}
	n, err := c.in.Write(p)
	if err == nil && !c.finished {
		c.in.Flush()
	}
	return n, err
}

func (c *call) tooLarge() error {
	return lambent.Errorf(lambent.CodeOutputTooLarge, "the function's answer is longer than its limit of %d bytes", c.program.spec.MaxOutput).
		WithHint("raise max_output in its settings, or answer less")
}

// passOn passes lines of the log on, as many as a request may have.
func (c *call) passOn(stream string, p []byte) {
	for line := range bytes.Lines(p) {
		if c.log < 0 {
			return
		}
		if c.log -= len(line); c.log < 0 {
			c.in.Log("lambent", fmt.Appendf(nil, "the request has written more than %d bytes of log; the rest is dropped", wire.MaxLog))
			return
		}
		if c.in.Crowded() {
			c.abi.Block(c.in.Wait) // others may run meanwhile
		}
		c.in.Log(stream, bytes.TrimSuffix(line, []byte("\n")))
	}
}

// answer ends the request, when the guest is no more.
func (c *call) answer(used engine.Usage, err error) {
	c.finished = true
	failed := verdict(c.abi.Finish(err))
	c.in.End(wire.Usage(used), failed)
}

// verdict is what an error of a call means for its caller.
func verdict(err error) *lambent.Error {
	var told *lambent.Error
	var ended *engine.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &told):
		return told
	case errors.As(err, &ended):
		return ending(ended)
	case errors.Is(err, context.DeadlineExceeded): // it waited for its caller
		return ending(&engine.Error{Reason: engine.Deadline, Message: err.Error()})
	case errors.Is(err, context.Canceled):
		return lambent.Errorf(lambent.CodeClientClosed, "%w", err)
	}
	return lambent.Errorf(lambent.CodeInternal, "the worker failed at the request: %w", err)
}

var reasons = map[engine.Reason]lambent.Code{
	engine.Deadline: lambent.CodeTotalTimeout, engine.CPU: lambent.CodeCpuExceeded, engine.Memory: lambent.CodeMemoryExceeded,
	engine.Cancelled: lambent.CodeClientClosed, engine.Capacity: lambent.CodeSandboxFailed,
}

var hints = map[engine.Reason]string{
	engine.Deadline: "raise timeouts.total in its settings, or make it faster",
	engine.CPU:      "raise timeouts.cpu in its settings, or make it faster",
	engine.Memory:   "raise memory in its settings, or use less",
	engine.Capacity: "try again: other requests have what the worker's memory can give",
}

func ending(e *engine.Error) *lambent.Error {
	code, ok := reasons[e.Reason]
	if !ok {
		code = lambent.CodeInternal
	}
	failed := lambent.Errorf(code, "the function was ended: %s", e.Message)
	failed.Hint, failed.Trace = hints[e.Reason], e.Trace
	return failed
}
