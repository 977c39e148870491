package daemon

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"lambent"
)

// door leads requests to a handler that may become another while they come. While there is none they wait.
type door struct {
	to   atomic.Pointer[passage]
	left chan struct{} // gets something when a request has left; nil where nobody waits for those inside

	mu     sync.Mutex // guards inside
	inside map[*http.Request]struct{}
}

type passage struct {
	handler http.Handler  // nil while requests wait
	opened  chan struct{} // closed when they do not any more
}

// watched is a door that knows who is inside.
func watched() *door {
	return &door{left: make(chan struct{}, 1), inside: map[*http.Request]struct{}{}}
}

// hold makes requests wait from now on, but for those inside.
func (d *door) hold() { d.to.Store(&passage{opened: make(chan struct{})}) }

// lead leads them to h.
func (d *door) lead(h http.Handler) {
	if was := d.to.Swap(&passage{handler: h}); was != nil && was.handler == nil {
		close(was.opened)
	}
}

// ServeHTTP implements [http.Handler]. A request is inside before it looks where the door leads, so that none is
// overlooked by who holds the door and then waits for those inside.
func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for {
		d.enter(r)
		p := d.to.Load()
		if p.handler != nil {
			defer d.leave(r)
			p.handler.ServeHTTP(w, r)
			return
		}
		d.leave(r)
		select {
		case <-p.opened:
		case <-r.Context().Done(): // he may still read: a connection can end in one direction
			lambent.WriteError(w, lambent.Errorf(lambent.CodeShuttingDown, "this node is being upgraded, and the request was not waited for").
				WithHint("send the request again: nothing was done"))
			return
		}
	}
}

func (d *door) enter(r *http.Request) {
	if d.left == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inside[r] = struct{}{}
}

func (d *door) leave(r *http.Request) {
	if d.left == nil {
		return
	}
	d.mu.Lock()
	delete(d.inside, r)
	d.mu.Unlock()
	select {
	case d.left <- struct{}{}:
	default:
	}
}

// idle returns when nobody is inside. When ctx ends before, it gives who is: "PUT /v1/...".
func (d *door) idle(ctx context.Context) []string {
	for {
		var inside []string
		d.mu.Lock()
		for r := range d.inside {
			inside = append(inside, r.Method+" "+r.URL.Path)
		}
		d.mu.Unlock()
		if len(inside) == 0 {
			return nil
		}
		select {
		case <-d.left:
		case <-ctx.Done():
			slices.Sort(inside)
			return inside
		}
	}
}
