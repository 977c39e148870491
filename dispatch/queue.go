package dispatch

// waiter is a caller in the queue; granted gets exactly one value once it has left the queue other than
// by remove.
type waiter struct {
	invocation string
	granted    chan grant
	prev, next *waiter
	queued     bool
}

type grant struct {
	lease *lease
	err   error
}

// queue is a FIFO list of waiters that can leave from its middle.
type queue struct {
	head, tail *waiter
	n          int
}

func (q *queue) push(w *waiter) {
	w.queued, w.prev = true, q.tail
	if q.tail == nil {
		q.head = w
	} else {
		q.tail.next = w
	}
	q.tail = w
	q.n++
}

func (q *queue) pop() *waiter {
	w := q.head
	q.remove(w)
	return w
}

// remove takes w out and reports whether it was in.
func (q *queue) remove(w *waiter) bool {
	if !w.queued {
		return false
	}
	if w.prev == nil {
		q.head = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		q.tail = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next, w.queued = nil, nil, false
	q.n--
	return true
}
