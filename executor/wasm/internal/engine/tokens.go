package engine

import "sync"

// turns is how many calls that are new may go before one that has had a turn while both wait.
const turns = 4

// tokens are the right to run guest code, one for each core. Calls that have run for less than a tick go before those that
// have run longer, which still get each fifth turn.
type tokens struct {
	mu     sync.Mutex
	free   []int
	fresh  line
	turned line
	streak int // fresh calls served in a row while a turned one waited
}

// waiter is a call in a line.
type waiter struct {
	ready      chan int // gets the token; has room for it
	prev, next *waiter
	in         *line // nil: in none
}

// line is a queue that can be left from the middle.
type line struct{ head, tail *waiter }

func (l *line) push(w *waiter) {
	w.in, w.prev, w.next = l, l.tail, nil
	if l.tail == nil {
		l.head = w
	} else {
		l.tail.next = w
	}
	l.tail = w
}

func (l *line) remove(w *waiter) {
	if w.prev == nil {
		l.head = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.tail = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.in, w.prev, w.next = nil, nil, nil
}

func newTokens(n int) *tokens {
	t := &tokens{}
	for i := range n {
		t.free = append(t.free, i)
	}
	return t
}

// get takes a token if there is one; otherwise w waits in its line.
func (t *tokens) get(w *waiter, turned bool) (token int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.free); n > 0 {
		token, t.free = t.free[n-1], t.free[:n-1]
		return token, true
	}
	t.enqueue(w, turned)
	return 0, false
}

func (t *tokens) enqueue(w *waiter, turned bool) {
	if w.ready == nil {
		w.ready = make(chan int, 1)
	}
	if turned {
		t.turned.push(w)
	} else {
		t.fresh.push(w)
	}
}

// put gives a token back.
func (t *tokens) put(token int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.pass(token) {
		t.free = append(t.free, token)
	}
}

// turn passes the token on if anybody waits, and then w waits.
func (t *tokens) turn(w *waiter, token int) (passed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if passed = t.pass(token); passed {
		t.enqueue(w, true)
	}
	return passed
}

// leave takes w out of its line. It may have got a token just before.
func (t *tokens) leave(w *waiter) (token int, got bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.in != nil {
		w.in.remove(w)
		return 0, false
	}
	return <-w.ready, true
}

// pass gives the token to the next in line. t.mu must be held.
func (t *tokens) pass(token int) bool {
	next := t.fresh.head
	if waits := t.turned.head; waits != nil {
		if next == nil || t.streak >= turns {
			next, t.streak = waits, 0
		} else {
			t.streak++
		}
	}
	if next == nil {
		return false
	}
	next.in.remove(next)
	next.ready <- token
	return true
}
