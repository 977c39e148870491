package daemon

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"lambent/internal/drain"
)

// tellEvery is how often a node that stops says what it waits for.
const tellEvery = 5 * time.Second

// drain stops accepting, lets the calls under way end, and cuts what is left when their time is up, or there is a
// hurry. WebSockets and event streams have half of that time. The dispatcher closes last, so that no request is refused
// that was accepted before; what it still has then are switched connections, which their server does not wait for.
func (n *node) drain() {
	ctx, cut := context.WithCancel(context.Background())
	defer cut()
	n.dispatch.BeginDrain(n.cfg.Drain / 2)
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { n.watchDrain(cut, done) })
	var draining sync.WaitGroup
	for _, s := range n.servers {
		draining.Go(func() { s.Drain(ctx, drain.Options{Idle: n.cfg.Idle}) })
	}
	draining.Wait()
	if n.before != nil { // it serves with instances that end with this process, and passes requests on
		select {
		case <-n.before.gone:
		case <-ctx.Done():
		}
	}
	for _, s := range n.late {
		s.Close()
	}
	n.dispatch.Close(ctx)
	close(done)
	watching.Wait()
}

// watchDrain says what a drain waits for, and cuts it when its time is over.
func (n *node) watchDrain(cut func(), done <-chan struct{}) {
	n.cut = "nothing was lost"
	over := time.After(n.cfg.Drain)
	hurry := n.cfg.Hurry.Done()
	tell := time.NewTicker(tellEvery)
	defer tell.Stop()
	end := func(why string) {
		if over == nil {
			return
		}
		over = nil
		if left := n.underWay(); len(left) > 0 {
			n.cut = "cut " + list(left)
			n.log.Warn(why+": cutting what is under way", "what", list(left))
		}
		cut()
	}
	say := func(left []string) {
		n.log.Info("stopping: waiting for " + list(left) + "; Ctrl-C again ends at once")
	}
	if left := n.underWay(); len(left) > 0 {
		say(left)
	}
	for {
		select {
		case <-done:
			return
		case <-tell.C:
			left := n.underWay()
			if len(left) == 0 {
				left = []string{"instances to end"}
			}
			say(left)
		case <-over:
			end(fmt.Sprintf("the time to drain, %s, is over", n.cfg.Drain))
		case <-hurry:
			hurry = nil
			n.dispatch.Hurry()
			end("in a hurry")
		}
	}
}

// underWay says what has not ended: "3 requests of default/hello", "2 WebSockets of default/chat".
func (n *node) underWay() []string {
	requests := map[string]int{}
	for s := range n.dispatch.Stats() {
		requests[s.Revision.Namespace+"/"+s.Revision.Function] += s.InFlight + s.Waiting
	}
	var left []string
	count := func(number int, what, of string) {
		switch {
		case number == 1:
			left = append(left, "1 "+what+" "+of)
		case number > 1:
			left = append(left, fmt.Sprintf("%d %ss %s", number, what, of))
		}
	}
	for _, o := range n.open.Open() {
		name := o.Namespace + "/" + o.Function
		requests[name] -= o.WebSockets + o.EventStreams
		count(o.WebSockets, "WebSocket", "of "+name)
		count(o.EventStreams, "event stream", "of "+name)
	}
	for name, number := range requests {
		count(number, "request", "of "+name)
	}
	slices.SortFunc(left, func(a, b string) int { // by function
		return cmp.Compare(a[strings.LastIndexByte(a, ' '):], b[strings.LastIndexByte(b, ' '):])
	})
	busy, _ := n.servers[1].Left()
	count(busy, "request", "to the control API")
	return left
}

// list names at most a few.
func list(what []string) string {
	const most = 10
	if more := len(what) - most; more > 0 {
		what = append(slices.Clip(what[:most]), fmt.Sprintf("%d more", more))
	}
	return strings.Join(what, ", ")
}
