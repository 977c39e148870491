// Package observe makes one record of every invocation.
package observe

import (
	"context"
	"io"
	"strings"
	"sync"
	"time"

	"lambent"
)

// Bounds of what a record keeps of a request: records are held by the thousand.
const (
	maxPath  = 1 << 10
	maxTrace = 8 << 10
	maxText  = 2 << 10 // of an error's message and of its hint
	// maxMethod is more than any registered method has.
	maxMethod = 32
)

// Wrap gives an Invoker that hands a record of every call to each of sinks, once: when next has failed, or
// when the response's body has been closed. By then next has completed the invocation's outcome; Wrap only
// reads it. Sinks are called by whoever closes the body and must neither block nor change the record.
func Wrap(next lambent.Invoker, sinks ...func(*lambent.Record)) lambent.Invoker {
	return &invoker{next: next, sinks: sinks}
}

type invoker struct {
	next  lambent.Invoker
	sinks []func(*lambent.Record)
}

// Invoke implements [lambent.Invoker].
func (i *invoker) Invoke(ctx context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
	resp, err := i.next.Invoke(ctx, inv)
	if err != nil {
		i.record(inv, lambent.ErrorOf(err))
		return nil, err
	}
	if up, ok := resp.Body.(lambent.UpgradedBody); ok {
		resp.Body = &upgradedBody{body{ReadCloser: up, invoker: i, inv: inv}, up}
	} else {
		resp.Body = &body{ReadCloser: resp.Body, invoker: i, inv: inv}
	}
	return resp, nil
}

func (i *invoker) record(inv *lambent.Invocation, failure *lambent.Error) {
	out := &inv.Outcome
	r := &lambent.Record{
		ID:        inv.ID,
		Namespace: inv.Revision.Namespace,
		Function:  inv.Revision.Function,
		Alias:     inv.Alias,
		Revision:  inv.Revision.ID,
		Trigger:   inv.Trigger,
		Accepted:  inv.Accepted,
		Method:    strings.Clone(inv.Method[:min(len(inv.Method), maxMethod)]),
		Path:      path(inv.Target),
		Status:    out.Status,
		Error:     bounded(failure),
		Instance:  out.Instance,
		Attempt:   inv.Attempt,
		Cold:      out.Cold,
		BytesIn:   out.BytesIn,
		BytesOut:  out.BytesOut,
		CPU:       float64(out.CPU) / float64(time.Millisecond),
		Memory:    out.Memory,
		Phases:    out.Phases,
	}
	for _, sink := range i.sinks {
		sink(r)
	}
}

// path is target without its query. It is a copy where something was cut off, which it would keep in memory.
func path(target string) string {
	p, _, _ := strings.Cut(target, "?")
	p = p[:min(len(p), maxPath)]
	if len(p) != len(target) {
		p = strings.Clone(p)
	}
	return p
}

func bounded(e *lambent.Error) *lambent.Error {
	if e == nil || len(e.Trace) <= maxTrace && len(e.Message) <= maxText && len(e.Hint) <= maxText {
		return e
	}
	short := *e
	short.Trace = strings.Clone(e.Trace[max(0, len(e.Trace)-maxTrace):]) // the end says what was raised
	short.Message = strings.Clone(e.Message[:min(len(e.Message), maxText)])
	short.Hint = strings.Clone(e.Hint[:min(len(e.Hint), maxText)])
	return &short
}

// body makes the record when it is closed.
type body struct {
	io.ReadCloser
	invoker *invoker
	inv     *lambent.Invocation
	once    sync.Once
}

// Close closes the response's body the first time and does nothing later.
func (b *body) Close() (err error) {
	b.once.Do(func() {
		err = b.ReadCloser.Close()
		b.invoker.record(b.inv, b.inv.Outcome.Err)
	})
	return err
}

// upgradedBody is the body of a switched connection.
type upgradedBody struct {
	body
	up lambent.UpgradedBody
}

func (b *upgradedBody) Write(p []byte) (int, error) { return b.up.Write(p) }
func (b *upgradedBody) CloseWrite() error           { return b.up.CloseWrite() }
