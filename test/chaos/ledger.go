package main

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"lambent"
)

// ledger is the book of both sides: what clients sent and were told, and what functions say that they read and did.
type ledger struct {
	mu       sync.Mutex // guards what follows
	requests map[string]*request
	strange  []string       // what functions say of ids that nobody sent
	works    map[string]int // requests done, by instance
}

// request is one request, or one message of a WebSocket.
type request struct {
	id, function string
	sent         time.Time
	took         time.Duration // until the client knew how it ended, 0 while it does not
	failure      *failure      // nil when it was answered
	seen         []string      // the instances that found it waiting for them, and were about to read it
	read         []string      // those that have read it
	done         []string      // the instances that did it
}

// failure is how a client learns that its request failed.
type failure struct {
	fault    lambent.Fault // "" when the platform gave no reason
	code     lambent.Code
	text     string
	instance string // that had it, where its record tells
	crossed  bool   // it was under way when the daemon was killed
}

func newLedger() *ledger { return &ledger{requests: map[string]*request{}, works: map[string]int{}} }

func (l *ledger) send(id, function string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests[id] = &request{id: id, function: function, sent: time.Now()}
}

// end says how a request ended for the client; why is nil when it was answered.
func (l *ledger) end(id string, why *failure) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.requests[id]
	r.took, r.failure = max(time.Since(r.sent), 1), why
}

// see says that an instance is about to read a request.
func (l *ledger) see(id, instance string) {
	l.note(id, instance, func(r *request) {
		if len(r.seen) == 0 || r.seen[len(r.seen)-1] != instance { // it may look twice
			r.seen = append(r.seen, instance)
		}
	})
}

// read says that an instance has read a request.
func (l *ledger) read(id, instance string) {
	l.see(id, instance)
	l.note(id, instance, func(r *request) { r.read = append(r.read, instance) })
}

// work says that an instance has done a request.
func (l *ledger) work(id, instance string) {
	l.note(id, instance, func(r *request) {
		r.done = append(r.done, instance)
		l.works[instance]++
	})
}

func (l *ledger) note(id, instance string, f func(*request)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.requests[id]; r != nil {
		f(r)
		return
	}
	l.strange = append(l.strange, fmt.Sprintf("instance %s has %s", instance, id))
}

// served gives how many requests each instance has done so far.
func (l *ledger) served() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.works)
}

// odd is something that no request can account for.
func (l *ledger) odd(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.strange = append(l.strange, what)
}

// verdict is what the two sides of the book say together.
type verdict struct {
	sent, answered, done int
	excused              int // failed as they may
	unseen               int // of them, that no function says it had seen
	failed               int // failed as they may not
	lost                 int // answered but not done, or without any end
	doubled              int // read or done twice
	strange              int // read or done, but never sent
	kinds                map[string]*kind
	examples             []string // of what is wrong
}

// kind is the share of one function.
type kind struct {
	sent, answered, excused int
	times                   []float64 // of the answered, in ms
}

// cut gives the instances that had seen a request which was under way when the daemon was killed.
func (l *ledger) cut() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	busy := map[string]bool{}
	for _, r := range l.requests {
		if r.failure != nil && r.failure.crossed {
			for _, instance := range r.seen {
				busy[instance] = true
			}
		}
	}
	return busy
}

// maxExamples is how many of what is wrong are told in full.
const maxExamples = 8

// close compares the two sides. A failure counts unless excuse, nil for none, finds that it may be.
func (l *ledger) close(excuse func(*request) bool) *verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := &verdict{kinds: map[string]*kind{}, strange: len(l.strange), examples: l.strange[:min(len(l.strange), maxExamples)]}
	wrong := func(r *request, what string) {
		if len(v.examples) < maxExamples {
			v.examples = append(v.examples, r.describe(what))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(l.requests)) {
		r := l.requests[id]
		k := v.kinds[r.function]
		if k == nil {
			k = &kind{}
			v.kinds[r.function] = k
		}
		v.sent++
		k.sent++
		v.done += min(len(r.done), 1)
		switch {
		case r.took == 0:
			v.lost++
			wrong(r, "has no end")
		case r.failure == nil:
			v.answered++
			k.answered++
			k.times = append(k.times, float64(r.took)/float64(time.Millisecond))
			if len(r.done) == 0 {
				v.lost++
				wrong(r, "was answered but not done")
			}
		case excuse != nil && excuse(r):
			v.excused++
			k.excused++
			if len(r.seen) == 0 {
				v.unseen++
			}
		default:
			v.failed++
			wrong(r, "failed")
		}
		if len(r.read) > 1 || len(r.done) > 1 {
			v.doubled++
			wrong(r, "was given to a function twice")
		}
	}
	return v
}

func (r *request) describe(what string) string {
	text := fmt.Sprintf("%s of %s %s after %s: seen by %v, read by %v, done by %v", r.id, r.function, what, r.took.Round(time.Millisecond), r.seen, r.read, r.done)
	if r.failure != nil {
		text += fmt.Sprintf(": %s %s %s", r.failure.fault, r.failure.code, r.failure.text)
	}
	return text
}
