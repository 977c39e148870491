package daemon

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"sync"

	"lambent/control"
	"lambent/gateway/route"
	"lambent/store"
)

// feed is a kind of record that this node keeps a view of in memory: it reads an event and gives what it does to the
// view. Reading may run at the same time for many events, what it gives runs in their order.
type feed func(store.Event) (apply func())

// watch keeps the route table and the keys up to date with the store; it returns when they are complete.
func (n *node) watch(ctx context.Context) error {
	wctx, cancel := context.WithCancel(context.Background())
	n.unwatch = cancel
	feeds := map[string]feed{control.FunctionPrefix: n.function, control.AliasPrefix: n.alias, control.RoutePrefix: n.route, control.KeyPrefix: n.apiKey}
	synced := make(chan error, 2*len(feeds)) // the ends of the watches too, which nobody reads
	n.progress = map[string]*route.Progress{}
	for prefix, read := range feeds {
		progress := route.NewProgress()
		n.progress[prefix] = progress
		n.watching.Go(func() {
			err := n.follow(wctx, prefix, read, progress, func() { synced <- nil })
			if wctx.Err() == nil {
				n.log.Error("a watch of the store ended: its changes are not seen any more", "keys", prefix, "err", err)
			}
			synced <- err
		})
	}
	for range feeds {
		select {
		case err := <-synced:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// follow applies the events of a prefix until the watch ends. What is there at first is read by all
// processors: with very many functions it is most of what a start does.
func (n *node) follow(ctx context.Context, prefix string, read feed, progress *route.Progress, synced func()) error {
	var first []store.Event
	complete := false
	for ev, err := range n.store.Watch(ctx, prefix) {
		switch {
		case err != nil:
			return err
		case ev.Synced:
			for _, apply := range readAll(first, read) {
				apply()
			}
			n.routes.Publish()
			if len(first) > 0 {
				progress.Applied(first[len(first)-1].Revision)
			}
			first, complete = nil, true
			synced()
		case complete:
			read(ev)()
			n.routes.Publish()
			progress.Applied(ev.Revision)
		default:
			first = append(first, ev)
		}
	}
	return ctx.Err()
}

func readAll(events []store.Event, read feed) []func() {
	applies := make([]func(), len(events))
	var wg sync.WaitGroup
	share := max(1, (len(events)+runtime.NumCPU()-1)/runtime.NumCPU())
	done := applies
	for part := range slices.Chunk(events, share) {
		mine := done[:len(part)]
		done = done[len(part):]
		wg.Go(func() {
			for i, ev := range part {
				mine[i] = read(ev)
			}
		})
	}
	wg.Wait()
	return applies
}

// applied returns when this node acts by what key holds at revision.
func (n *node) applied(ctx context.Context, key string, revision uint64) error {
	kind, _, _ := strings.Cut(key, ".")
	return n.progress[kind+"."].Wait(ctx, revision)
}

func (n *node) function(ev store.Event) (apply func()) {
	if ev.Deleted {
		namespace, name, _ := control.FunctionName(ev.Key)
		return func() {
			n.retire(n.table.Delete(namespace, name))
			n.metrics.Forget(namespace, name)
		}
	}
	f, err := control.DecodeFunction(ev.Entry)
	if err != nil {
		return func() { n.log.Error("a function is left out", "err", err) }
	}
	return func() { n.retire(n.table.Set(f)) }
}

func (n *node) alias(ev store.Event) (apply func()) {
	if ev.Deleted {
		namespace, name, alias, _ := control.AliasName(ev.Key)
		return func() { n.retire(n.table.DeleteAlias(namespace, name, alias)) }
	}
	a, err := control.DecodeAlias(ev.Entry)
	if err != nil {
		return func() { n.log.Error("an alias is left out", "err", err) }
	}
	return func() { n.retire(n.table.SetAlias(a)) }
}

func (n *node) route(ev store.Event) (apply func()) {
	if ev.Deleted {
		namespace, name, _ := control.RouteName(ev.Key)
		return func() { n.routes.Delete(namespace, name) }
	}
	r, err := control.DecodeRoute(ev.Entry)
	return func() {
		if err == nil {
			err = n.routes.Set(r)
		}
		if err != nil {
			n.log.Error("a route is left out", "err", err)
		}
	}
}

func (n *node) apiKey(ev store.Event) (apply func()) {
	namespace, name := control.KeyName(ev.Key)
	if ev.Deleted {
		return func() { n.keys.Delete(namespace, name) }
	}
	k, sum, err := control.DecodeKey(ev.Entry)
	if err != nil {
		return func() {
			n.keys.Delete(namespace, name) // what it was before it was damaged is over, too
			n.log.Error("an API key is left out", "err", err)
		}
	}
	return func() { n.keys.Set(k.Principal(), sum) }
}
